"""Reduced spectra from files: what is read, and what is wrong with the rest."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from model_server.powder import holds_spectrum, intensity_of, read_reduced, reduced_spectrum
from simulations.errors import InputError

ABOUT = {"temperature_K": 100.0, "ei_meV": 50.0, "window_meV": (3.0, 40.0)}
Q, E = np.arange(13) * 0.2, np.arange(-5.0, 46.0)
MEV, ANGSTROM = "1.60218e-22*m**2*kg*s**-2", "1e+10*m**-1"


def folded(tmp_path, **change):
    shape = (len(Q) - 1, len(E) - 1)
    rng = np.random.default_rng(0)
    S = rng.poisson(20, shape).astype(float)
    arrays = {
        "S": S,
        "V": S,
        "D": np.ones(shape),
        "momentum_edges_inverse_angstrom": Q,
        "energy_edges_meV": E,
    } | change
    np.savez(tmp_path / "powder.npz", **{k: v for k, v in arrays.items() if v is not None})
    return tmp_path / "powder.npz"


def histogram(tmp_path, units=(ANGSTROM, MEV), **change):
    data = np.random.default_rng(0).random((len(Q) - 1, len(E) - 1))
    arrays = {"data": data, "errors": np.full(data.shape, 0.01), "Q": Q, "E": E} | change
    with h5py.File(tmp_path / "iqe.h5", "w") as file:
        file["IQE/data"], file["IQE/errors"] = arrays["data"], arrays["errors"]
        for axis, unit in zip("QE", units, strict=True):
            file[f"IQE/grid/{axis}/bin boundaries"] = arrays[axis]
            if unit is not None:
                file[f"IQE/grid/{axis}"].attrs["unit"] = unit
    return tmp_path / "iqe.h5"


def test_a_folded_file_is_read_within_its_window(tmp_path):
    (spectrum,) = read_reduced(folded(tmp_path), **ABOUT)
    assert spectrum.energy_meV[[0, -1]].tolist() == [3.5, 39.5]
    assert spectrum.valid.shape == (37, 12)
    (below,) = read_reduced(folded(tmp_path), **(ABOUT | {"ei_meV": 20.0}))
    assert below.energy_meV[-1] == 19.5  # nothing is lost beyond Ei


ALL = np.ones((len(Q) - 1, len(E) - 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"S": ALL.T}, r"S has shape \(50, 12\); expected \(12, 50\)"),
        ({"S": ALL[:2]}, r"S has shape \(2, 50\)"),
        ({"S": ALL.T, "V": ALL.T, "D": ALL.T}, r"S has shape \(50, 12\)"),
        ({"V": None}, "has no array V; expected S, V, D"),
        ({"S": np.full(ALL.shape, "x")}, "S holds text; expected real numbers"),
        ({"S": ALL * np.inf}, "S has no finite value"),
        ({"V": ALL * 0}, "V is missing or not positive in every cell; .* its errors"),
        ({"V": ALL * np.nan}, "V is missing or not positive"),
        ({"V": -ALL}, "V is missing or not positive"),
        ({"D": ALL * np.nan}, "D is missing or not positive in every cell"),
        ({"D": -ALL}, "D is missing or not positive"),
        ({"momentum_edges_inverse_angstrom": Q * np.nan}, r"bins of \|Q\| do not ascend"),
        ({"momentum_edges_inverse_angstrom": Q - 2}, r"\|Q\| begins at -2"),
        ({"momentum_edges_inverse_angstrom": np.float64(1)}, r"edges of \|Q\| have shape \(\)"),
        ({"energy_edges_meV": E * np.nan}, "bins of E do not ascend"),
    ],
)
def test_what_is_wrong_with_a_folded_file_is_named(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        read_reduced(folded(tmp_path, **change), **ABOUT)
    assert "Widen path.energy" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.full(ALL.shape, b"x")}, "IQE/data holds text; expected real numbers"),
        ({"errors": "none"}, "IQE/errors holds text"),
        ({"data": np.zeros(ALL.shape, dtype=[("a", "f8"), ("b", "f8")])}, "IQE/data holds"),
        ({"Q": 1.0}, r"edges of \|Q\| have shape \(\)"),
        ({"Q": Q * np.nan}, r"bins of \|Q\| do not ascend"),
        ({"errors": ALL * np.nan}, "errors are missing or not positive in 600 of 600 cells"),
        ({"errors": ALL * 0}, "errors are missing or not positive"),
        ({"data": ALL * np.inf}, "0 of 600 cells have a finite value"),
        ({"units": (ANGSTROM, "cm^-1")}, "IQE/grid/E is in 'cm.-1'; expected meV"),
        ({"units": (ANGSTROM, "1.60218e-19*m**2*kg*s**-2")}, "IQE/grid/E is in"),
        ({"units": ("1e+09*m**-1", MEV)}, "IQE/grid/Q is in .*; expected 1/angstrom"),
    ],
)
def test_what_is_wrong_with_a_histogram_is_named(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        read_reduced(histogram(tmp_path, **change), **ABOUT)
    assert "Widen path.energy" not in str(caught.value)


@pytest.mark.parametrize(
    "units",
    [(ANGSTROM, MEV), (None, None), ("1/angstrom", "meV"), (np.bytes_("A^-1"), np.bytes_(MEV))],
)
def test_usual_units_and_none_are_accepted(tmp_path, units):
    (spectrum,) = read_reduced(histogram(tmp_path, units=units), **ABOUT)
    assert spectrum.valid.all()


def test_what_holds_a_spectrum_is_known_by_its_axes(tmp_path):
    path = histogram(tmp_path)
    assert holds_spectrum(path)
    with h5py.File(path, "a") as file:
        del file["IQE/grid/Q"]  # a density of states has energies alone
    assert not holds_spectrum(path)
    path.write_bytes(path.read_bytes()[:600])
    assert not holds_spectrum(path)
    assert not holds_spectrum(tmp_path / "none.h5")
    assert not holds_spectrum(folded(tmp_path))


def test_a_link_that_leads_nowhere_beside_the_histogram_does_no_harm(tmp_path):
    path = histogram(tmp_path)
    with h5py.File(path, "r+") as file:
        file["A"] = h5py.SoftLink("/nowhere")
    assert len(read_reduced(path, **ABOUT)) == 1


def test_a_window_without_cells_is_still_blamed(tmp_path):
    with pytest.raises(InputError, match=r"Widen path\.energy"):
        read_reduced(histogram(tmp_path), **(ABOUT | {"window_meV": (3.0, 6.0)}))


def test_the_window_holds_for_the_layout_of_the_shipped_spectrum(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "own.npz"
    np.savez(
        path,
        chi=rng.random((30, 20)),
        T_K=50.0,
        Ei_meV=50.0,
        E_meV=np.arange(30.0),
        Q_invA_left=0.1 * np.arange(20),
    )
    (spectrum,) = read_reduced(path, **(ABOUT | {"window_meV": (7.5, 20.0)}))
    assert spectrum.energy_meV[[0, -1]].tolist() == [8, 20]
    assert (spectrum.ei_meV, spectrum.temperature_K) == (50.0, 50.0)


def test_a_file_of_another_kind_is_told_without_numpys_advice(tmp_path):
    for name, message in (("a.nxspe", "is no NXSPE"), ("a.npz", "is no NPZ")):
        (tmp_path / name).write_text("hello")
        with pytest.raises(InputError, match=message) as caught:
            read_reduced(tmp_path / name, **ABOUT)
        assert "pickle" not in str(caught.value)
    with h5py.File(tmp_path / "run.nxspe", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="Give --experiment"):
        read_reduced(tmp_path / "run.nxspe", **ABOUT)


def test_negative_variances_have_no_error():
    one = np.ones((2, 2))
    variance = np.array([[1.0, -1.0], [4.0, 0.0]])
    _, sigma = intensity_of(one, variance, one)
    assert sigma[0, 0] == 1
    assert not sigma[0, 1] > 0
    with pytest.raises(InputError, match="have a finite value"):
        reduced_spectrum("s", ALL * np.nan, ALL, Q, E, **ABOUT)
