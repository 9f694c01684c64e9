"""Training sets: stable, reproducible, the same however they are cut and wherever they run."""

import time

import numpy as np
import pytest

from simulations.dynamics import modes, select_free
from simulations.prior import BoxPrior, PriorRejectsAllError, load_prior
from simulations.reciprocal import EnergyAxis
from simulations.scattering import displacement_tensors
from simulations.scattering.one_phonon import default_zone
from simulations.scattering.path_spectra import path_model, path_spectra
from simulations.scattering.training_set import (
    block_ranges,
    delayed_arrays,
    delayed_blocks,
    training_block,
    training_blocks,
    training_plan,
    training_set,
)
from tests.simulations.phonon_oracles import germanium, zone_vectors

AXIS = EnergyAxis(edges_meV=np.linspace(0.0, 50.0, 51))


def plan(sets=70, seed=4, free=8, points=12, axis=AXIS, **options):
    model = germanium()
    hkl = np.linspace([2, 2, 0.02], [2, 2, 1], points)
    Q = hkl @ model.crystal.conventional_reciprocal
    model = model.with_free(select_free(model, free, Q))
    path = path_model(model, Q, axis, 0.8, 5.0, displacement_tensors(model, 5.0))
    prior = load_prior("germanium").restricted(model.names)
    return training_plan(path, prior, sets, seed, **options)


def test_sets_lie_in_the_box_are_stable_and_their_spectra_belong_to_them():
    this = plan()
    whole = training_set(this)
    assert whole.spectra.shape == (70, 12, 50)
    assert whole.spectra.dtype == np.float32
    assert this.prior.contains(whole.parameters).all()
    assert 0.1 < whole.acceptance < 1
    energies, _ = modes(this.path.model, zone_vectors(this.path.model, 20), whole.parameters)
    assert energies.min() > 0
    want = path_spectra(this.path, whole.parameters)
    np.testing.assert_allclose(whole.spectra, want, rtol=1e-6, atol=1e-7 * want.max())


def test_the_set_does_not_depend_on_its_blocks_but_on_its_seed():
    this = plan()
    whole = training_set(this, sets_per_block=70)
    for size in (1, 33, 64):
        blocks = list(training_blocks(this, size))
        assert [b.first for b in blocks] == [a for a, _ in block_ranges(this, size)]
        np.testing.assert_array_equal(
            np.concatenate([b.parameters for b in blocks]), whole.parameters
        )
        np.testing.assert_array_equal(np.concatenate([b.spectra for b in blocks]), whole.spectra)
        assert sum(b.drawn for b in blocks) == whole.drawn
    other = training_set(plan(seed=5))
    assert not np.any(other.parameters == whole.parameters)


def test_more_sets_of_a_seed_begin_with_the_fewer():
    np.testing.assert_array_equal(
        training_set(plan(sets=90)).parameters[:70], training_set(plan()).parameters
    )


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_dask_gives_the_same_set(scheduler):
    dask = pytest.importorskip("dask", reason="the extra `dask` is not installed")
    this = plan()
    whole = training_set(this)
    blocks = dask.compute(*delayed_blocks(this, 32), scheduler=scheduler)
    np.testing.assert_array_equal(np.concatenate([b.spectra for b in blocks]), whole.spectra)
    parameters, spectra = delayed_arrays(this, 32)
    assert spectra.shape == whole.spectra.shape
    parameters, spectra = dask.compute(parameters, spectra, scheduler=scheduler)
    np.testing.assert_array_equal(parameters, whole.parameters)
    np.testing.assert_array_equal(spectra, whole.spectra)


def test_a_plan_can_be_sent_to_another_process():
    cloudpickle = pytest.importorskip("cloudpickle")
    this = plan(sets=3)
    there = cloudpickle.loads(cloudpickle.dumps(this))
    np.testing.assert_array_equal(training_set(there).spectra, training_set(this).spectra)


def test_sets_may_have_their_own_debye_waller_factor():
    this = plan(sets=3, own_displacements=True)
    whole = training_set(this)
    for values, spectrum in zip(whole.parameters, whole.spectra, strict=True):
        U = displacement_tensors(
            this.path.model, 5.0, values, default_zone(this.path.model.crystal)
        )
        want = path_spectra(this.path, values[None], displacements=U[None])[0]
        np.testing.assert_allclose(spectrum, want, rtol=1e-5, atol=1e-6 * want.max())


def test_a_plan_says_how_far_its_own_displacements_are_from_converged_ones():
    assert 1e-5 < plan(own_displacements=True).displacement_error < 5e-3
    assert np.isnan(plan().displacement_error)


def test_what_cannot_be_a_training_set_is_refused():
    this = plan()
    with pytest.raises(ValueError, match="restrict the prior"):
        training_plan(this.path, load_prior("germanium"), 3, 0)
    with pytest.raises(ValueError, match="sets is 0"):
        training_plan(this.path, this.prior, 0, 0)
    with pytest.raises(ValueError, match="block is 60 to 80"):
        training_block(this, 60, 80)
    values = this.path.model.values
    flipped = BoxPrior(names=this.prior.names, lower=-values - 0.01, upper=-values + 0.01)
    with pytest.raises(PriorRejectsAllError, match="narrow the box"):
        training_set(training_plan(this.path, flipped, 1, 0))


@pytest.mark.slow
def test_ten_thousand_spectra_in_one_call():
    axis = EnergyAxis(edges_meV=np.linspace(0.0, 50.0, 201))
    for own in (False, True):
        this = plan(sets=10_000, free=12, points=150, axis=axis, own_displacements=own)
        training_block(this, 0, 1)
        start = time.perf_counter()
        whole = training_set(this)
        seconds = time.perf_counter() - start
        assert np.isfinite(whole.spectra).all()
        print(  # noqa: T201
            f"\n10,000 spectra of 150 q, 200 energy bins, 12 parameters: {seconds:.1f} s on one "
            f"thread, acceptance {whole.acceptance:.2f}, "
            f"{'own' if own else 'shared'} Debye-Waller tensors"
        )
