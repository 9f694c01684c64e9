from __future__ import annotations

import json

import numpy as np
import pytest

from simulations.dynamics.phonopy_file import load_phonopy
from steering import cli
from steering.predict import phonons, stable, vibrations_of


@pytest.fixture(scope="module")
def germanium():
    return phonons(vibrations_of("germanium"), points=120)


def test_points_of_germanium_have_the_energies_of_its_dft(germanium):
    energies = dict(zip(germanium.path.corner_labels, germanium.corner_energies_meV, strict=True))
    np.testing.assert_allclose(energies["Gamma"], [0, 0, 0, 37.44, 37.44, 37.44], atol=0.01)
    assert energies["X"][0] == pytest.approx(energies["X"][1])  # TA
    np.testing.assert_allclose(energies["U"], energies["K"], atol=1e-9)
    assert germanium.imaginary is None
    assert germanium.modes_counted == pytest.approx(6, abs=1e-6)


def test_imaginary_modes_are_counted_located_and_told():
    found = phonons(vibrations_of("aluminium", "chgnet-0.3.0"), points=120)
    imaginary = found.imaginary
    assert imaginary is not None
    assert found.modes_counted == pytest.approx(3, abs=1e-3)  # none is dropped
    assert 0.1 < imaginary.share < 0.4
    assert imaginary.share * 3 == pytest.approx(
        imaginary.density @ np.diff(imaginary.energy_edges_meV), abs=1e-6
    )
    assert imaginary.lowest_meV == pytest.approx(found.energies_meV.min())
    assert "6.59i meV, is at q = (1, 0, 0)" in imaginary.words  # X
    assert "larger supercell" in imaginary.words


def test_a_polar_path_shows_the_splitting_of_phonopy(shared_data):
    file = shared_data / "phonopy-test" / "NaCl" / "phonopy_disp.yaml"
    found = phonons(vibrations_of(file), path="X Gamma L", points=60)
    theirs = load_phonopy(file)[0]
    inwards = found.path.breaks[0]  # first point of Gamma-L
    theirs.symmetrize_force_constants()  # ours are
    theirs.run_qpoints([[0, 0, 0]], nac_q_direction=[0.5, 0.5, 0.5])
    reference = np.sort(theirs.qpoints.frequencies[0]) * 4.135667696923859
    np.testing.assert_allclose(found.energies_meV[inwards][3:], reference[3:], rtol=1e-4)
    assert found.energies_meV[inwards][5] > 1.4 * found.energies_meV[inwards][4]
    assert any("LO-TO" in note for note in found.approximations)


def test_the_verb_prints_a_table_and_says_how_to_get_files(capsys):
    assert cli.run(["phonons", "germanium", "--points", "40"]) == cli.OK
    told = capsys.readouterr()
    assert "10.14 x2, 29.88 x2, 34.18 x2" in told.out
    assert "holds 6 modes per primitive cell" in told.out
    assert "-o NAME" in told.out


def test_the_verb_writes_what_it_says_and_speaks_json(tmp_path, capsys):
    stem = tmp_path / "new" / "al"
    code = cli.run(
        ["phonons", "aluminium", "--route", "chgnet-0.3.0", "-o", str(stem), "--points", "40",
         "--path", "Gamma X | K Gamma", "--json"]
    )  # fmt: skip
    assert code == cli.OK
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == [f"{stem}{end}" for end in (".png", ".npz", ".csv", "-dos.csv")]
    assert told["imaginary"]["lowest_meV"] < -6
    assert len(told["dispersion"]["energies_meV"][0]) == 3
    with np.load(f"{stem}.npz") as kept:
        arrays = dict(kept)
    np.testing.assert_allclose(
        arrays["dispersion.energies_meV"], np.array(told["dispersion"]["energies_meV"])
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "structure is 'nothing'; expected one of MnO, aluminium, germanium"),
        (["germanium", "--path", "Gamma Q"], "no point is named 'Q'"),
        (["germanium", "-o", "a.pdf"], "ends in .png, .npz, .csv"),
        (["germanium", "--supercell", "2,2"], "three whole numbers like 2,2,1"),
        (["germanium", "--route", "guess"], "route is 'guess'; expected one of"),
    ],
)
def test_bad_input_of_the_verb_is_told_in_one_line(arguments, says, capsys):
    assert cli.run(["phonons", *arguments]) == cli.BAD_INPUT
    told = capsys.readouterr()
    assert told.out == ""
    assert says in " ".join(told.err.split())
    assert "Traceback" not in told.err


def test_imaginary_modes_make_no_spectrum_and_the_message_says_where_to_look():
    with pytest.raises(ValueError, match="imaginary.*beamsteer phonons"):
        stable(vibrations_of("aluminium", "chgnet-0.3.0"))
