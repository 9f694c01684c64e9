from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from model_server.direct import energy_edges_meV, on_literature_points
from simulations.dynamics import force_constant_model, from_phonopy, phonon_dos
from simulations.errors import InputError
from steering.database import open_source, phonopy_object
from steering.study.direct_targets import part_of, site_densities

EDGES = energy_edges_meV()


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["149", "23703"])  # silicon; lithium hydride, polar
def test_site_densities_are_those_of_a_converged_mesh(shared_data, name):
    source = open_source(shared_data / "phonondb" / "phonondb-2018.h5")
    row = next(k for k, one in enumerate(source.ids) if one.split("-")[-1] == name)
    one = source.entry(row)
    found = site_densities(one, EDGES)
    assert found.shares.sum(axis=1) == pytest.approx(1.0)
    phonon = phonopy_object(one)
    constants = from_phonopy(phonon, source="phonondb")
    model = force_constant_model(constants.crystal, constants, None)
    dos = phonon_dos(model, tolerance=0.01)
    share = dos.partial * np.diff(dos.energy_edges_meV) / 3
    energy = dos.energies_meV
    by_symbol = {
        str(symbol): mean
        for symbol, mean in zip(phonon.primitive.symbols, found.shares, strict=True)
    }
    centre = 0.5 * (EDGES[1:] + EDGES[:-1])
    for atom, symbol in enumerate(model.crystal.elements):
        true = share[atom] @ energy / share[atom].sum()
        assert by_symbol[symbol] @ centre == pytest.approx(true, rel=0.02)
    binned = np.histogram(energy, EDGES, weights=share.mean(axis=0))[0]
    off = on_literature_points(binned) - on_literature_points(found.shares.mean(axis=0))
    assert np.abs(off).mean() < 0.02


@pytest.mark.shared_data
def test_large_cells_and_imaginary_modes_are_left_out(shared_data):
    source = open_source(shared_data / "phonondb" / "phonondb-2018.h5")
    with pytest.raises(InputError, match="expected at most 4"):
        site_densities(source.entry(407), EDGES, most_atoms=4)
    with pytest.raises(InputError, match="expected none below -3"):
        site_densities(source.entry(9354), EDGES)


@pytest.mark.shared_data
def test_bad_forces_are_refused_not_learned(shared_data):
    source = open_source(shared_data / "phonondb" / "phonondb-2018.h5")
    one = source.entry(8682)
    assert one.forces is not None
    with pytest.raises(InputError, match="NaN"):
        site_densities(replace(one, forces=one.forces * np.nan), EDGES)


def test_formulas_are_split_eighty_ten_ten_by_themselves_alone():
    names = [f"A{i}B{j}" for i in range(60) for j in range(60)]
    share = Counter(part_of(name) for name in names)
    assert share["train"] / len(names) == pytest.approx(0.8, abs=0.03)
    assert share["unseen"] / len(names) == pytest.approx(0.1, abs=0.02)
    assert share["calibration"] / len(names) == pytest.approx(0.1, abs=0.02)
    assert part_of("SiO2") == part_of("SiO2")
