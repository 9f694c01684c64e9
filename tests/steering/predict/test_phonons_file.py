from __future__ import annotations

import csv

import numpy as np
import pytest
from matplotlib import image

from steering.predict import phonons, vibrations_of, write_phonons
from steering.predict.phonons_file import pretty_point, source_title, subscripted
from steering.report import named_files


@pytest.fixture(scope="module")
def unstable():
    return phonons(vibrations_of("aluminium", "chgnet-0.3.0"), points=60)


def rows(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def test_tables_hold_the_dispersion_and_the_density_with_imaginary_modes_below_zero(
    unstable, tmp_path
):
    write_phonons(unstable, named_files([tmp_path / "al.csv"]))
    table = rows(tmp_path / "al.csv")
    energies = np.array([[float(row[f"energy_{s}_meV"]) for s in (1, 2, 3)] for row in table])
    np.testing.assert_allclose(energies, unstable.energies_meV, rtol=1e-8, atol=1e-12)
    labels = [row["label"] for row in table if row["label"]]
    assert labels[:5] == ["Gamma", "X", "X", "U", "K"]
    density = rows(tmp_path / "al-dos.csv")
    axis = np.array([float(row["energy_meV"]) for row in density])
    assert np.all(np.diff(axis) > 0)
    assert axis[0] < -6
    text = (tmp_path / "al.csv").read_text()
    assert "# 22 % of the modes are imaginary" in text
    assert "# harmonic force constants of chgnet-0.3.0" in text


def test_the_picture_shades_imaginary_modes(unstable, tmp_path):
    stable = phonons(vibrations_of("germanium"), points=60)
    reddish = []
    for name, found in (("al", unstable), ("ge", stable)):
        write_phonons(found, [tmp_path / f"{name}.png"])
        pixels = image.imread(tmp_path / f"{name}.png")[..., :3]
        assert pixels.shape == (840, 1440, 3)
        reddish.append(np.mean((pixels[..., 0] - pixels[..., 2]) > 0.03))
    assert reddish[0] > 0.1
    assert reddish[1] < 0.01


def test_labels_are_written_as_scientists_write_them():
    assert pretty_point("Gamma|Sigma_0") == "Γ|Σ$_{0}$"
    assert pretty_point("X") == "X"
    assert subscripted("Al2O3") == "Al$_{2}$O$_{3}$"
    assert subscripted("C60") == "C$_{60}$"
    assert source_title({"kind": "force_constants", "source": "/a/b/NaCl/phonopy.yaml"}) == (
        "force constants of NaCl/phonopy.yaml"
    )
    assert source_title({"kind": "direct", "source": "2 networks, phonondb"}) == (
        "densities of 2 networks, phonondb"
    )
