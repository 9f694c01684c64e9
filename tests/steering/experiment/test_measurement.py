"""An experiment file becomes crystal, path, instrument, prior and model, or says why not."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from scipy import constants
from structlog.testing import capture_logs

from consumers.fold.folding import fold_events
from simulations.crystal import read_crystal
from simulations.dynamics import modes
from simulations.fold.exposure import unpack_tensor
from simulations.instrument import InstrumentSection, load_instrument
from simulations.instrument.choice import ChopperSetting
from simulations.instrument.pixel_table_file import write_pixel_table
from simulations.likelihood import bytes_per_point
from simulations.likelihood.inversion import Inversion
from simulations.prior import load_prior
from simulations.virtual.lattice import build_lattice
from steering.experiment import Experiment, build_measurement, chosen_instrument, load_experiment
from steering.experiment.fingerprint_file import fingerprint_of
from steering.experiment.measurement import _sample, build_path
from tests.steering.virtual_scan import EXAMPLES, FREE, small_experiment, small_measurement


def changed(section: str, **changes) -> Experiment:
    experiment = small_experiment()
    part = getattr(experiment, section).model_copy(update=changes)
    return experiment.model_copy(update={section: part})


def test_parts_agree_with_the_file():
    measurement = small_measurement()
    assert measurement.model.names == measurement.box.names == measurement.prior.names == FREE
    assert measurement.path.n_bins == 18
    assert measurement.energy.n_bins == 52
    assert measurement.voxels.n_path_bins == 18
    assert measurement.instrument.name == "ARCS/16"
    assert measurement.ei_meV == 40.0
    inside = (measurement.box.lower <= measurement.model.values) & (
        measurement.model.values <= measurement.box.upper
    )
    assert inside.all()  # the reference lies in the stored prior's box
    np.testing.assert_allclose(
        measurement.prior.mean, 0.5 * (measurement.box.lower + measurement.box.upper)
    )


def test_the_prior_is_the_stored_box_of_the_free_parameters():
    stored = load_prior("germanium").restricted(FREE)
    box = small_measurement().box
    np.testing.assert_array_equal(box.lower, stored.lower)
    np.testing.assert_array_equal(box.upper, stored.upper)


def test_a_number_of_free_parameters_chooses_as_many():
    measurement = build_measurement(changed("parameters", free=5), EXAMPLES)
    assert len(measurement.model.names) == 5
    assert len(set(measurement.model.names)) == 5


def test_without_a_prior_the_box_lies_around_the_reference():
    measurement = build_measurement(changed("parameters", prior=None), EXAMPLES)
    values = measurement.model.values
    np.testing.assert_allclose(0.5 * (measurement.box.lower + measurement.box.upper), values)
    large = np.abs(values) > 0.5
    np.testing.assert_allclose(
        (measurement.box.upper - measurement.box.lower)[large], np.abs(values)[large]
    )


def test_the_offset_of_the_mount_is_added_to_psi():
    plain = small_measurement()
    offset = build_measurement(changed("sample", psi_offset_deg=12.0), EXAMPLES)
    np.testing.assert_allclose(
        offset.geometry.rotation(20.0), plain.geometry.rotation(32.0), atol=1e-12
    )
    assert np.abs(plain.geometry.rotation(20.0) - plain.geometry.rotation(32.0)).max() > 0.1


def test_path_sums_are_those_of_the_exposure_padded_to_the_axis():
    measurement = small_measurement()
    exposure = measurement.exposure(40.0)
    weight, flat = measurement.geometry.path_sums(exposure)
    assert weight.shape == flat.shape == (18, 52)
    assert weight.sum() == pytest.approx(exposure.weight.sum(), rel=1e-12)
    assert flat.sum() == pytest.approx(exposure.moments.flat.sum(), rel=1e-12)


def _exposure_by_definition(ei_meV: float, psi_deg: float):
    """D of the small measurement from definitions alone, (path bins, energy bins)."""
    measurement = small_measurement()
    instrument, voxels = measurement.instrument, measurement.voxels
    edges = np.linspace(0.0, 39.0, 4 * 52 + 1)
    edges = edges[edges < ei_meV]
    energy = 0.5 * (edges[1:] + edges[:-1])

    def wave_number(E_meV):
        p = np.sqrt(2 * constants.neutron_mass * E_meV * 1e-3 * constants.elementary_charge)
        return p / constants.hbar * 1e-10

    turn = np.radians(psi_deg)
    u, v = np.array([1, 1, 0]) / np.sqrt(2), np.array([0, 0, 1])  # cubic: along z and x
    beam = np.cos(turn) * u - np.sin(turn) * v  # a right-handed turn about y carries z into x
    side = np.sin(turn) * u + np.cos(turn) * v
    lab = np.stack([side, np.cross(u, v), beam])  # rows x, y, z in the crystal's frame
    away = instrument.position_m / np.linalg.norm(instrument.position_m, axis=1)[:, None]
    ki, kf = wave_number(ei_meV), wave_number(ei_meV - energy)
    Q = ki * beam - kf[:, None] * (away @ lab)[:, None]  # (pixels, steps, 3)
    reduced = Q @ measurement.crystal.lattice.T / (2 * np.pi)
    at = np.rint(reduced * voxels.divisions).astype(int) % voxels.divisions
    voxel = voxels.voxel[tuple(np.moveaxis(at, -1, 0))]
    weight = instrument.solid_angle_sr[:, None] * np.diff(edges) * kf / ki
    seen = (voxel >= 0) & ~instrument.masked[:, None]
    D = np.zeros((18, 52))
    step = np.broadcast_to(np.arange(len(energy)) // 4, seen.shape)
    np.add.at(D, (voxels.path_bin[voxel[seen]], step[seen]), weight[seen])
    return D


@pytest.mark.parametrize("ei_meV", [40.0, 25.0])
def test_exposure_at_any_incident_energy_is_that_of_brute_force(ei_meV):
    measurement = small_measurement()
    found, _ = measurement.geometry.path_sums(measurement.exposure(37.3, ei_meV=ei_meV))
    allowed = measurement.energy.edges_meV[1:] <= ei_meV * (1 - 0.15**2)
    assert not found[:, ~allowed].any()
    assert (found[:, allowed] > 0).mean() > 0.8
    expected = _exposure_by_definition(ei_meV, 37.3) * allowed
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * expected.max())
    counts = np.zeros((18, 52), dtype=np.int64)
    pixel = np.repeat(np.arange(measurement.instrument.n_pixels, dtype=np.int32), 60)
    energy = np.random.default_rng(1).uniform(0, ei_meV, len(pixel))
    sight = measurement.geometry.sight(37.3, measurement.instrument, ei_meV=ei_meV)
    fold_events(
        pixel,
        energy,
        view=sight.view,
        voxels=measurement.voxels,
        counts=counts,
        crossings=sight.crossings,
    )
    assert counts.sum() > 10_000
    assert not counts[found == 0].any()


def test_the_elastic_cut_is_five_widths_of_the_elastic_line():
    measurement = small_measurement()
    width = measurement.instrument.resolution.sigma_meV(np.zeros(1), 40.0)[0]
    assert measurement.elastic_cut_meV == pytest.approx(5 * width)


def test_displacements_of_cold_germanium_are_those_of_its_literature():
    # U = B / 8 pi^2; B of germanium near 0 K is 0.14-0.2 angstrom^2 (zero-point motion)
    U = small_measurement().displacement
    assert U.shape == (2, 3, 3)
    np.testing.assert_allclose(U[0], U[0, 0, 0] * np.eye(3), atol=1e-8)
    assert 0.0015 < U[0, 0, 0] < 0.0027


def test_a_chopper_setting_gives_its_fitted_resolution():
    experiment = changed("instrument", chopper=ChopperSetting(package="FC2", frequency_Hz=420.0))
    sigma = chosen_instrument(experiment).resolution.sigma_meV(np.array([0.0, 30.0]), 40.0)
    own = chosen_instrument(small_experiment()).resolution.sigma_meV(np.zeros(1), 40.0)
    assert sigma[0] != own[0]
    assert 0.2 < sigma[1] / sigma[0] < 0.8  # narrower where neutrons have lost energy
    with pytest.raises(ValueError, match="resolution and chopper are both given"):
        InstrumentSection(
            name="ARCS",
            ei_meV=40.0,
            resolution=(0.04,),
            chopper=ChopperSetting(package="FC2", frequency_Hz=420.0),
        )


@pytest.mark.parametrize("masked_by", ["coarsen", "mask"])
def test_an_instrument_without_a_live_pixel_is_refused(masked_by, tmp_path):
    experiment = changed("instrument", coarsen=64)  # a tube's dead ends are in every such pixel
    if masked_by == "mask":
        ids = small_measurement().instrument.detector_id
        (tmp_path / "dead.txt").write_text(f"0-{ids.max() + 64}\n")
        experiment = changed("instrument", mask=str(tmp_path / "dead.txt"))
    with pytest.raises(ValueError, match="pixels are masked; expected some that count") as told:
        build_measurement(experiment, EXAMPLES)
    assert ("correct instrument.mask" in str(told.value)) == (masked_by == "mask")


def test_mask_and_vanadium_files_lie_beside_the_experiment(tmp_path):
    whole = small_measurement().instrument
    dead, strong, usual = np.flatnonzero(~whole.masked)[[40, 50, 51]]
    (tmp_path / "dead.txt").write_text(f"{whole.detector_id[dead]}\n", encoding="utf-8")
    rows = [f"{d} {2.0 if k == strong else 1.0} 0.01" for k, d in enumerate(whole.detector_id)]
    (tmp_path / "vanadium.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    experiment = changed("instrument", mask="dead.txt", vanadium="vanadium.txt")
    instrument = chosen_instrument(experiment, tmp_path)
    assert instrument.masked[dead]
    assert instrument.solid_angle_sr[strong] == pytest.approx(2 * instrument.solid_angle_sr[usual])
    with pytest.raises(ValueError, match="missing.txt"):
        chosen_instrument(changed("instrument", mask="missing.txt"), tmp_path)


def test_a_structure_without_force_constants_takes_those_of_its_prior_file(tmp_path):
    crystal = read_crystal("aluminium")
    rows = "\n".join(" ".join(str(x) for x in row) for row in crystal.lattice)
    (tmp_path / "POSCAR").write_text(f"Al\n1.0\n{rows}\nAl\n1\nDirect\n0 0 0\n", encoding="utf-8")
    stored = resources.files("simulations").joinpath("data/priors/aluminium.yaml")
    (tmp_path / "prior.yaml").write_text(stored.read_text(encoding="utf-8"), encoding="utf-8")
    experiment = changed("sample", structure="POSCAR")
    experiment = experiment.model_copy(
        update={
            "parameters": experiment.parameters.model_copy(
                update={"prior": "prior.yaml", "free": 3, "cutoff_A": 4.1}
            )
        }
    )
    measurement = build_measurement(experiment, tmp_path)
    assert len(measurement.model.names) == 3
    assert np.all(measurement.box.lower < measurement.box.upper)


def test_a_resolution_of_the_file_replaces_that_of_the_instrument():
    experiment = changed("instrument", resolution=(0.05, 0.0))
    sigma = chosen_instrument(experiment).resolution.sigma_meV(np.zeros(1), 40.0)[0]
    assert sigma == pytest.approx(2.0 / 2.3548, rel=1e-4)


def test_seekpath_serves_where_no_points_are_given():
    path = changed("path", points="seekpath", bins=None, step_rlu=0.1).path
    found = build_path(path, read_crystal("germanium"))
    assert found.labels[0][0] == "Gamma"
    assert found.n_bins > 20


def test_a_structure_beside_the_experiment_file_is_found_and_uses_the_stored_prior(tmp_path: Path):
    experiment = load_experiment(EXAMPLES / "mno-hyspec.yaml")
    measurement = build_measurement(experiment, tmp_path)
    assert sorted(set(measurement.crystal.symbols)) == ["Mn", "O"]
    assert len(measurement.targeted) == 4


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("sample", {"structure": "nowhere.cif"}, "sample.structure is 'nowhere.cif'"),
        ("instrument", {"name": "NOSUCH"}, "NOSUCH"),
        ("parameters", {"free": ("1NN xx", "9NN qq")}, "9NN qq"),
        ("parameters", {"prior": "nosuch"}, "nosuch"),
        ("parameters", {"cutoff_A": 60.0}, "cutoff"),
    ],
)
def test_what_is_unknown_is_refused_by_name(section, changes, words):
    with pytest.raises(ValueError, match=words):
        build_measurement(changed(section, **changes), EXAMPLES)


def test_an_instrument_may_be_a_file_beside_the_experiment(tmp_path):
    write_pixel_table(tmp_path / "mine.csv", load_instrument("CNCS/32"))
    chosen = chosen_instrument(changed("instrument", name="mine.csv", coarsen=2), tmp_path)
    assert (chosen.n_pixels, chosen.name) == (800, "CNCS/64")
    with pytest.raises(ValueError, match=r"yours.csv is no file. Correct the path"):
        chosen_instrument(changed("instrument", name="yours.csv"), tmp_path)


def test_a_zone_grid_that_would_not_fit_is_widened_and_said_so(monkeypatch):
    with capture_logs() as told:
        exact = small_measurement().exact
        assert not [entry for entry in told if entry["event"] == "zone_grid_widened"]
        wanted, limit = exact.zone, 0.4 * exact.zone.n_points * bytes_per_point(exact.model)
        monkeypatch.setattr("steering.experiment.zone_grids.ZONE_BYTES", limit)
        zone = replace(small_measurement()).exact.zone  # a new one, which has none yet
    assert zone.n_points * bytes_per_point(exact.model) <= limit
    assert zone.n_points < wanted.n_points
    (entry,) = [entry for entry in told if entry["event"] == "zone_grid_widened"]
    assert entry["step_rlu"] > entry["wanted_rlu"]


@pytest.mark.parametrize("parts", [1, 2])
def test_memory_of_a_zone_point_is_what_its_arrays_take(parts, monkeypatch):
    if parts == 2:  # as of a crystal without a centre of inversion
        monkeypatch.setattr(Inversion, "of", classmethod(lambda cls, crystal, matrices: None))
    exact = build_measurement(small_experiment(), EXAMPLES).exact
    values = exact.model.values
    state = exact.prepare(values)
    kept = [exact._fixed, exact._basis, exact._fixed_derivatives]
    kept += [state.vectors, state.mixing, state.coupling]
    taken = sum(array.nbytes for array in kept)
    assert exact.zone.n_points * bytes_per_point(exact.model) == 2 * taken // parts


@pytest.mark.parametrize("costly", [False, True])
def test_one_looks_around_in_long_steps_where_a_crystal_is_costly(costly, monkeypatch):
    if costly:
        monkeypatch.setattr("steering.experiment.measurement.FORWARD_BYTES", 0)
    measurement = build_measurement(small_experiment(), EXAMPLES)
    exact, rough = measurement.exact.true_edges_meV(), measurement.rough._walked.true_edges_meV()
    assert measurement.costly == costly
    assert len(rough) == pytest.approx(len(exact) / (2 if costly else 1), abs=3)


def test_the_sample_section_says_what_species_are_made_of():
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    plain, _ = _sample(experiment, EXAMPLES)
    section = experiment.sample.model_copy(update={"isotopes": {"Ge": "76Ge"}})
    heavy = experiment.model_copy(update={"sample": section})
    crystal, reference = _sample(heavy, EXAMPLES)
    assert crystal.symbols == ("76Ge", "76Ge")
    assert reference.crystal is crystal
    assert crystal.scattering_length[0] == pytest.approx(0.82)
    assert plain.symbols == ("Ge", "Ge")
    # an older fold is still known; one with other isotopes is another fold
    assert not any("isotopes" in key for key in fingerprint_of(experiment, EXAMPLES))
    assert fingerprint_of(heavy, EXAMPLES) != fingerprint_of(experiment, EXAMPLES)


@pytest.mark.shared_data
def test_constants_in_a_file_of_their_own_are_carried_onto_the_structure(shared_data, tmp_path):
    folder = shared_data / "phonopy-test" / "NaCl"
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    (tmp_path / "POSCAR").write_text(
        "rock salt, origin on Cl\n1.0\n0 2.84 2.84\n2.84 0 2.84\n2.84 2.84 0\nNa 37Cl\n1 1\n"
        "Direct\n0.5 0.5 0.5\n0 0 0\n"
    )
    update = {"structure": "POSCAR", "force_constants": str(folder / "phonopy_disp.yaml")}
    section = experiment.sample.model_copy(update=update)
    crystal, reference = _sample(experiment.model_copy(update={"sample": section}), tmp_path)
    assert set(crystal.symbols) == {"Na", "37Cl"}
    assert "equivalent cell" in reference.notes[-1]
    assert reference.dipole is not None
    missing = section.model_copy(update={"force_constants": "nowhere.yaml"})
    with pytest.raises(ValueError, match=r"sample.force_constants is 'nowhere.yaml'"):
        _sample(experiment.model_copy(update={"sample": missing}), tmp_path)


@pytest.mark.shared_data
def test_masses_of_the_structures_own_file_outlast_constants_of_another(shared_data, tmp_path):
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    constants = shared_data / "phonopy-test" / "NaCl" / "phonopy_disp.yaml"
    atoms = "".join(
        f"  - {{symbol: {s}, coordinates: {x}, mass: {m}}}\n"
        for s, x, m in (("Na", "[0.5, 0.5, 0.5]", 22.98977), ("Cl", "[0, 0, 0]", 36.2))
    )
    (tmp_path / "phonopy.yaml").write_text(
        "phonopy:\n  version: 4.8.6\nunit_cell:\n  lattice:\n  - [0.0, 2.84, 2.84]\n"
        f"  - [2.84, 0.0, 2.84]\n  - [2.84, 2.84, 0.0]\n  points:\n{atoms}"
    )
    update = {"structure": "phonopy.yaml", "force_constants": str(constants)}
    section = experiment.sample.model_copy(update=update)
    crystal, reference = _sample(experiment.model_copy(update={"sample": section}), tmp_path)
    assert sorted(crystal.masses_u) == pytest.approx([22.98977, 36.2])
    assert reference.crystal is crystal


def test_a_run_and_its_virtual_scan_see_the_isotope_of_the_sample_section():
    plain, heavy = (
        build_measurement(changed("sample", isotopes=isotopes), EXAMPLES)
        for isotopes in (None, {"Ge": "76Ge"})
    )
    mass = plain.crystal.masses_u[0] / heavy.crystal.masses_u[0]
    q = np.array([[0.3, 0.2, 0.1]])
    energies = [modes(m.model, q)[0] for m in (plain, heavy)]
    np.testing.assert_allclose(energies[1], np.sqrt(mass) * energies[0], rtol=1e-9)
    # exposure: one-phonon weight b^2 / m with the Debye-Waller factor of the isotope
    tensors = [m.exposure(30.0).tensor.sum(axis=(0, 1)) for m in (plain, heavy)]
    weights = [np.trace(unpack_tensor(tensor, 2)).real for tensor in tensors]
    b2 = (heavy.crystal.scattering_length[0] / plain.crystal.scattering_length[0]) ** 2
    assert weights[1] / weights[0] == pytest.approx(mass * b2, rel=0.01)
    virtual = [
        build_lattice(m.model, m.model.values, 5.0, table_spacing=0.2) for m in (plain, heavy)
    ]
    assert (virtual[1].amplitude / virtual[0].amplitude) ** 2 == pytest.approx(mass * b2)
    assert virtual[1].highest_meV / virtual[0].highest_meV == pytest.approx(np.sqrt(mass), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "atoms", "polar"), [("MgO", 2, True), ("MoSi2", 3, False), ("Ti3Al", 8, False)]
)
def test_examples_of_compounds_have_all_that_they_need_beside_them(name, atoms, polar):
    folder = EXAMPLES / name
    measurement = build_measurement(load_experiment(folder / "experiment.yaml"), folder)
    assert measurement.crystal.n_atoms == atoms
    assert (measurement.model.reference.dipole is not None) == polar
    assert len(measurement.targeted) == 8
    assert measurement.box.contains(measurement.model.values).all()
