from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import phonopy
import pytest

from simulations.dynamics import elastic_constants, modes
from simulations.dynamics.modes import energy_gradients
from simulations.errors import InputError
from steering.predict import posterior_phonons, write_posterior_phonons
from steering.predict.posterior_phonons import Band, posterior_of
from tests.steering.posterior_result import example_model, result_of

FREE = ("1NN xx", "1NN xy", "2NN xx", "2NN xz", "2NN zz", "5NN zz")


def germanium():
    return example_model().with_free(FREE)


@pytest.fixture(scope="module")
def found():
    return posterior_phonons(
        result_of(germanium(), 0.003),
        example_model(),
        samples=300,
        seed=2,
        points=60,
        temperatures_K=[20, 100, 300],
    )


def assert_linear(band: Band, sigma, pick):
    """Sigma and quantiles of a small covariance are those of linear error propagation."""
    np.testing.assert_allclose(band.sigma[pick], sigma[pick], rtol=0.15)
    half = 0.5 * (band.high90 - band.low90)
    np.testing.assert_allclose(half[pick], 1.645 * sigma[pick], rtol=0.22)
    half = 0.5 * (band.high68 - band.low68)
    np.testing.assert_allclose(half[pick], 0.994 * sigma[pick], rtol=0.25)
    middle = 0.5 * (band.high68 + band.low68)
    np.testing.assert_array_less(np.abs(middle - band.value)[pick], 0.4 * sigma[pick])


def test_bands_of_energies_are_those_of_linear_error_propagation(found):
    posterior = found.posterior
    model = posterior.model
    q = found.path.hkl @ model.crystal.conventional_reciprocal
    energies, vectors = modes(model, q, posterior.values)
    np.testing.assert_allclose(found.energies_meV.value, energies, atol=1e-8)
    slopes = energy_gradients(model, q, energies, vectors)
    sigma = np.sqrt(np.einsum("qsk,kl,qsl->qs", slopes, posterior.covariance, slopes))
    gap = np.minimum(
        np.diff(energies, axis=1, prepend=-np.inf), np.diff(energies, axis=1, append=np.inf)
    )
    alone = (gap > 12 * sigma) & (energies > 1)
    assert alone.sum() > 100
    assert_linear(found.energies_meV, sigma, alone)


def derivative(posterior, of_set, step=1e-4):
    """Central differences by every parameter, (K, ...)."""
    out = []
    for k, value in enumerate(posterior.values):
        move = np.zeros(len(posterior.values))
        move[k] = step * abs(value)
        up, down = of_set(posterior.values + move), of_set(posterior.values - move)
        out.append((up - down) / (2 * move[k]))
    return np.array(out)


def test_bands_of_elastic_constants_are_those_of_linear_error_propagation(found):
    posterior = found.posterior
    slopes = derivative(posterior, lambda phi: elastic_constants(posterior.model, phi).voigt_GPa)
    sigma = np.sqrt(np.einsum("kij,kl,lij->ij", slopes, posterior.covariance, slopes))
    assert_linear(found.elastic_GPa, sigma, ([0, 0, 3], [0, 1, 3]))


def test_a_band_holds_nine_of_ten_draws(found):
    truths = found.posterior.draws(2000, seed=77)
    voigt = elastic_constants(found.posterior.model, truths).voigt_GPa
    for i, j in ((0, 0), (0, 1), (3, 3)):
        band = found.elastic_GPa
        inside = (voigt[:, i, j] > band.low90[i, j]) & (voigt[:, i, j] < band.high90[i, j])
        assert 0.86 < inside.mean() < 0.94
        inside = (voigt[:, i, j] > band.low68[i, j]) & (voigt[:, i, j] < band.high68[i, j])
        assert 0.62 < inside.mean() < 0.74


def test_heat_capacity_and_displacements_are_those_of_phonopy_on_the_files_written(found, tmp_path):
    write_posterior_phonons(found, tmp_path, sets=1)
    for folder, value in ((tmp_path, True), (tmp_path / "sample-001", False)):
        phonon = phonopy.load(
            folder / "phonopy.yaml",
            force_constants_filename=folder / "FORCE_CONSTANTS",
            symmetrize_fc=False,
            log_level=0,
        )
        phonon.run_mesh([26, 26, 26], is_mesh_symmetry=False)
        phonon.run_thermal_properties(temperatures=found.temperatures_K)
        capacity = phonon.thermal_properties.heat_capacity
        band = found.heat_capacity
        if value:
            np.testing.assert_allclose(band.value, capacity, rtol=2e-3)
        else:  # another set: inside or near the band
            assert np.all(np.abs(capacity - band.value) < 5 * band.sigma + 2e-3 * band.value)
            assert np.any(np.abs(capacity - band.value) > 0.05 * band.sigma)
    phonon.run_mesh([24, 24, 24], with_eigenvectors=True, is_mesh_symmetry=False)
    phonon.run_thermal_displacements(temperatures=[300], freq_min=1e-2)
    moved = phonon.thermal_displacements.thermal_displacements[0].reshape(2, 3).mean(axis=1)
    np.testing.assert_allclose(found.isotropic_A2.value[-1], moved, rtol=0.03)


def test_hot_crystals_have_the_classical_heat_capacity_and_the_density_all_modes():
    found = posterior_phonons(
        result_of(germanium(), 0.003), example_model(), samples=20, points=20,
        temperatures_K=[0, 5000],
    )  # fmt: skip
    np.testing.assert_allclose(found.heat_capacity.value, [0, 6 * 8.314462618], rtol=1e-3)
    modes_counted = found.dos.value @ np.diff(found.dos_edges_meV)
    assert modes_counted == pytest.approx(6, rel=1e-6)
    assert found.isotropic_A2.value[0, 0] > 1e-4  # zero-point motion


def test_an_untrusted_result_says_so_first(found):
    result = result_of(germanium(), 0.003, trusted=False)
    other = posterior_phonons(result, example_model(), samples=20, points=20)
    assert next(iter(other.content())) == "verdict"
    assert other.verdict.startswith("NOT TRUSTED: chi-square per cell 3.1")
    assert found.verdict.startswith("TRUSTED")


def test_what_is_held_is_told(found):
    told = " ".join(found.notes)
    assert "15 of the 21 constants within 7 angstrom" in told
    assert "constants beyond" in told
    assert "long waves" in told


def test_unstable_draws_are_counted_and_left_out():
    found = posterior_phonons(
        result_of(germanium(), 0.12), example_model(), samples=150, points=60, temperatures_K=[300]
    )
    assert 5 < found.unstable < 130
    assert len(found.draws) == 150 - found.unstable
    q = found.path.hkl @ found.posterior.model.crystal.conventional_reciprocal
    lowest = [modes(found.posterior.model, q, phi)[0].min() for phi in found.draws]
    assert min(lowest) > -0.05
    assert found.energies_meV.low90.min() > -0.05
    assert np.isfinite(found.heat_capacity.low90).all()
    assert any(f"{found.unstable} of 150 draws are dynamically unstable" in n for n in found.notes)


def test_an_unstable_mean_is_told_and_has_no_heat_capacity(tmp_path):
    """Springs of the second neighbours turned around; few draws or none are stable."""
    model = germanium()
    values = model.values
    values[0] *= 0.6
    result = result_of(model, 0.001)
    parts = [
        p.model_copy(update={"value": float(v)})
        for p, v in zip(result.parameters, values, strict=True)
    ]
    result = result.model_copy(update={"parameters": tuple(parts)})
    found = posterior_phonons(result, example_model(), samples=20, points=60)
    assert not found.mean_stable
    assert found.unstable == 20
    assert np.isnan(found.heat_capacity.value).all()
    assert np.isnan(found.energies_meV.low90).all()
    assert found.energies_meV.value.min() < -1
    told = " ".join(found.notes)
    assert "only 0 draws are stable" in told
    assert "the mean itself has imaginary modes" in told
    written = write_posterior_phonons(found, tmp_path)
    assert all(path.is_file() for path in written)
    assert not list(tmp_path.glob("sample-*"))


def test_a_seed_gives_the_same_draws_and_another_others(found):
    again = posterior_of(result_of(germanium(), 0.003), example_model(), where="again")
    np.testing.assert_array_equal(again.draws(300, 2), found.draws)
    assert np.any(again.draws(300, 3) != found.draws)


def test_a_polar_crystal_says_how_its_dipoles_are_summed():
    model = example_model("MgO/experiment.yaml")
    found = posterior_phonons(result_of(model, 0.01), model, samples=20, points=20)
    assert set(found.element_dos) == {"Mg", "O"}
    both = sum(band.value for band in found.element_dos.values())
    np.testing.assert_allclose(both, found.dos.value, atol=1e-9)
    assert any("dipole_sum" in note for note in found.notes)
    assert found.isotropic_A2.value.shape == (1, 2)


def spoilt(**changes):
    document = result_of(germanium(), 0.003).document()
    for key, change in changes.items():
        document[key] = change(document[key])
    return result_of(germanium(), 0.003, **{key: document[key] for key in changes})


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (lambda: spoilt(parameters=lambda _: []), "parameters is empty"),
        (lambda: spoilt(covariance=lambda _: None), "covariance is missing"),
        (lambda: spoilt(covariance=lambda c: c[:-1]), "covariance is not 6 x 6"),
        (lambda: spoilt(covariance=lambda c: [[-x for x in row] for row in c]), "eigenvalue"),
        (lambda: spoilt(parameters=lambda p: [{**p[0], "unit": "THz"}, *p[1:]]), "THz"),
        (lambda: spoilt(parameters=lambda p: [{**p[0], "name": "77NN xx"}, *p[1:]]), "-e FILE"),
        (
            lambda: spoilt(parameters=lambda p: [{**p[0], "value": float("nan")}, *p[1:]]),
            "NaN or infinity",
        ),
    ],
)
def test_what_is_no_posterior_is_refused_with_what_to_do(result, says):
    with pytest.raises(InputError, match=says) as caught:
        posterior_of(result(), example_model(), where="build/result.json")
    assert str(caught.value).startswith("build/result.json: ")


@pytest.mark.parametrize(
    "settings", [{"samples": 5}, {"samples": 10**6}, {"temperatures_K": [-1]}, {"path": "Q"}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError):
        posterior_phonons(result_of(germanium(), 0.003), example_model(), points=10, **settings)


def test_content_is_plain_and_draws_follow_the_covariance(found):
    json.dumps(found.content()["notes"])
    wide = replace(found.posterior, covariance=4 * found.posterior.covariance)
    spread = np.cov(wide.draws(20000, 1).T)
    np.testing.assert_allclose(spread, wide.covariance, rtol=0.05, atol=1e-9)
