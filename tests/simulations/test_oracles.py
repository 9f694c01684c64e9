"""Independent programs compute the same crystals: phonopy and Euphonic, over all crystal systems.

Two conventions differ between the two, so no third program can agree with both as they come.
Phonopy leaves the real-space part of the Ewald sum to the supercell's constants; Euphonic adds it
(at ``Dipole.ewald`` 2.5 the part is negligible and all three agree). Euphonic shares a constant
among images that are equidistant to 1e-3 of a supercell vector, phonopy and we to 1e-5 angstrom;
here Euphonic is given the narrower list.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest

from simulations.crystal.symmetry import symmetry_dataset
from simulations.dynamics import force_constant_model, modes, phonon_dos
from simulations.dynamics.phonopy_file import from_phonopy, to_phonopy_array
from simulations.reciprocal import ZonePoints, irreducible_mesh
from simulations.scattering import displacement_tensors, one_phonon_lines
from tests.simulations.phonon_oracles import (
    MEV_PER_THZ,
    SYMPREC_A,
    degenerate_sums,
    euphonic_constants,
    phonopy_energies,
    phonopy_model,
    set_ewald,
    with_ewald,
    zone_vectors,
)

pytestmark = pytest.mark.filterwarnings("ignore:More than one OpenMP library")

TEMPERATURE_K = 300.0
MESH = 3
WIDE = 2.5

# crystals of phonopy's tests and of phonondb (mp-...); those with Born charges: +
EVERYDAY = {
    "Ge": "cubic", "NaCl": "cubic+", "Pa-3": "cubic", "MgB2": "hexagonal", "ZnO": "hexagonal+",
    "P-3m1": "trigonal", "P3m1": "trigonal", "SnO2": "tetragonal+", "Amm2": "orthorhombic",
    "mp-1285": "orthorhombic+", "Pc": "monoclinic", "mp-28163": "monoclinic+",
    "mp-6109": "triclinic",
}  # fmt: skip
FURTHER = {
    "SiO2-HP": "tetragonal+", "MgO": "cubic+", "Al2O3": "trigonal+",
    "TiO2-anatase": "tetragonal+", "I4_1a": "tetragonal",
    "P-42_1m": "tetragonal", "P-43m": "cubic", "P-62m": "hexagonal", "P-6m2": "hexagonal",
    "P2_13": "cubic", "P4_332": "cubic", "P4mm": "tetragonal", "P6": "hexagonal",
    "P6_222": "hexagonal", "P2": "monoclinic", "P222_1": "orthorhombic", "P-4": "tetragonal",
    "P-6": "hexagonal", "P31m": "trigonal", "P4_1": "tetragonal", "mp-8352": "cubic+",
    "mp-149": "cubic+", "mp-361": "cubic+", "mp-568273": "hexagonal+", "mp-2068": "trigonal+",
    "mp-856": "tetragonal+", "mp-2657": "tetragonal+", "mp-23214": "orthorhombic+",
    "mp-755072": "orthorhombic+", "mp-570301": "monoclinic+",
}  # fmt: skip
UNSTABLE = {"Amm2", "P4mm", "P2", "P222_1", "P-4", "P-6", "P31m", "P4_1", "mp-8352"}


@dataclass(frozen=True, kw_only=True)
class Deviations:
    """Largest differences of one crystal; NaN: not compared, the crystal is unstable."""

    system: str
    atoms: int
    phonopy: float  # energies, relative
    phonopy_wide: float
    euphonic: float
    scattering: float  # group sums, relative
    waller_A2: float
    waller_phonopy: float  # relative
    dos: float  # share of a window's modes


def crystal_system(crystal):
    data = symmetry_dataset(crystal.lattice, crystal.positions, crystal.symbols, SYMPREC_A)
    last = {2: "triclinic", 15: "monoclinic", 74: "orthorhombic", 142: "tetragonal"}
    last |= {167: "trigonal", 194: "hexagonal", 230: "cubic"}
    return next(name for number, name in last.items() if data.number <= number)


def relative(ours, theirs):
    return float(np.max(np.abs(ours - theirs) / np.abs(theirs)))


def vectors_in_many_zones(model, count):
    """Random Q of zones up to 15 1/angstrom away."""
    q = zone_vectors(model, 3 * count, seed=7)
    rng = np.random.default_rng(8)
    away = rng.normal(size=q.shape)
    away *= np.repeat([2.0, 6.0, 14.0], count)[:, None] / np.linalg.norm(away, axis=1)[:, None]
    G = np.rint(away @ model.crystal.lattice.T / (2 * np.pi)) @ model.crystal.reciprocal
    return q + G


def gamma_mesh(model, n):
    """All points of a mesh through Gamma, so that it has the symmetry of the crystal."""
    grid = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3) / n
    return grid - np.rint(grid)


def scattering_deviation(model, constants, waller, displacement, count):
    """Worst relative difference of group sums; of those below 1e-6 of the strongest, of that."""
    euphonic = pytest.importorskip("euphonic")
    Q = vectors_in_many_zones(model, count)
    points = Q @ model.crystal.lattice.T / (2 * np.pi)
    there = constants.calculate_qpoint_phonon_modes(points, **EUPHONIC)
    lengths = dict(zip(model.crystal.symbols, model.crystal.scattering_length, strict=True))
    factor = there.calculate_structure_factor(
        scattering_lengths={s: 10 * b * euphonic.ureg.fm for s, b in lengths.items()}, dw=waller
    )
    theirs = factor.structure_factors.to("barn").magnitude * model.crystal.n_atoms
    lines = one_phonon_lines(model, Q, 0.0, displacement=displacement)
    ours = degenerate_sums(lines.energies_meV, lines.creation)
    theirs = degenerate_sums(lines.energies_meV, theirs)
    floor = 1e-6 * theirs.max(axis=1, keepdims=True)
    return float(np.max(np.abs(ours - theirs) / np.maximum(theirs, floor)))


EUPHONIC = {"dipole": True, "splitting": False, "n_threads": 1}


def windows(energies):
    """Edges that no energy lies near, from above the acoustic zeros to beyond the top."""
    e = np.sort(energies[energies > 0.5])
    middle = 0.5 * (e[1:] + e[:-1])[np.diff(e) > 2e-3]
    inner = middle[np.linspace(0, len(middle) - 1, 12).astype(int)]
    return np.unique(np.concatenate([[0.4], inner, [e[-1] + 1.0]]))


def compare(folder, name, count=4):
    """Every comparison of one crystal."""
    euphonic = pytest.importorskip("euphonic", reason="euphonic is the oracle")
    phonon, model = phonopy_model(folder, name)
    wide = with_ewald(model, WIDE)
    q = zone_vectors(model, 2 * count)
    nan = float("nan")
    found = {"system": crystal_system(model.crystal), "atoms": model.crystal.n_atoms}
    theirs = phonopy_energies(phonon, q)
    found["phonopy"] = relative(modes(model, q)[0], theirs)
    constants = euphonic_constants(wide)
    Q = vectors_in_many_zones(model, count)
    there = constants.calculate_qpoint_frequencies(
        Q @ model.crystal.lattice.T / (2 * np.pi), **EUPHONIC
    )
    found["euphonic"] = relative(modes(wide, Q)[0], there.frequencies.to("meV").magnitude)

    points = gamma_mesh(model, MESH)
    energies = modes(wide, points @ model.crystal.reciprocal)[0]
    stable = energies.min() > -0.02 and modes(wide, Q)[0].min() > 0
    waller = thermal = displacement = None
    found |= {"scattering": nan, "waller_A2": nan, "waller_phonopy": nan}
    thermal = constants.calculate_qpoint_phonon_modes(points, **EUPHONIC)
    edges = windows(energies)
    width = np.diff(edges)
    dos = phonon_dos(wide, edges, zone=irreducible_mesh(model.crystal, MESH), sigma_meV=0.0)
    ours = dos.total * width
    theirs = thermal.calculate_dos(edges * euphonic.ureg.meV)
    theirs = theirs.y_data.to("1/meV").magnitude * width * found["atoms"]  # theirs: 3 in all
    found["dos"] = float(np.abs(ours - theirs).max())
    set_ewald(phonon, WIDE)
    found["phonopy_wide"] = relative(modes(wide, q)[0], phonopy_energies(phonon, q))
    if stable:
        zone = ZonePoints(
            q_cart=points @ model.crystal.reciprocal,
            weights=np.full(len(points), 1 / len(points)),
        )
        displacement = displacement_tensors(wide, TEMPERATURE_K, zone=zone)
        waller = thermal.calculate_debye_waller(
            TEMPERATURE_K * euphonic.ureg.K,
            frequency_min=0.1 * euphonic.ureg.meV,
            symmetrise=False,
        )
        exponent = waller.debye_waller.to("angstrom^2").magnitude
        found["waller_A2"] = float(np.abs(0.5 * displacement - exponent).max())
        found["scattering"] = scattering_deviation(wide, constants, waller, displacement, count)
        found["waller_phonopy"] = phonopy_waller(phonon, displacement)
    return Deviations(**found)


def phonopy_waller(phonon, displacement):
    """Relative difference of the mean square displacements from phonopy's, by their traces.

    Phonopy computes with older constants: its k_B is 6e-7 larger, its energies 1.2e-7 smaller.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phonon.run_mesh(
            [MESH] * 3, with_eigenvectors=True, is_mesh_symmetry=False, is_gamma_center=True
        )
        phonon.run_thermal_displacement_matrices(
            t_min=TEMPERATURE_K, t_max=TEMPERATURE_K, t_step=1, freq_min=0.1 / MEV_PER_THZ
        )
    theirs = phonon.thermal_displacement_matrices.thermal_displacement_matrices[0]
    ours = np.sort(np.trace(displacement, axis1=1, axis2=2))
    return relative(ours, np.sort(np.trace(theirs, axis1=1, axis2=2)))


def assert_within_the_bar(name, found):
    assert found.phonopy < 1e-6, name
    assert found.phonopy_wide < 1e-6, name
    assert found.euphonic < 1e-6, name
    assert found.dos < 1e-6, name
    if np.isfinite(found.scattering):
        assert found.scattering < 1e-5, name
        assert found.waller_A2 < 1e-8, name
        assert found.waller_phonopy < 1e-6, name


@pytest.mark.shared_data
@pytest.mark.parametrize("name", list(EVERYDAY))
def test_phonopy_and_euphonic_agree_with_us(shared_data, name):
    found = compare(shared_data, name)
    assert found.system == EVERYDAY[name].rstrip("+")
    assert np.isfinite(found.scattering) == (name not in UNSTABLE)
    assert_within_the_bar(name, found)


def test_the_crystals_of_every_day_span_the_seven_systems():
    assert len({system.rstrip("+") for system in EVERYDAY.values()}) == 7
    assert sum(system.endswith("+") for system in EVERYDAY.values()) >= 5


@pytest.mark.slow
@pytest.mark.shared_data
def test_phonopy_and_euphonic_agree_with_us_on_43_crystals(shared_data, capsys):
    rows = {name: compare(shared_data, name, 12) for name in [*EVERYDAY, *FURTHER]}
    with capsys.disabled():
        print(  # noqa: T201
            "\ncrystal       system       atoms  phonopy  same Ewald  Euphonic     S(Q)  "
            "W (A^2)  W phonopy     DOS"
        )
        for name, d in rows.items():
            print(  # noqa: T201
                f"{name:13s} {d.system:12s} {d.atoms:5d}  {d.phonopy:7.1e}     "
                f"{d.phonopy_wide:7.1e}   {d.euphonic:7.1e}  {d.scattering:7.1e}  "
                f"{d.waller_A2:7.1e}    {d.waller_phonopy:7.1e} {d.dos:7.1e}"
            )
    for name, found in rows.items():
        assert found.system == (EVERYDAY | FURTHER)[name].rstrip("+"), name
        assert np.isfinite(found.scattering) == (name not in UNSTABLE), name
        assert_within_the_bar(name, found)


@pytest.mark.slow
@pytest.mark.shared_data
def test_force_constants_of_43_crystals_survive_the_way_through_named_elements(shared_data, capsys):
    worst = 0.0
    for name in [*EVERYDAY, *FURTHER]:
        phonon, model = phonopy_model(shared_data, name)
        pairs = from_phonopy(phonon, symprec_A=SYMPREC_A)
        named = force_constant_model(pairs.crystal, pairs, None)
        zero = named.with_elements(np.zeros(len(named.elements)))
        again = zero.with_elements(named.element_values).force_constants()
        back = to_phonopy_array(again, phonon, SYMPREC_A)
        miss = float(np.abs(back - phonon.force_constants).max())
        assert miss < 1e-10, name
        assert named.beyond_elements() < 1e-10, name
        worst = max(worst, miss)
    with capsys.disabled():
        print(f"\nround trip of force constants: worst {worst:.1e} eV/A^2")  # noqa: T201
