"""A prior of crystals of low symmetry keeps every value on its way through the record."""

import numpy as np
import pytest
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.cells import get_supercell

from simulations.crystal import read_crystal
from simulations.dynamics import force_constant_model
from simulations.prior import ForceFieldPhonons, load_prior_record, prior_from_members, write_prior
from simulations.prior.force_field import default_supercell
from simulations.prior.widening import MEASURED, RANGE_ALONE

CUTOFF_A = 5.0


def springs(crystal, supercell, stiffness, length):
    """A force field of central and transverse springs that decay with distance."""
    cell = PhonopyAtoms(
        symbols=list(crystal.symbols), cell=crystal.lattice, scaled_positions=crystal.positions
    )
    large = get_supercell(cell, np.diag(supercell))
    x = large.scaled_positions
    constants = np.zeros((len(cell), len(large), 3, 3))
    for a, b in enumerate(int(u) for u in large.u2s_map):
        step = x - x[b]
        for image in np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3):
            v = (step - np.rint(step) + image) @ large.cell
            r = np.linalg.norm(v, axis=1)
            weight = np.where(r > 1e-6, np.exp(-(r - 2) / length), 0.0)
            e = v / np.maximum(r, 1e-6)[:, None]
            tensor = stiffness * np.einsum("ja,jb->jab", e, e) + 0.3 * np.eye(3)
            constants[a] -= weight[:, None, None] * tensor
    return ForceFieldPhonons(
        force_field=f"springs {stiffness}",
        versions={},
        cell=PhonopyAtoms(
            symbols=list(crystal.symbols),
            cell=crystal.lattice * (1 + 0.002 * stiffness),
            scaled_positions=crystal.positions,
        ),
        supercell_matrix=supercell,
        displacement_A=0.01,
        residual_force_eV_A=0.0,
        residual_stress_kbar=0.0,
        force_constants=constants,
        lowest_meV=0.0,
        highest_meV=50.0,
    )


@pytest.mark.parametrize("name", ["P2", "Pc", "P222_1", "Amm2", "P3m1", "P-42_1m"])
def test_a_record_gives_back_the_members_and_names_what_it_holds(name, shared_data, tmp_path):
    crystal = read_crystal(shared_data / "phonopy-test" / f"POSCAR_{name}")
    supercell = default_supercell(crystal.lattice, 1.05 * CUTOFF_A)
    members = [springs(crystal, supercell, s, 0.8) for s in (4.0, 5.0)]
    record = prior_from_members(name, crystal, members, cutoff_A=CUTOFF_A)
    write_prior(record, tmp_path / "prior.yaml")
    again = load_prior_record(tmp_path / "prior.yaml")
    assert again.widening == MEASURED
    assert load_prior_record("germanium").widening == RANGE_ALONE
    for which, member in enumerate(again.members):
        constants = again.force_constants(crystal, member.values)
        model = force_constant_model(crystal, constants, None)
        assert model.elements == record.box.names
        np.testing.assert_allclose(model.element_values, member.values, atol=2e-6)
        # the springs themselves, at the bond that the record names
        for (i, j, cell), element, value in zip(
            again.bonds, again.box.names, member.values, strict=True
        ):
            v = (crystal.positions[j] - crystal.positions[i] + cell) @ crystal.lattice
            r = np.linalg.norm(v)
            e = v / r
            tensor = -np.exp(-(r - 2) / 0.8) * ((4.0 + which) * np.outer(e, e) + 0.3 * np.eye(3))
            a, b = ("xyz".index(c) for c in element.rsplit(" ", 1)[1])
            # but for what the sum rule moves when the list ends at the cutoff
            allowed = 0.15 * np.abs(tensor).max()
            assert value == pytest.approx(tensor[a, b], abs=allowed), element
