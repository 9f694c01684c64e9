"""Powder runs with an experiment file: virtual NXSPE, real silicon, files that lie."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from model_server.powder import InversionSettings
from simulations.errors import InputError
from simulations.scattering import read_powder_spectra
from steering.experiment import load_experiment
from steering.run import invert_aluminium, invert_measured
from steering.run.powder_inversion import elastic_line
from tests.steering.virtual_scan import EXAMPLES

QUICK = InversionSettings(points=60, blur_stages=(0.0,), steps=2)


def histogram(path: Path, data, errors, q, energy) -> Path:
    with h5py.File(path, "w") as file:
        file["IQE/data"], file["IQE/errors"] = data, errors
        file["IQE/grid/Q/bin boundaries"], file["IQE/grid/E/bin boundaries"] = q, energy
    return path


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """The shipped spectrum at 50 K as S(|Q|,E) with errors, in an HDF5 histogram."""
    spectrum = read_powder_spectra()[0]
    q = np.append(spectrum.q_inverse_A - 0.05, spectrum.q_inverse_A[-1] + 0.05)
    energy = np.append(spectrum.energy_meV - 0.25, spectrum.energy_meV[-1] + 0.25)
    values = np.where(spectrum.valid, spectrum.intensity + 0.3, np.nan).T
    folder = tmp_path_factory.mktemp("reduced")
    return histogram(folder / "al-iqe.h5", values, np.full(values.shape, 0.05**2), q, energy)


def test_a_reduced_histogram_takes_ei_temperature_and_prior_from_the_experiment(reduced):
    experiment = load_experiment(EXAMPLES / "al-arcs.yaml")
    found = invert_measured(reduced, experiment, experiment_dir=EXAMPLES, settings=QUICK)
    (result,) = found.results
    assert (result["ei_meV"], result["temperature_K"]) == (50.0, 50.0)
    assert result["noise"] == "of the file"
    assert result["parameters"][0]["name"] in found.fits[0].parts.model.names
    assert len(result["parameters"]) == 5
    spectrum = found.spectra[0]
    assert np.nanmax(spectrum.sigma) == pytest.approx(0.05)
    assert spectrum.energy_meV[0] > 4.0  # the elastic line is left out


def test_a_fold_that_says_another_incident_energy_is_refused(tmp_path):
    experiment = load_experiment(EXAMPLES / "al-arcs.yaml")
    spectrum = read_powder_spectra()[0]
    S = np.where(spectrum.valid, spectrum.intensity + 0.3, 0.0).T * 1000
    arrays = {
        "S": S, "V": S, "D": np.where(spectrum.valid.T, 1000.0, 0.0),
        "momentum_edges_inverse_angstrom": np.append(
            spectrum.q_inverse_A - 0.05, spectrum.q_inverse_A[-1] + 0.05
        ),
        "energy_edges_meV": np.append(spectrum.energy_meV - 0.25, spectrum.energy_meV[-1] + 0.25),
    }  # fmt: skip
    path = tmp_path / "powder.npz"
    np.savez(path, **arrays, ei_meV=50.2, temperature_K=280.0)
    found = invert_measured(path, experiment, experiment_dir=EXAMPLES, settings=QUICK)
    assert found.spectra[0].temperature_K == 280.0
    np.savez(path, **arrays, ei_meV=60.0, temperature_K=50.0)
    with pytest.raises(InputError, match="Ei is 60 meV in the file; expected 50 meV within 1%"):
        invert_measured(path, experiment, experiment_dir=EXAMPLES, settings=QUICK)


def test_files_that_lack_something_are_told(reduced, tmp_path):
    experiment = load_experiment(EXAMPLES / "al-arcs.yaml")
    with pytest.raises(ValueError, match="is not a file; expected `aluminium`"):
        invert_measured(tmp_path / "none.h5", experiment, experiment_dir=EXAMPLES)
    with pytest.raises(ValueError, match="is not a file; expected a recorded powder run"):
        invert_measured(tmp_path / "none.nxspe", experiment, experiment_dir=EXAMPLES)
    with pytest.raises(ValueError, match="give --experiment"):
        invert_aluminium(reduced)
    empty = tmp_path / "empty.h5"
    with h5py.File(empty, "w") as file:
        file["other"] = 1.0
    with pytest.raises(ValueError, match="no group with data, errors and grid"):
        invert_measured(empty, experiment, experiment_dir=EXAMPLES)
    axis = np.arange(5.0)
    wrong = histogram(tmp_path / "w.h5", np.ones((3, 4)), np.ones((4, 4)), axis, axis)
    with pytest.raises(ValueError, match=r"data has shape \(3, 4\)"):
        invert_measured(wrong, experiment, experiment_dir=EXAMPLES)
    few = histogram(tmp_path / "few.h5", np.ones((4, 4)), np.ones((4, 4)), axis, axis + 10)
    with pytest.raises(ValueError, match="expected at least 50"):
        invert_measured(few, experiment, experiment_dir=EXAMPLES)


SILICON = """
title: silicon powder on MARI
sample: {structure: POSCAR, u: [1, 0, 0], v: [0, 1, 0], temperature_K: 300}
instrument: {name: MARI, ei_meV: 79.395}
path:
  points: seekpath
  half_width_rlu: 0.1
  energy: {min_meV: -10, max_meV: 74, bins: 84}
parameters: {cutoff_A: 4.0, free: 4}
background: {can_material: aluminium, can_atoms: 1}
"""


@pytest.mark.shared_data
def test_a_recorded_powder_run_gives_its_elastic_line_and_resolution(shared_data, tmp_path):
    from steering.run import fold_powder

    (tmp_path / "POSCAR").write_text(
        "Si\n1\n0 2.7155 2.7155\n2.7155 0 2.7155\n2.7155 2.7155 0\nSi\n2\nDirect\n0 0 0\n"
        "0.25 0.25 0.25\n"
    )
    (tmp_path / "si.yaml").write_text(SILICON)
    experiment = load_experiment(tmp_path / "si.yaml")
    run = shared_data / "powder" / "silicon_Ei80_300K.nxspe"
    folded = fold_powder([run], experiment, experiment_dir=tmp_path, step=0.1, psi_deg=0.0)
    centre, sigma = elastic_line(folded) or (np.nan, np.nan)
    assert -0.6 < centre < 0.1  # meV: the file's own peak, summed over detectors, is at -0.3
    assert 1.2 < sigma < 2.2  # about 5 % of Ei as FWHM
