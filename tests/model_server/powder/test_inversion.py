"""Force constants from powder spectra: known truth first, then measured aluminium."""

import json
from dataclasses import replace

import numpy as np
import pytest

from model_server.powder import (
    InversionSettings,
    aluminium_setup,
    fit_powder,
    invert_powder,
    report,
)
from simulations.constants import BOLTZMANN_MEV_PER_K
from simulations.dynamics import phonon_dos
from simulations.reciprocal import quasi_random_points
from simulations.scattering import incoherent_spectrum, powder_spectrum, read_powder_spectra

QUICK = InversionSettings(points=400, blur_stages=(0.03, 0.0))


def simulated(phi, temperature_K=280.0, noise=0.0, seed=0):
    """Spectrum with the shipped axes and mask from other sampled q than the fit takes."""
    shipped = next(s for s in read_powder_spectra() if s.temperature_K == temperature_K)
    model, prior, resolution = aluminium_setup(temperature_K)
    q, e = shipped.q_inverse_A, shipped.energy_meV
    q_edges, e_edges = np.append(q - 0.05, q[-1] + 0.05), np.append(e - 0.25, e[-1] + 0.25)
    q_edges[0] = 1e-3

    def width(energy):
        return 1.4 * resolution.sigma_meV(energy, 50.0)

    # 6,000 points from another start of the sequence: what is tested is the sampling of the fit
    points = quasi_random_points(model.crystal, 6600)
    zone = replace(points, q_cart=points.q_cart[600:], weights=points.weights[600:])
    one = powder_spectrum(
        model,
        q_edges,
        e_edges,
        temperature_K=temperature_K,
        resolution=width,
        ei_meV=50.0,
        phi=phi,
        zone=zone,
    )
    rest = incoherent_spectrum(
        model.crystal,
        phonon_dos(model, phi=phi),
        q_edges,
        e_edges,
        temperature_K=temperature_K,
        resolution=width,
        ei_meV=50.0,
    )
    bose = -np.expm1(-e / (BOLTZMANN_MEV_PER_K * temperature_K))
    chi = (one.intensity + rest.inelastic).T * bose[:, None]
    chi = 3.0 * chi / np.ptp(chi[shipped.valid]) - 0.2
    sigma = np.full(chi.shape, noise) if noise else None
    if noise:
        chi = chi + np.random.default_rng(seed).normal(0.0, noise, chi.shape)
    data = np.where(shipped.valid, chi, np.nan)
    return replace(shipped, intensity=data, sigma=sigma), model, prior, resolution


TRUTH = np.array([-0.60, -0.66, 0.10, -0.14, 0.02])


def test_known_force_constants_are_found_again():
    spectrum, model, prior, resolution = simulated(TRUTH)
    fit = fit_powder(spectrum, model, prior, resolution, settings=QUICK)
    np.testing.assert_allclose(fit.values, TRUTH, atol=0.03)
    # the free width also smooths the sampling of the model, so it comes out too large
    assert 1.2 < fit.resolution_factor < 2.2
    assert fit.nmse_free < 0.01  # what is left is the sampling of the powder average
    sigma = np.sqrt(np.diag(fit.covariance))
    assert np.all(np.abs(fit.values - TRUTH) < 5 * sigma)
    onsite = model.onsite(fit.values)[0, 0, 0]
    assert onsite == pytest.approx(model.onsite(TRUTH)[0, 0, 0], rel=0.01)


def test_the_report_is_json_and_its_intervals_hold_the_value():
    spectrum, model, prior, resolution = simulated(TRUTH, noise=0.3)
    settings = InversionSettings(points=100, blur_stages=(0.0,))
    fit = fit_powder(spectrum, model, prior, resolution, settings=settings)
    result = report(spectrum, model, prior, fit)
    assert json.loads(json.dumps(result)) == result
    assert [p["name"] for p in result["parameters"]] == list(model.names)
    for entry in result["parameters"] + result["derived"]:
        low, high = entry["interval90"]
        assert low < entry["value"] < high
        assert entry["unit"] == "eV/angstrom^2"
    assert result["derived"][0]["name"] == "on-site Al1 xx"
    assert "misfit" in result["error_bars"]
    # this noise was declared as sigma, so chi-square per degree of freedom is near 1
    assert result["chi_square"] == pytest.approx(1.0, abs=0.25)


def test_measured_aluminium_at_50_kelvin_gives_its_known_constants():
    result = invert_powder("aluminium", temperature_K=50.0, settings=InversionSettings(points=250))
    values = {p["name"]: p["value"] for p in result["parameters"]}
    # first neighbours of Gilat and Nicklow (1966), 80 K: near 10.46, 10.37, -2.63 N/m
    assert values["1NN xx"] == pytest.approx(-0.65, abs=0.06)
    assert values["1NN xy"] == pytest.approx(-0.65, abs=0.08)
    assert values["1NN zz"] == pytest.approx(0.16, abs=0.04)
    assert result["derived"][0]["value"] == pytest.approx(4.66, abs=0.15)
    assert result["nmse_free"] < 0.17
    assert result["nmse_paper"] < 0.19
    assert result["noise"] == "from neighbouring cells"
    assert not result["trusted"]  # what is left is several times the noise: anharmonic widths


def test_too_many_shells_and_bad_sigma_are_refused():
    with pytest.raises(
        ValueError, match="temperature_K is 51.5; aluminium has 50, 280, 450, 640 K"
    ):
        invert_powder("aluminium", temperature_K=51.5)
    with pytest.raises(ValueError, match="shells is 9; expected 1 to 5"):
        aluminium_setup(50.0, shells=9)
    spectrum = read_powder_spectra()[0]
    broken = replace(spectrum, sigma=np.zeros_like(spectrum.intensity))
    with pytest.raises(ValueError, match="sigma is not positive in every valid cell"):
        fit_powder(broken, *aluminium_setup(50.0))


@pytest.mark.slow
def test_the_on_site_constant_of_measured_aluminium_falls_with_temperature():
    onsite, free = [], []
    for spectrum in read_powder_spectra():
        result = invert_powder(spectrum)
        onsite.append(result["derived"][0]["value"])
        free.append(result["nmse_free"])
    assert np.all(np.diff(onsite) < 0)
    assert np.mean(free) < 0.18


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_published_labels_reproduce_the_published_simulation(shared_data):
    """Identifies the labels: on-site, 2 x 2NN xx, 2 x 2NN yy, 1NN zz (positive), 1NN xy."""
    with np.load(shared_data / "al-arcs" / "al_sim_0001.npz") as kept:
        data = dict(kept)
    onsite, xx2, yy2, zz1, xy1 = data["label"]
    xx, yy = -xx2 / 2, yy2 / 2
    phi = np.array([-(onsite + 2 * xx + 4 * yy + 4 * zz1) / 8, -xy1, zz1, xx, yy])
    model, _, resolution = aluminium_setup(293.0)
    assert model.onsite(phi)[0, 0, 0] == pytest.approx(onsite)
    valid, q, e = data["mask"], data["Q_invA_left"], data["E_meV"]
    q_edges, e_edges = np.append(q - 0.05, q[-1] + 0.05), np.append(e - 0.25, e[-1] + 0.25)
    q_edges[0] = 1e-3
    out = powder_spectrum(
        model,
        q_edges,
        e_edges,
        temperature_K=10.0,
        resolution=lambda x: 1.6 * resolution.sigma_meV(x, 50.0),
        ei_meV=50.0,
        phi=phi,
    )
    columns = np.stack([out.intensity.T[valid], np.ones(valid.sum())], axis=1)
    measured = data["chi"][valid]
    solution, *_ = np.linalg.lstsq(columns, measured, rcond=None)
    left = measured - columns @ solution
    assert left @ left / (measured @ measured) < 0.05
