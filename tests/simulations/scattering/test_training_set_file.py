import h5py
import numpy as np
import pytest

from simulations.scattering.training_set import training_set
from simulations.scattering.training_set_file import (
    TrainingSetFileError,
    read_training_set,
    write_training_set,
)
from tests.simulations.scattering.test_training_set import plan


def test_a_written_set_reads_back_as_it_was_computed(tmp_path):
    this = plan(sets=40)
    shares = []
    file = tmp_path / "germanium.h5"
    write_training_set(this, file, sets_per_block=16, progress=lambda _, s: shares.append(s))
    assert shares == [0.4, 0.8, 1.0]
    assert [p.name for p in tmp_path.iterdir()] == ["germanium.h5"]
    stored, whole = read_training_set(file), training_set(this)
    np.testing.assert_array_equal(stored.spectra, whole.spectra)
    np.testing.assert_array_equal(stored.parameters, whole.parameters)
    np.testing.assert_array_equal(stored.Q, this.path.Q)
    np.testing.assert_array_equal(stored.energy_edges_meV, this.path.energy.edges_meV)
    assert stored.names == this.prior.names
    assert (stored.seed, stored.drawn, stored.temperature_K) == (4, whole.drawn, 5.0)


def test_files_that_are_no_training_set_are_refused(tmp_path):
    with pytest.raises(TrainingSetFileError, match="cannot be read"):
        read_training_set(tmp_path / "absent.h5")
    with h5py.File(tmp_path / "other.h5", "w") as store:
        store["x"] = 1.0
    with pytest.raises(TrainingSetFileError, match=r"other\.h5"):
        read_training_set(tmp_path / "other.h5")
