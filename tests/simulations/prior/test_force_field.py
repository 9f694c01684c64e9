"""Force constants from universal force fields."""

import sys
import types
from importlib.util import find_spec

import numpy as np
import pytest
from phonopy.structure.atoms import PhonopyAtoms

from simulations.crystal import read_crystal
from simulations.dynamics import force_constant_model
from simulations.prior import (
    FORCE_FIELDS,
    ForceFieldUnavailableError,
    default_supercell,
    force_field_phonons,
    load_prior_record,
    member_force_constants,
)
from simulations.prior.force_field import load_calculator, relax

needs_chgnet = pytest.mark.skipif(
    find_spec("chgnet") is None,
    reason="chgnet is not installed; pip install 'beamsteer[forcefields]'",
)
needs_sevenn = pytest.mark.skipif(
    find_spec("sevenn") is None,
    reason="sevenn is not installed; pip install 'beamsteer[forcefields]'",
)


def primitive(name):
    crystal = read_crystal(name)
    cell = PhonopyAtoms(
        symbols=list(crystal.symbols), cell=crystal.lattice, scaled_positions=crystal.positions
    )
    return crystal, cell


def test_an_unknown_force_field_is_refused_with_the_names_on_offer():
    with pytest.raises(ValueError, match=r"'mace'; expected one of .*chgnet-0\.3\.0"):
        load_calculator("mace")


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sevenn.calculator", None)
    with pytest.raises(ForceFieldUnavailableError, match=r"beamsteer\[forcefields\]"):
        load_calculator("sevennet-l3i5")


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [("mace", "mace.calculators", "mace-torch"), ("m3gnet", "matgl", "matgl")],
)
def test_a_weight_file_without_its_package_says_what_to_install(
    tmp_path, monkeypatch, kind, module, package
):
    weights = tmp_path / "weights.model"
    weights.write_bytes(b"weights")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ForceFieldUnavailableError, match=f"pip install {package}"):
        load_calculator(f"{kind}:{weights}")
    with pytest.raises(ValueError, match="there is no such file"):
        load_calculator(f"{kind}:{tmp_path / 'nothing'}")


def test_a_weight_file_gives_force_constants_like_any_other(tmp_path, monkeypatch):
    # the package is replaced by ASE's effective-medium theory, which needs no weights
    emt = pytest.importorskip("ase.calculators.emt", reason="ase comes with the force fields")
    weights = tmp_path / "weights.model"
    weights.write_bytes(b"weights")
    asked = {}

    def calculator(**options):
        asked.update(options)
        return emt.EMT()

    package = types.ModuleType("mace.calculators")
    package.MACECalculator = calculator  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mace", types.ModuleType("mace"))
    monkeypatch.setitem(sys.modules, "mace.calculators", package)
    _, cell = primitive("aluminium")
    phonons = force_field_phonons(cell, f"mace:{weights}", supercell=(4, 4, 4))
    assert asked["model_paths"] == str(weights)
    assert phonons.stable
    assert 30 < phonons.highest_meV < 45  # aluminium: 40 meV
    assert phonons.force_field == f"mace:{weights}"
    assert set(phonons.versions) == {"mace-torch", "torch", "ase", "phonopy"}


def test_a_cell_that_is_kept_stays_and_its_atoms_relax():
    emt = pytest.importorskip("ase.calculators.emt", reason="ase comes with the force fields")
    # three atoms along c, of which symmetry fixes the middle one alone
    lattice = np.diag([2.6, 2.6, 7.0])
    positions = np.array([[0, 0, 0.0], [0.5, 0.5, 0.28], [0.5, 0.5, 0.72]])
    cell = PhonopyAtoms(symbols=["Al", "Cu", "Cu"], cell=lattice, scaled_positions=positions)
    kept = relax(cell, emt.EMT(), keep_cell=True)
    np.testing.assert_allclose(kept.cell, lattice, atol=1e-12)
    moved = kept.scaled_positions - positions
    assert abs(moved[1, 2]) > 1e-3
    np.testing.assert_allclose(moved[:, :2], 0.0, atol=1e-9)
    free = relax(cell, emt.EMT())
    assert not np.allclose(free.cell, lattice, atol=1e-2)


def test_the_default_supercell_holds_a_sphere_of_the_reach():
    lattice = np.array([[0, 2.0, 2.0], [2.0, 0, 2.0], [2.0, 2.0, 0]])
    repeats = default_supercell(lattice, reach_A=7.0)
    assert repeats == (7, 7, 7)  # planes are 4 / sqrt(3) = 2.309 angstrom apart
    assert default_supercell(np.diag([3.0, 10.0, 14.0]), reach_A=7.0) == (5, 2, 1)


@needs_chgnet
def test_recomputing_a_stored_member_gives_its_numbers():
    crystal, cell = primitive("germanium")
    record = load_prior_record("germanium")
    stored = next(m for m in record.members if m.force_field == "chgnet-0.2.0")
    again = force_field_phonons(
        cell,
        "chgnet-0.2.0",
        supercell=stored.supercell_matrix,
        displacement_A=stored.displacement_A,
    )
    model = force_constant_model(crystal, member_force_constants(crystal, again), record.cutoff_A)
    assert model.elements == record.box.names
    assert again.stable
    # CHGNet has kinks near equilibrium and float32 forces: 2 % of the largest element
    np.testing.assert_allclose(model.element_values, stored.values, atol=0.03)
    np.testing.assert_allclose(again.cell.cell, stored.relaxed_lattice_A, atol=2e-3)
    assert again.residual_stress_kbar < 0.1


@needs_chgnet
def test_force_constants_obey_the_sum_rule_and_index_symmetry():
    _, cell = primitive("MnO")
    phonons = force_field_phonons(cell, "chgnet-0.2.0", supercell=(2, 2, 2))
    constants = phonons.force_constants
    np.testing.assert_allclose(constants.sum(axis=1), 0.0, atol=1e-6)
    onsite = constants[0, 0]
    np.testing.assert_allclose(onsite, onsite.T, atol=1e-9)


@pytest.mark.slow
@needs_chgnet
@needs_sevenn
@pytest.mark.parametrize("name", list(FORCE_FIELDS))
@pytest.mark.parametrize("metal", ["aluminium", "niobium"])
def test_every_stored_member_of_the_metals_is_reproduced(metal, name):
    crystal, cell = primitive(metal)
    record = load_prior_record(metal)
    stored = next(m for m in record.members if m.force_field == name)
    again = force_field_phonons(
        cell,
        name,
        supercell=stored.supercell_matrix,
        displacement_A=stored.displacement_A,
    )
    model = force_constant_model(crystal, member_force_constants(crystal, again), record.cutoff_A)
    assert again.stable == stored.stable
    np.testing.assert_allclose(model.element_values, stored.values, atol=0.02)
