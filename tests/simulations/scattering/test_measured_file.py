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


def whole():
    """A file that is read: 12 energies, 10 |Q|, one temperature."""
    rng = np.random.default_rng(0)
    return {
        "chi": rng.random((1, 12, 10)),
        "T_K": np.array([10.0]),
        "E_meV": np.arange(10.0, 22.0),
        "Q_invA_left": np.arange(10) * 0.1,
        "Ei_meV": np.float64(50.0),
    }


def read_changed(tmp_path, change, **keywords):
    np.savez(tmp_path / "s.npz", **(whole() | change))
    return read_powder_spectra(tmp_path / "s.npz", **keywords)


def some_valid(rows, columns):
    mask = np.zeros((12, 10), dtype=bool)
    mask[:rows, :columns] = True
    return mask


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Ei_meV": np.float64(15.0)}, "energy_meV reaches 21 at Ei = 15 meV; expected less"),
        ({"Ei_meV": np.float64(21.0)}, "energy_meV reaches 21 at Ei = 21 meV"),
        ({"Ei_meV": np.float64(0.0)}, "Ei_meV is 0; expected the incident energy, above 0"),
        ({"Ei_meV": np.float64(-5.0)}, "Ei_meV is -5; expected"),
        ({"Ei_meV": np.float64(np.nan)}, "Ei_meV is nan; expected"),
        ({"Ei_meV": np.float64(1e6)}, r"Ei_meV is 1e\+06; expected"),
        ({"Ei_meV": np.full(4, 50.0)}, "Ei_meV holds 4 values; expected one"),
        ({"Ei_meV": np.array("50 meV")}, "Ei_meV holds text; expected real numbers"),
        ({"T_K": np.array(["50K"])}, "T_K holds text"),
        ({"T_K": np.array([np.nan])}, "temperature is nan K; expected a finite one"),
        ({"T_K": np.array([-5.0])}, "temperature is -5 K"),
        ({"chi": np.full((1, 12, 10), "x")}, "chi holds text"),
        ({"chi": np.ones((1, 12, 10)) * 1j}, "chi holds complex numbers"),
        ({"mask": np.full((12, 10), "False")}, "mask holds other than true and false"),
        ({"mask": np.full((12, 10), np.nan)}, "mask holds other than true and false"),
        ({"sigma": np.ones(7)}, r"sigma has shape \(7,\); expected \(1, 12, 10\)"),
        ({"sigma": np.zeros((1, 12, 10))}, "sigma is missing or not positive in 120 of 120"),
        ({"E_meV": np.append(np.nan, np.arange(11.0, 22.0))}, "energy_meV does not ascend"),
        ({"Q_invA_left": np.append(np.nan, np.arange(9.0))}, "q_left_inverse_A does not ascend"),
        ({"Q_invA_left": np.arange(10) * 0.1 - 3}, "q_left_inverse_A begins at -3; expected"),
        ({"E_meV": np.ones((12, 1))}, r"energy_meV has shape \(12, 1\); expected one axis"),
        ({"mask": some_valid(1, 1)}, "1 cells with a value at 10 K .* at least 50 over"),
        ({"E_meV": np.arange(10.0, 22.0) / 1000}, "0 cells with a value .* between 3 and 50 meV"),
    ],
)
def test_what_no_spectrum_can_hold_is_refused(tmp_path, change, message):
    with pytest.raises(MeasuredFileError, match=message):
        read_changed(tmp_path, change)


@pytest.mark.parametrize("axis", [1, 2])
def test_two_energies_or_two_columns_are_too_few(tmp_path, axis):
    shape = [1, 60, 60]
    shape[axis] = 2
    change = {
        "chi": np.random.default_rng(0).random(shape),
        "E_meV": 10 + 0.5 * np.arange(shape[1]),
        "Q_invA_left": 0.1 * np.arange(shape[2]),
    }
    with pytest.raises(MeasuredFileError, match="over at least 3 energies and 3"):
        read_changed(tmp_path, change)


def test_the_elastic_line_and_what_lies_outside_the_window_are_left_out(tmp_path):
    change = {"E_meV": np.arange(12.0) - 2}
    (spectrum,) = read_changed(tmp_path, change)
    assert spectrum.energy_meV[0] == 3.0  # 6 % of Ei
    assert spectrum.intensity.shape == spectrum.valid.shape == (7, 10)
    sigma = {"sigma": np.ones((1, 12, 10))}
    (narrow,) = read_changed(tmp_path, change | sigma, window_meV=(4.5, 9.0))
    assert narrow.energy_meV.tolist() == [5, 6, 7, 8, 9]
    assert narrow.sigma is not None
    assert narrow.sigma.shape == (5, 10)


def test_masked_energies_may_reach_ei(tmp_path):
    mask = np.ones((12, 10), dtype=bool)
    mask[6:] = False
    (spectrum,) = read_changed(tmp_path, {"Ei_meV": np.float64(16.0), "mask": mask.astype(int)})
    assert spectrum.valid.sum() == 60


def test_what_is_no_npz_is_told_without_numpys_advice(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.ones(5))
    np.savez(tmp_path / "objects.npz", chi=np.array([{}, 1], dtype=object))
    for name in ("text", "array", "objects"):
        with pytest.raises(MeasuredFileError, match="cannot be read as NPZ") as caught:
            read_powder_spectra(tmp_path / f"{name}.npz")
        assert "pickle" not in str(caught.value)
