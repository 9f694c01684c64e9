"""A small scan of a six-atom crystal, whose exposure runs keep by images: events with known truth.

Central and weaker transverse springs hold it together; no claim to be a tin oxide's constants.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from consumers.fold import ChunkStart, ChunkStop, EventBlock, Message
from simulations.crystal import Crystal
from simulations.crystal.placement import crystal_from_cells
from simulations.dynamics import force_constant_model
from simulations.dynamics.bonds import neighbour_bonds
from simulations.fold import Form, build_voxel_map, form_for
from simulations.instrument import Orientation
from simulations.prior import BoxPrior
from simulations.reciprocal import EnergyAxis, Path
from steering.experiment import Measurement
from tests.steering.virtual_scan import known_set_up, small_experiment, small_measurement

PSI_DEG = (8.0, 37.0, 66.0)
COUNTS = 20_000.0  # one-phonon, of a chunk in the mean
BACKGROUND = 0.3  # of them, flat in time of flight
AXIS = EnergyAxis(edges_meV=np.linspace(0, 39, 27), substeps=4)
CUTOFF_A = 3.3
SPRING_EV_A2 = 2.0  # of a bond of 2 angstrom


def rutile() -> Crystal:
    lattice = np.diag([4.737, 4.737, 3.186])
    u, half = 0.307, 0.5
    metal = [(0, 0, 0), (half, half, half)]
    oxygen = [(u, u, 0), (1 - u, 1 - u, 0), (half + u, half - u, half), (half - u, half + u, half)]
    return crystal_from_cells(
        lattice, np.array([*metal, *oxygen]), ("Sn",) * 2 + ("O",) * 4, lattice
    )


@cache
def rutile_measurement(form: Form | None = None) -> Measurement:
    """Rutile on the path and with the instrument of the small germanium scan; form as runs do."""
    crystal = rutile()
    bonds = neighbour_bonds(crystal, CUTOFF_A)
    along = bonds.vectors / bonds.lengths[:, None]
    spring = SPRING_EV_A2 * np.exp(2.0 - bonds.lengths)[:, None, None]
    tensors = -spring * (0.85 * along[:, :, None] * along[:, None, :] + 0.15 * np.eye(3))
    model = force_constant_model(crystal, replace(bonds, tensors=tensors), None)
    largest = np.argsort(-np.abs(model.element_values))[:3]
    model = model.with_free(tuple(model.elements[k] for k in sorted(largest)))
    half = 0.3 * np.abs(model.values)
    experiment = known_set_up(small_experiment())
    path = Path(
        start_hkl=np.array([[0.0, 0, 0], [0, 0, 0]]),
        end_hkl=np.array([[0.5, 0.0, 0], [0, 0, 0.5]]),
        labels=(("Gamma", "X"), ("Gamma", "Z")),
        bins=(5, 4),
    )
    section = experiment.path.model_copy(
        update={
            "voxel_rlu": 0.05,
        }
    )
    return replace(
        small_measurement(),
        experiment=experiment.model_copy(update={"path": section}),
        energy=AXIS,
        crystal=crystal,
        model=model,
        box=BoxPrior(names=model.names, lower=model.values - half, upper=model.values + half),
        path=path,
        voxels=build_voxel_map(
            crystal, path, half_width_rlu=section.half_width_rlu, voxel_rlu=section.voxel_rlu
        ),
        orientation=Orientation(u=(1, 0, 0), v=(0, 0, 1)),
        form=form or form_for(crystal),
    )


@cache
def rutile_messages() -> tuple[Message, ...]:
    """Events drawn from the exact rates, which take no exposure, anywhere in their cells."""
    measurement = rutile_measurement()
    rng = np.random.default_rng(3)
    state = measurement.exact.prepare(measurement.model.values)
    phonons, flats = [], []
    for psi in PSI_DEG:
        rate, _ = measurement.exact.rates(measurement.trajectories(psi), state, gradient=False)
        _, flat = measurement.geometry.path_sums(measurement.exposure(psi))
        rate[:, measurement.energy.centres_meV < measurement.elastic_cut_meV] = 0
        phonons.append(rate)
        flats.append(flat)
    scale = COUNTS / np.mean([rate.sum() for rate in phonons])
    background = BACKGROUND * COUNTS / np.mean([flat.sum() for flat in flats])
    payloads = []
    for k, psi in enumerate(PSI_DEG):
        expected = scale * phonons[k] + background * flats[k]
        pixel, energy = events_of(measurement, psi, rng.poisson(expected), rng)
        name = str(k)
        payloads += [
            ChunkStart(
                chunk=name,
                instrument_name="ARCS",
                ei_meV=measurement.ei_meV,
                psi_deg=psi,
                start_time_ns=k + 1,
            ),
            EventBlock(chunk=name, pixel=pixel, energy_transfer_meV=energy),
            ChunkStop(chunk=name, proton_charge=1.0, minutes=1.0, read=len(pixel), filtered=0),
        ]
    return tuple(
        Message(run="rutile", source="test", sequence=i, payload=p) for i, p in enumerate(payloads)
    )


def events_of(measurement: Measurement, psi_deg: float, counts, rng):
    """Pixels and energies of so many events per cell, (path_bins, energy_bins)."""
    view, voxels = measurement.geometry.view(psi_deg, measurement.instrument), measurement.voxels
    q = view.beam_fractional - view.kf[None, :, None] * view.fractional[:, None, :]
    n = voxels.divisions
    point = np.minimum((q % 1.0) * n + 0.5, n - 0.25).astype(int) % n
    point = np.where((q % 1.0) * n + 0.5 >= n, 0, point)
    voxel = voxels.voxel[tuple(np.moveaxis(point, -1, 0))]
    seen = np.argwhere((voxel >= 0) & ~view.masked[:, None])
    cell = voxels.path_bin[voxel[tuple(seen.T)]] * counts.shape[1] + view.bin_of_step[seen[:, 1]]
    seen = seen[np.argsort(cell, kind="stable")]
    start = np.searchsorted(np.sort(cell), np.arange(counts.size + 1))
    wanted = np.repeat(np.arange(counts.size), counts.ravel())
    size = start[wanted + 1] - start[wanted]
    chosen = seen[start[wanted] + (rng.random(len(wanted)) * size).astype(int)]
    middle = 0.5 * (view.step_edges_meV[1:] + view.step_edges_meV[:-1])
    return chosen[:, 0].astype(np.int32), middle[chosen[:, 1]]
