"""Plain torch against the compiled kernel: modes, spectra, gradients."""

import numpy as np
import pytest
import torch

from simulations.dynamics import mode_kernels as dynamics_kernel
from simulations.reciprocal import EnergyAxis
from simulations.scattering.path_spectra import path_model, path_spectra_gradients
from tests.simulations import torch_dynamics
from tests.simulations.phonon_oracles import aluminium, germanium, zone_vectors

AXIS = EnergyAxis(edges_meV=np.linspace(-20.0, 45.0, 131))
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def width(energy):
    return 0.9 + 0.01 * energy


def degenerate_path(model):
    hkl = np.array(
        [[0, 0, 0.4], [0, 0, 1], [0.5, 0.5, 0.5], [0, 0, 0], [0.3, 0.3, 0.3], [0.1, 0.4, 0]]
    )
    Q = (hkl + [2, 0, 2]) @ model.crystal.conventional_reciprocal
    U = 0.005 * np.repeat(np.eye(3)[None], model.crystal.n_atoms, axis=0)
    return path_model(model, Q, AXIS, width, 100.0, U)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("build", [germanium, aluminium])
def test_modes_equal_those_of_the_kernel(build, device):
    model = build()
    model = model.with_free(model.elements[:3])
    q = zone_vectors(model, 5)
    sets = model.values * np.array([[1, 1, 1], [1.1, 0.9, 1.0]])
    energies, vectors = dynamics_kernel.batched_modes(model, q, sets)
    mine, own = torch_dynamics.batched_modes(model, q, torch.tensor(sets, device=device))
    np.testing.assert_allclose(mine.cpu().numpy(), energies, rtol=1e-9)
    overlap = np.abs(own.cpu().numpy().conj().swapaxes(-1, -2) @ vectors)
    np.testing.assert_allclose(
        overlap, np.broadcast_to(np.eye(model.n_modes), overlap.shape), atol=1e-7
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("build", [germanium, aluminium])
def test_spectra_and_gradients_equal_those_of_the_kernel_at_degenerate_points(build, device):
    model = build()
    model = model.with_free(model.elements[:3])
    path = degenerate_path(model)
    sets = model.values * np.array([[1, 1, 1], [1.1, 1.0, 1.0]])
    phi = torch.tensor(sets, device=device, requires_grad=True)
    spectra = torch_dynamics.path_spectra(path, phi)
    want, gradients = path_spectra_gradients(path, sets)
    np.testing.assert_allclose(spectra.detach().cpu().numpy(), want, atol=1e-10 * want.max())
    cotangent = np.random.default_rng(0).normal(size=want.shape)
    (spectra * torch.tensor(cotangent, device=device)).sum().backward()
    assert phi.grad is not None
    np.testing.assert_allclose(
        phi.grad.cpu().numpy(), np.einsum("sqe,skqe->sk", cotangent, gradients), rtol=1e-8
    )


def test_autograd_agrees_with_finite_differences():
    """At X, at L, at Gamma and on Gamma-X and Gamma-L of germanium branches are degenerate."""
    model = germanium().with_free(["1NN xx", "1NN xy", "2NN zz"])
    path = degenerate_path(model)
    weight = torch.tensor(np.random.default_rng(1).normal(size=path.shape))

    def loss(values):
        return (torch_dynamics.path_spectra(path, values[None])[0] * weight).sum()

    phi = torch.tensor(model.values, requires_grad=True)
    loss(phi).backward()
    assert phi.grad is not None
    for k in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[k] = 3e-4
        f = [float(loss(phi.detach() + n * step)) for n in (-2, -1, 1, 2)]
        numeric = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * 3e-4)
        assert float(phi.grad[k]) == pytest.approx(numeric, rel=1e-7)


def test_a_wrong_number_of_parameters_is_refused():
    with pytest.raises(ValueError, match="K = 21"):
        torch_dynamics.batched_modes(germanium(), np.zeros((1, 3)), torch.zeros(2, 3))
