"""What interferes, from springs, at the energies of a density of states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_server.direct import load_spring_bundle
from simulations.constants import BOLTZMANN_MEV_PER_K
from simulations.scattering import powder_spectrum
from steering.predict import Vibrations, optics, powder_map, stable, vibrations_of
from steering.predict.incoherent_powder import INCOHERENT
from steering.predict.interference import (
    INTERFERING,
    MOST_ATOMS,
    interfering_powder,
    powder_parts,
    spring_model,
)

MOMENTUM = np.linspace(0.5, 8.0, 31)  # 1/angstrom
ENERGY = np.linspace(1.0, 41.0, 41)  # meV
SETTING = {"temperature_K": 100.0, "sigma_of": lambda energy: np.full(np.shape(energy), 1.0)}


@pytest.fixture(scope="module")
def germanium() -> Vibrations:
    return vibrations_of("germanium", "given")


def apart(one, other):
    """Half the sum of absolute differences of two maps of the same sum, over that sum."""
    return 0.5 * np.abs(one / one.sum() - other / other.sum()).sum()


def test_true_springs_at_their_own_energies_give_the_coherent_map(germanium):
    found = interfering_powder(
        germanium.model, germanium.dos, MOMENTUM, ENERGY, step_inverse_A=0.1, **SETTING
    )
    expected = powder_spectrum(
        germanium.model, MOMENTUM, ENERGY, temperature_K=100.0, resolution=1.0, tolerance=0.02
    ).intensity
    assert found.sum() == pytest.approx(expected.sum(), rel=0.03)  # barn/meV/sr
    assert apart(found, expected) < 0.04
    # and what interferes is no small part of it
    parts, note = powder_parts(
        replace(germanium, model=None), MOMENTUM, ENERGY, ei_meV=1e6, max_order=1, **SETTING
    )
    assert note == INCOHERENT
    assert apart(parts.coherent, expected) > 0.1


def test_branches_go_where_the_density_of_states_has_them(germanium):
    wider = replace(
        germanium.dos,
        energy_edges_meV=1.25 * germanium.dos.energy_edges_meV,
        partial=germanium.dos.partial / 1.25,
        tensors=None,
    )

    def middle(dos):
        found = interfering_powder(
            germanium.model, dos, MOMENTUM, np.linspace(30.0, 50.0, 81), **SETTING
        )
        energies = np.linspace(30.125, 49.875, 80)
        return energies[np.argmax(found.sum(axis=0))]

    assert middle(wider) == pytest.approx(1.25 * middle(germanium.dos), abs=0.5)


def test_gain_and_loss_are_in_balance(germanium):
    axis = np.linspace(-40.0, 40.0, 81)
    found = interfering_powder(
        germanium.model, germanium.dos, MOMENTUM, axis, temperature_K=300.0,
        sigma_of=lambda energy: np.full(np.shape(energy), 0.05),
    )  # fmt: skip
    loss, gain = found[:, 41:].sum(axis=0), found[:, :40].sum(axis=0)[::-1][1:]
    loss = loss[: len(gain)]
    centre = axis[41:-1][: len(gain)] + 0.5
    strong = loss > 0.05 * loss.max()
    np.testing.assert_allclose(
        gain[strong] / loss[strong],
        np.exp(-centre[strong] / (BOLTZMANN_MEV_PER_K * 300.0)),
        rtol=0.03,
    )


def stiffness_of(found: Vibrations):
    """A third of the trace of on-site constants, eV/angstrom^2."""
    return np.trace(found.model.reference.onsite(), axis1=1, axis2=2) / 3


@pytest.mark.parametrize("name", ["germanium", "niobium", "aluminium"])
def test_springs_hold_each_site_as_they_should(name):
    found = vibrations_of(name)
    wanted = 1.3 * stiffness_of(found)
    model = spring_model(found.crystal, wanted, load_spring_bundle())
    np.testing.assert_allclose(
        np.trace(model.reference.onsite(), axis1=1, axis2=2) / 3, wanted, rtol=1e-3
    )
    at_rest = np.linalg.eigvalsh(model.dynamical_matrices(np.zeros((1, 3))))[0]
    np.testing.assert_allclose(np.sort(np.abs(at_rest))[:3], 0.0, atol=1e-6)


def test_springs_that_do_not_hold_a_site_are_not_taken():
    found = vibrations_of("MnO")  # hardly any magnetic crystal is in the database
    sites = stiffness_of(found)
    assert spring_model(found.crystal, sites, load_spring_bundle()) is None
    known = replace(found, model=None, stiffness=sites)
    _, note = powder_parts(known, MOMENTUM, ENERGY, ei_meV=1e6, max_order=1, **SETTING)
    assert "do not hold every site" in note


def test_atoms_far_apart_have_no_springs(germanium):
    wide = replace(
        germanium.crystal,
        lattice=3.0 * germanium.crystal.lattice,
        conventional_lattice=3.0 * germanium.crystal.conventional_lattice,
    )
    assert spring_model(wide, np.array([10.0, 10.0]), load_spring_bundle()) is None


def test_predicted_springs_come_nearer_to_what_interferes(germanium):
    expected = powder_spectrum(
        germanium.model, MOMENTUM, ENERGY, temperature_K=100.0, resolution=1.0, tolerance=0.02
    ).intensity
    known = replace(germanium, model=None, stiffness=stiffness_of(germanium))
    found, note = powder_parts(known, MOMENTUM, ENERGY, ei_meV=1e6, max_order=1, **SETTING)
    assert note == INTERFERING
    alone, _ = powder_parts(
        replace(known, stiffness=None), MOMENTUM, ENERGY, ei_meV=1e6, max_order=1, **SETTING
    )
    assert apart(found.coherent, expected) < 0.6 * apart(alone.coherent, expected)


def test_of_larger_cells_half_of_what_springs_change_is_believed(germanium):
    """The same crystal with eight atoms in its cell."""
    crystal = germanium.crystal
    cube = replace(
        crystal,
        lattice=crystal.conventional_lattice,
        positions=np.concatenate(
            [crystal.positions @ crystal.lattice @ np.linalg.inv(crystal.conventional_lattice) + t
             for t in np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])]
        ) % 1.0,
        symbols=("Ge",) * 8,
        masses_u=np.repeat(crystal.masses_u[:1], 8),
        scattering_length=np.repeat(crystal.scattering_length[:1], 8),
        incoherent_barn=np.repeat(crystal.incoherent_barn[:1], 8),
    )  # fmt: skip
    dos = replace(
        germanium.dos, partial=np.repeat(germanium.dos.partial[:1], 8, axis=0), tensors=None,
        alike=None,
    )  # fmt: skip
    known = replace(germanium, crystal=cube, dos=dos, model=None,
                    stiffness=np.repeat(stiffness_of(germanium)[:1], 8))  # fmt: skip
    found, note = powder_parts(known, MOMENTUM, ENERGY, ei_meV=1e6, max_order=1, **SETTING)
    assert note == INTERFERING
    alone, _ = powder_parts(
        replace(known, stiffness=None), MOMENTUM, ENERGY, ei_meV=1e6, max_order=1, **SETTING
    )
    springs = spring_model(cube, known.stiffness, load_spring_bundle())
    whole = interfering_powder(springs, dos, MOMENTUM, ENERGY, **SETTING)
    np.testing.assert_allclose(found.coherent, 0.5 * (whole + alone.coherent), rtol=1e-9)


def test_the_direct_route_says_what_its_map_is_made_of():
    direct = stable(vibrations_of("germanium", "direct"))
    shown = powder_map(direct, optics(60.0), temperature_K=100.0)
    assert INTERFERING in shown.setting.approximations
    alone = powder_map(replace(direct, stiffness=None), optics(60.0), temperature_K=100.0)
    assert INCOHERENT in alone.setting.approximations


def test_a_large_cell_counts_as_incoherent(germanium):
    crystal = germanium.crystal
    many = MOST_ATOMS // crystal.n_atoms + 1
    lattice = crystal.lattice * np.array([[many], [1], [1]])
    cell = np.repeat(np.arange(many), crystal.n_atoms)
    positions = np.tile(crystal.positions, (many, 1))
    positions[:, 0] = (positions[:, 0] + cell) / many
    from simulations.crystal.placement import crystal_from_cells

    large = crystal_from_cells(lattice, positions, ("Ge",) * len(positions), lattice)
    dos = replace(
        germanium.dos, partial=np.tile(germanium.dos.partial, (many, 1)), tensors=None,
        alike=np.zeros(len(positions), dtype=np.int64),
    )  # fmt: skip
    found = replace(
        germanium, crystal=large, dos=dos, model=None, stiffness=np.full(len(positions), 10.0)
    )
    _, note = powder_parts(found, MOMENTUM, ENERGY, ei_meV=1e6, max_order=1, **SETTING)
    assert note == INCOHERENT


def test_a_skewed_cell_scatters_as_the_short_one_does(germanium):
    """Found where a supercell's vectors were combined without need."""
    crystal = germanium.crystal
    whole = np.array([[1, 0, 0], [3, 1, 0], [0, -2, 1]])
    long = replace(
        crystal,
        lattice=whole @ crystal.lattice,
        positions=crystal.positions @ np.linalg.inv(whole),
    )
    known = replace(germanium, model=None, stiffness=stiffness_of(germanium))
    there, here = (
        powder_parts(
            replace(known, crystal=one), MOMENTUM, ENERGY, ei_meV=1e6, max_order=1, **SETTING
        )[0]
        for one in (long, crystal)
    )
    moved = np.abs(there.coherent - here.coherent).sum() / here.coherent.sum()
    assert moved < 0.01
