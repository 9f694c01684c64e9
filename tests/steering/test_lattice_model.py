from __future__ import annotations

import numpy as np
import pytest

from simulations.prior_file import load_prior_record
from steering import lattice_model as module
from steering.lattice_model import formula, lattice_model, open_structure


@pytest.mark.parametrize("name", ["germanium", "niobium", "aluminium", "MnO"])
def test_every_builtin_crystal_has_stable_force_constants_without_a_force_field(name, monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a force field was run")

    monkeypatch.setattr(module, "force_field_phonons", never)
    found = lattice_model(name)
    q = np.array([[0.3, 0.1, 0.2], [0.5, 0.4, 0.0]])
    assert np.linalg.eigvalsh(found.model.dynamical_matrices(q)).min() > 0


def test_of_stored_force_fields_the_stiffest_stable_one_is_taken():
    record = load_prior_record("aluminium")
    found = lattice_model("aluminium")
    stiffest = max(record.stable_members, key=lambda m: m.highest_meV)
    assert found.route == {"kind": "force_field", "source": f"{stiffest.force_field}, stored"}
    assert any("stiffest of 4 stable" in note for note in found.approximations)


def test_a_structure_without_force_constants_says_so_before_a_force_field_is_missed(
    tmp_path, monkeypatch
):
    path = tmp_path / "POSCAR"
    path.write_text("Al\n1\n0 2.02 2.02\n2.02 0 2.02\n2.02 2.02 0\nAl\n1\nDirect\n0 0 0\n")

    def missing(*_: object, **__: object) -> None:
        raise module.ForceFieldUnavailableError("pip install 'beamsteer[forcefields]'")

    monkeypatch.setattr(module, "force_field_phonons", missing)
    with pytest.raises(ValueError, match="no usable force constants.*pip install"):
        lattice_model(path)
    with pytest.raises(ValueError, match="route is 'given' but"):
        lattice_model(path, "given")
    with pytest.raises(ValueError, match="route is 'guess'; expected one of auto, given"):
        lattice_model(path, "guess")


def test_a_supercell_that_no_file_states_can_be_given(shared_data):
    path = shared_data / "ge" / "POSCAR"
    guessed = lattice_model(path, "given")
    given = lattice_model(path, "given", supercell=(4, 4, 4))
    q = np.array([[0.3, 0.1, 0.2]])
    np.testing.assert_allclose(
        given.model.dynamical_matrices(q), guessed.model.dynamical_matrices(q), atol=1e-9
    )
    with pytest.raises(ValueError, match="no usable force constants"):
        lattice_model(path, "given", supercell=(3, 3, 3))


def test_a_file_is_opened_only_where_files_are_allowed(tmp_path):
    path = tmp_path / "POSCAR"
    path.write_text("x")
    with open_structure(str(path), files=True) as opened:
        assert opened == path
    with pytest.raises(ValueError, match="expected one of"), open_structure(str(path), files=False):
        pass


def test_a_formula_counts_atoms_in_their_order():
    assert formula(lattice_model("germanium").model.crystal) == "Ge2"
    assert formula(lattice_model("MnO").model.crystal) == "MnO"
