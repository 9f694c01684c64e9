"""Powder fits of a virtual sample whose truth is known: other crystals, cans, wrong models."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from model_server.powder import InversionSettings, fit_powder, reduced_spectrum, report
from model_server.powder.aluminium import can_map
from model_server.powder.components import LOG_WIDTH
from simulations.dynamics import force_constant_model, modes, phonon_dos, read_force_constants
from simulations.instrument import Resolution
from simulations.prior import BoxPrior
from simulations.reciprocal import quasi_random_points
from simulations.scattering import incoherent_spectrum, powder_spectrum

RESOLUTION = Resolution(coefficients=(0.04, -0.03, 0.01))
EI, KELVIN, WIDER = 60.0, 300.0, 1.2
Q_EDGES, E_EDGES = np.linspace(0.3, 7.5, 73), np.linspace(6.0, 46.0, 41)
QUICK = InversionSettings(points=300, log_width=float(np.log(WIDER)), log_width_sigma=0.2)


@cache
def germanium():
    """Two shells of germanium, a box that the truth is not the centre of, and a truth."""
    model = force_constant_model(
        (reference := read_force_constants("germanium")).crystal, reference, 4.1
    )
    truth = model.values * np.where(np.arange(len(model.values)) % 2, 0.92, 1.08)
    half = 0.5 * np.maximum(np.abs(model.values), 0.02 * np.abs(model.values).max())
    prior = BoxPrior(names=model.names, lower=model.values - half, upper=model.values + half)
    return model, prior, truth


def width(energy):
    return WIDER * RESOLUTION.sigma_meV(energy, EI)


@cache
def parts():
    """Phonons and can of the truth, (Q, E), from other sampled q than a fit takes."""
    model, _, truth = germanium()
    points = quasi_random_points(model.crystal, 1500)
    zone = replace(points, q_cart=points.q_cart[500:], weights=points.weights[500:])
    common = {"temperature_K": KELVIN, "resolution": width}
    one = powder_spectrum(model, Q_EDGES, E_EDGES, phi=truth, zone=zone, **common)
    dos = phonon_dos(model, phi=truth)
    rest = incoherent_spectrum(model.crystal, dos, Q_EDGES, E_EDGES, **common)
    return one.intensity + rest.inelastic, can_map("aluminium", Q_EDGES, E_EDGES, **common)


def measured(*, can=0.0, magnetic=0.0, counts=10.0, seed=1):
    """Counts of a virtual powder with a sloping background, as a reduced spectrum."""
    phonons, metal = parts()
    q, energy = 0.5 * (Q_EDGES[1:] + Q_EDGES[:-1]), 0.5 * (E_EDGES[1:] + E_EDGES[:-1])
    unit = phonons.mean()
    expected = phonons + 0.3 * unit * (1.5 - energy / 46.0) + can * metal / metal.mean() * unit
    level = np.exp(-0.5 * ((energy - 20.0) / 1.2) ** 2)
    expected = expected + magnetic * unit * level * np.exp(-0.5 * (q[:, None] / 3.0) ** 2)
    rate = counts * expected / unit
    drawn = np.random.default_rng(seed).poisson(rate).astype(float)
    return reduced_spectrum(
        "virtual",
        3.0 * drawn,
        3.0 * np.sqrt(np.maximum(drawn, 1.0)),
        Q_EDGES,
        E_EDGES,
        temperature_K=KELVIN,
        ei_meV=EI,
        window_meV=(6.0, 46.0),
    )


def test_a_virtual_powder_gives_its_truth_back_and_is_trusted():
    model, prior, truth = germanium()
    spectrum = measured()
    fit = fit_powder(spectrum, model, prior, RESOLUTION, settings=QUICK)
    pulls = (fit.values - truth) / fit.sigma
    assert np.sqrt(np.mean(pulls**2)) < 2.0
    assert np.all(np.abs(pulls) < 4.0)
    own = modes(model, np.zeros((1, 3)), truth)[0][0, -1]
    found = modes(model, np.zeros((1, 3)), fit.values)[0][0, -1]
    assert found == pytest.approx(own, rel=0.015)
    assert fit.resolution_factor == pytest.approx(WIDER, rel=0.15)
    assert fit.converged
    told = report(spectrum, model, prior, fit)
    assert told["trusted"], told["reasons"]
    assert told["chi_square"] == pytest.approx(1.0, abs=0.15)
    assert told["nmse_noise"] < told["nmse_free"] * 1.1
    assert [p["name"] for p in told["parameters"]] == list(model.names)
    for one, sigma in zip(told["parameters"], prior.sigma, strict=True):
        assert set(one) == {"name", "unit", "value", "sigma", "interval90", "informed"}
        assert one["informed"] == (one["sigma"] < 0.8 * sigma)
        assert one["sigma"] <= sigma * 1.0001  # data never make less known than the prior
    centre = next(d for d in told["derived"] if d["name"] == "Gamma modes 4-6")
    assert abs(centre["value"] - own) < 4 * centre["sigma"]


def test_an_unknown_can_is_named_and_a_known_one_is_fitted():
    model, prior, truth = germanium()
    spectrum = measured(can=1.0)
    without = fit_powder(spectrum, model, prior, RESOLUTION, settings=QUICK)
    told = report(spectrum, model, prior, without)
    assert not told["trusted"]
    assert any("lines of aluminium" in reason for reason in told["reasons"]), told["reasons"]
    fit = fit_powder(spectrum, model, prior, RESOLUTION, settings=QUICK, can_material="aluminium")
    assert fit.chi_square < without.chi_square
    told = report(spectrum, model, prior, fit)
    assert told["trusted"], told["reasons"]
    assert fit.can is not None
    phonons, metal = parts()
    share = np.nansum(fit.can) / np.nansum(fit.phonons)
    assert share == pytest.approx(
        phonons.mean() * metal.sum() / metal.mean() / phonons.sum(), rel=0.1
    )
    with pytest.raises(ValueError, match="can has shape"):
        fit_powder(spectrum, model, prior, RESOLUTION, settings=QUICK, can=np.zeros((2, 2)))


def test_what_falls_with_q_is_called_magnetic_and_not_trusted():
    model, prior, _ = germanium()
    spectrum = measured(magnetic=6.0)
    fit = fit_powder(spectrum, model, prior, RESOLUTION, settings=QUICK)
    told = report(spectrum, model, prior, fit)
    assert not told["trusted"]
    assert any("magnetic scattering" in reason for reason in told["reasons"]), told["reasons"]
    assert any("near 20" in r or "near 19" in r or "near 21" in r for r in told["reasons"])


def test_noise_alone_is_not_trusted_because_phonons_explain_nothing():
    model, prior, _ = germanium()
    spectrum = measured()
    rng = np.random.default_rng(3)
    noise = replace(
        spectrum,
        intensity=np.where(spectrum.valid, 200 + 20 * rng.standard_normal(spectrum.valid.shape), 0),
        sigma=np.full(spectrum.valid.shape, 20.0),
    )
    fit = fit_powder(noise, model, prior, RESOLUTION, settings=QUICK)
    told = report(noise, model, prior, fit)
    assert not told["trusted"]
    assert any("phonons of this model explain" in reason for reason in told["reasons"])


def test_a_nuisance_is_reported_with_its_prior():
    model, prior, _ = germanium()
    spectrum = measured(counts=4.0)
    fit = fit_powder(spectrum, model, prior, RESOLUTION, settings=replace(QUICK, points=60))
    told = report(spectrum, model, prior, fit)["nuisances"]["fitted"]
    assert told[0]["name"] == LOG_WIDTH
    assert all(0 < one["sigma"] <= 1.001 * one["prior_sigma"] for one in told)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"intensity": np.zeros(s.valid.shape)}, "intensity is 0 in every valid cell"),
        (lambda s: {"intensity": np.full(s.valid.shape, 7.0)}, "intensity is 7 in every"),
        (lambda s: {"intensity": s.intensity * np.nan}, "intensity is not finite in"),
        (lambda s: {"valid": np.arange(s.valid.size).reshape(s.valid.shape) < 1}, "1 valid cells"),
        (lambda s: {"valid": np.arange(s.valid.shape[1]) < 2 + 0 * s.valid}, "at least 50 over"),
        (lambda s: {"ei_meV": 0.0}, "Ei is 0 meV; expected above 0"),
        (lambda s: {"ei_meV": np.nan}, "Ei is nan meV"),
        (lambda s: {"temperature_K": np.nan}, "temperature is nan K"),
    ],
)
def test_what_no_model_can_be_fitted_to_is_refused(change, message):
    model, prior, _ = germanium()
    spectrum = measured()
    spectrum = replace(spectrum, **change(spectrum))
    with pytest.raises(ValueError, match=message):
        fit_powder(spectrum, model, prior, RESOLUTION, settings=QUICK)
