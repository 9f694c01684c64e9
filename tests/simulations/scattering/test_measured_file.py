"""Measured powder spectra: the shipped set, and what is wrong with other files."""

import numpy as np
import pytest

from simulations.scattering import read_powder_spectra
from simulations.scattering.measured_file import MeasuredFileError


def test_the_shipped_aluminium_spectra_are_complete():
    spectra = read_powder_spectra()
    assert [s.temperature_K for s in spectra] == [50, 280, 450, 640]
    for s in spectra:
        assert s.intensity.shape == (70, 101)
        assert s.valid.sum() == 4144
        assert np.isnan(s.intensity[~s.valid]).all()
        # normalised as (x - mean) / (max - min)
        assert s.intensity[s.valid].mean() == pytest.approx(0.0, abs=1e-6)
        assert np.ptp(s.intensity[s.valid]) == pytest.approx(1.0, abs=1e-6)
        assert s.energy_meV[[0, -1]].tolist() == [10.25, 44.75]
        assert s.ei_meV == 50


@pytest.mark.shared_data
def test_the_shipped_file_equals_its_source(shared_data):
    copies = read_powder_spectra(shared_data / "al-arcs" / "al_powder_exp.npz")
    for ours, source in zip(read_powder_spectra(), copies, strict=True):
        np.testing.assert_allclose(ours.intensity, source.intensity, atol=1e-7)
        np.testing.assert_array_equal(ours.q_inverse_A, source.q_inverse_A)


def good():
    return {
        "chi": np.zeros((2, 3, 4)),
        "T_K": np.array([10.0, 20.0]),
        "E_meV": np.array([1.0, 2.0, 3.0]),
        "Q_invA_left": np.array([0.0, 0.1, 0.2, 0.3]),
        "Ei_meV": np.float64(50.0),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T_K": np.array([10.0])}, r"chi has shape \(2, 3, 4\); expected \(1, 3, 4\)"),
        ({"E_meV": np.array([1.0, 2.0, 2.5])}, "energy_meV does not ascend in equal steps"),
        ({"mask": np.ones((3, 3), bool)}, "mask has shape"),
        ({"chi": np.full((2, 3, 4), np.nan)}, "no valid cell at 10 K"),
        ({"Ei_meV": None}, "has no array ei_meV or Ei_meV"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    arrays = {k: v for k, v in (good() | change).items() if v is not None}
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(MeasuredFileError, match=message):
        read_powder_spectra(tmp_path / "s.npz")


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(MeasuredFileError, match="is not a file"):
        read_powder_spectra(tmp_path / "absent.npz")
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(MeasuredFileError, match="cannot be read as NPZ"):
        read_powder_spectra(tmp_path / "junk.npz")
