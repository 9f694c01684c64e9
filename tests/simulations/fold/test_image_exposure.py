"""Sums per image give the coverage tensor, and the rates that follow from it, to 1e-4."""

from dataclasses import fields

import numpy as np
import pytest

from simulations.crystal import Crystal, read_crystal
from simulations.dynamics import eigenmodes, inversion_partners
from simulations.fold import (
    build_voxel_map,
    exposure_of_arrays,
    find_crossings,
    form_for,
    merge_voxels,
)
from simulations.fold.exposure import unpack_tensor
from simulations.fold.image_exposure import IMAGES_FROM_ATOMS, ImageExposure
from simulations.fold.pixel_view import view_pixels
from simulations.instrument import Orientation, crystal_to_lab
from simulations.likelihood import FoldedPhonons
from simulations.reciprocal import EnergyAxis, seekpath_segments
from tests.benchmarks.test_fold import corundum
from tests.simulations.fold.exposures import compute_exposure, compute_image_exposure
from tests.simulations.fold.test_exposure import _small_instrument
from tests.simulations.phonon_oracles import germanium, phonopy_model

ENERGY = EnergyAxis(edges_meV=np.linspace(0, 40, 21), substeps=4)
EI = 60.0


def wurtzite() -> Crystal:
    a, c, u = 3.25, 5.207, 0.382
    lattice = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(0.75), 0], [0, 0, c]])
    third = [1 / 3, 2 / 3], [2 / 3, 1 / 3]
    return Crystal(
        lattice=lattice,
        positions=np.array([[*third[i % 2], 0.5 * (i % 2) + u * (i // 2)] for i in range(4)]),
        symbols=("Zn", "Zn", "O", "O"),
        masses_u=np.array([65.38, 65.38, 16.0, 16.0]),
        scattering_length=np.array([0.568, 0.568, 0.5803, 0.5803]),
        incoherent_barn=np.zeros(4),
        conventional_lattice=lattice,
    )


CRYSTALS = {
    "germanium": lambda: read_crystal("germanium"),
    "wurtzite": wurtzite,
    "corundum": corundum,
}


def setting(crystal, voxels, psi=17.0, seed=1, pixels=300):
    rng = np.random.default_rng(2)
    squares = rng.normal(size=(crystal.n_atoms, 3, 3))
    return {
        "crystal": crystal,
        "voxels": voxels,
        "instrument": _small_instrument(pixels, seed),
        "energy": ENERGY,
        "ei_meV": EI,
        "crystal_to_lab": crystal_to_lab(
            Orientation(u=(1, 1, 0), v=(0, 0, 1)), crystal.conventional_reciprocal, psi
        ),
        "displacement": 0.002 * (squares @ squares.transpose(0, 2, 1)),
    }


def tubes(crystal):
    return build_voxel_map(
        crystal, seekpath_segments(crystal, 0.1), half_width_rlu=0.1, voxel_rlu=0.025
    )


@pytest.mark.parametrize("name", CRYSTALS)
def test_images_give_the_coverage_tensor_mode_by_mode(name):
    crystal = CRYSTALS[name]()
    given = setting(crystal, tubes(crystal))
    tensor, images = compute_exposure(**given), compute_image_exposure(**given)
    for field in fields(tensor):
        if field.name != "tensor":
            same = getattr(images.moments, field.name)
            np.testing.assert_allclose(same, getattr(tensor, field.name), rtol=1e-12, atol=1e-12)
    seen = tensor.weight > 0
    assert seen.sum() > 1000
    T = unpack_tensor(tensor.tensor[seen], crystal.n_atoms)
    ours = unpack_tensor(images.with_tensor(crystal).tensor[seen], crystal.n_atoms)
    # The norm bounds e^dagger (T' - T) e of every mode, inside degenerate groups too.
    off = np.linalg.norm(ours - T, ord=2, axis=(1, 2))
    assert np.all(off < 1e-4 * np.linalg.norm(T, ord=2, axis=(1, 2)))
    assert off.max() > 0
    if name == "germanium":
        voxel = np.argwhere(seen)[:, 0]
        q = given["voxels"].centre_cartesian[voxel] + 1e-3
        _, e = eigenmodes(germanium().dynamical_matrices(q))
        weights, expected = (np.einsum("vis,vij,vjs->vs", e.conj(), M, e).real for M in (ours, T))
        assert np.all(np.abs(weights - expected) < 1e-4 * expected.max(axis=1, keepdims=True))


def test_images_of_one_tensor_are_few():
    crystal = corundum()
    images = compute_image_exposure(**setting(crystal, tubes(crystal)))
    per_cell = np.diff(images.start)[images.weight.ravel() > 0]
    assert per_cell.min() >= 1
    weight = np.add.reduceat(images.sums[:, 0], images.start[:-1][np.diff(images.start) > 0])
    np.testing.assert_allclose(weight, images.weight[images.weight > 0], rtol=1e-12)
    assert images.nbytes < 0.1 * images.with_tensor(crystal).nbytes


def test_sums_scale_add_and_merge_as_those_of_the_tensor():
    crystal = wurtzite()
    voxels = tubes(crystal)
    merged = merge_voxels(voxels, 0.1)
    settings = [setting(crystal, voxels, psi, seed) for psi, seed in ((10.0, 1), (40.0, 2))]
    tensor = [compute_exposure(**given) for given in settings]
    images = [compute_image_exposure(**given) for given in settings]
    both = tensor[0].scaled(3.0) + tensor[1]
    ours = images[0].scaled(3.0) + images[1]
    for expected, found, off in (
        (both, ours, 1e-5),
        (both.merged(merged), ours.merged(merged), 1e-4),
    ):
        full = found.with_tensor(crystal)
        gap = np.linalg.norm(full.tensor - expected.tensor, axis=-1)
        assert np.all(gap <= off * np.linalg.norm(expected.tensor, axis=-1))
        np.testing.assert_allclose(full.second, expected.second, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(
            found.path_sums(voxels if found is ours else merged)[0],
            expected.path_sums(voxels if found is ours else merged)[0],
        )
    other = images[1] + images[0].scaled(3.0)
    np.testing.assert_allclose(other.sums, ours.sums, rtol=1e-12)
    assert np.array_equal(other.reciprocal[other.image], ours.reciprocal[ours.image])


@pytest.mark.parametrize("name", ["germanium", "P-3m1"])
def test_rates_and_derivatives_do_not_depend_on_the_form(name, request):
    """Nor on whether matrices are real, of crystals with a centre of inversion."""
    if name == "germanium":
        model = germanium(7.0)
    else:
        model = phonopy_model(request.getfixturevalue("shared_data"), name)[1]
    model = model.with_free(model.elements[:4])
    voxels = tubes(model.crystal)
    given = setting(model.crystal, voxels)
    partner = inversion_partners(model.crystal)
    given["displacement"] = 0.5 * (given["displacement"] + given["displacement"][partner])
    found = {}
    for real in (False, True):
        forward = FoldedPhonons(
            model=model,
            voxels=voxels,
            energy=ENERGY,
            ei_meV=EI,
            temperature_K=200.0,
            resolution=_small_instrument().resolution,
            real=real,
        )
        state = forward.prepare(forward.model.values)
        assert np.iscomplexobj(state.vectors) != real
        for compute in (compute_exposure, compute_image_exposure):
            exposure = compute(**given)
            found[real, exposure.form] = forward.rates(exposure, state)
            alone, _ = forward.rates(exposure, state, gradient=False)
            np.testing.assert_allclose(alone, found[real, exposure.form][0], rtol=1e-12)
    assert found[True, "tensor"][0].max() > 0
    for pair, rate_off, slope_off in (
        (((True, "images"), (True, "tensor")), 1e-4, 1e-4),
        (((True, "images"), (False, "images")), 1e-9, 1e-6),
        (((True, "tensor"), (False, "tensor")), 1e-9, 1e-6),
    ):
        (ours, our_slope), (rate, slope) = (found[one] for one in pair)
        np.testing.assert_allclose(ours, rate, rtol=rate_off, atol=1e-7 * rate.max())
        scale = np.abs(slope).max(axis=(0, 1))
        assert np.all(np.abs(our_slope - slope) < slope_off * scale)


def test_an_orientation_that_sees_nothing_has_no_images():
    crystal = wurtzite()
    given = setting(crystal, tubes(crystal))
    given["skip"] = np.ones((300, 80), dtype=bool)
    nothing = compute_image_exposure(**given)
    assert isinstance(nothing, ImageExposure)
    assert len(nothing.image) == 0
    assert not np.any(nothing.with_tensor(crystal).tensor)
    assert len((nothing + nothing).sums) == 0


@pytest.mark.parametrize("substeps", [1, 4, 20])
def test_passing_over_pairs_outside_the_tubes_changes_no_bit(substeps):
    crystal = wurtzite()
    given = setting(crystal, tubes(crystal))
    given["energy"] = EnergyAxis(edges_meV=ENERGY.edges_meV, substeps=substeps)
    view = view_pixels(**{n: v for n, v in given.items() if n not in ("voxels", "displacement")})
    given["skip"] = np.random.default_rng(4).random((300, len(view.kf))) < 0.3
    plain = compute_image_exposure(**given)
    passing = compute_image_exposure(**given, crossings=find_crossings(view, given["voxels"]))
    assert len(plain.image) > 100
    for name, array in plain.arrays().items():
        np.testing.assert_array_equal(passing.arrays()[name], array, err_msg=name)


def test_the_form_follows_from_the_number_of_atoms():
    assert wurtzite().n_atoms < IMAGES_FROM_ATOMS <= corundum().n_atoms
    assert [form_for(c) for c in (wurtzite(), corundum())] == ["tensor", "images"]


@pytest.fixture(scope="module")
def both_forms():
    given = setting(wurtzite(), tubes(wurtzite()))
    return compute_exposure(**given), compute_image_exposure(**given)


def test_either_form_comes_back_from_its_arrays(both_forms):
    for exposure in both_forms:
        arrays = exposure.arrays()
        again = exposure_of_arrays(exposure.form, arrays)
        assert type(again) is type(exposure)
        assert again.nbytes == sum(a.nbytes for a in arrays.values()) == exposure.nbytes
        for name, array in again.arrays().items():
            assert array is arrays[name]


def test_an_exposure_of_another_number_of_atoms_is_refused(both_forms):
    for exposure in both_forms:
        with pytest.raises(ValueError, match=r"exposure has .* Compute it for this crystal"):
            exposure.coverage(corundum())


def _moved(array, at, value):
    moved = array.copy()
    moved[at] = value
    return moved


HOSTILE = {  # what is wrong with which array of which form, and what the error says
    "missing": ("images", "sums", None, "arrays are"),
    "short sums": ("images", "sums", lambda a: a[:-1], "sums is float64 of shape"),
    "single precision": ("images", "sums", lambda a: a.astype(np.float32), "sums is float32"),
    "flat moments": ("images", "weight", lambda a: a.ravel(), "expected voxels x energy bins"),
    "other voxels": ("images", "first", lambda a: a[1:], "first is float64 of shape"),
    "start beyond": ("images", "start", lambda a: _moved(a, -1, a[-1] + 1), "start runs from 0"),
    "start falls": ("images", "start", lambda a: _moved(a, 1, a[-1] + 1), "expected it to rise"),
    "start late": ("images", "start", lambda a: _moved(a, 0, 1), "start runs from 1"),
    "row beyond": ("images", "image", lambda a: _moved(a, 3, 1 << 20), "image holds 0 to 1048576"),
    "row before": ("images", "image", lambda a: _moved(a, 3, -1), "image holds -1"),
    "no vectors": ("images", "reciprocal", lambda a: a[:0], "rows of reciprocal, which has 0"),
    "pairs": ("images", "reciprocal", lambda a: a[:, :2], "reciprocal is int32 of shape"),
    "displacement": ("images", "displacement", lambda a: a[..., 0], "displacement is float64"),
    "no square": ("tensor", "tensor", lambda a: a[..., :-1], "expected 6 N"),
    "a number": ("tensor", "tensor", lambda a: a.sum(), "tensor is float64 of shape"),
    "other cells": ("tensor", "tensor", lambda a: a[:, 1:], "tensor is float64 of shape"),
    "images as tensor": ("tensor", "start", lambda a: np.zeros(3), "arrays are"),
    "other form": ("sparse", "image", lambda a: a, "form 'sparse'; expected 'tensor' or 'images'"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_arrays_that_do_not_fit_together_are_refused(fault, both_forms):
    form, name, change, says = HOSTILE[fault]
    arrays = both_forms[0 if form == "tensor" else 1].arrays()
    if change is None:
        del arrays[name]
    else:
        arrays[name] = np.asarray(change(arrays.get(name)))
    with pytest.raises(ValueError, match=says):
        exposure_of_arrays(form, arrays)
