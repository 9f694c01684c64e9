from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from simulations.errors import InputError, StorageError
from steering import cli
from steering.database import build_store, open_database
from steering.predict import (
    SpectraSetting,
    database_spectra_store,
    optics,
    powder_map,
    stable,
    vibrations_of,
    write_spectra,
)
from steering.predict.database_spectra_store import BLOCKS
from tests.steering.database.stores import bytes_of, example_folder

SETTING = SpectraSetting(
    instrument="generic",
    fwhm_meV=1.5,
    energy_edges_meV=tuple(np.arange(0.0, 101.0, 2.0)),
    momentum_edges=tuple(np.arange(0.0, 8.1, 0.25)),
    error=0.2,
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("database")
    source = example_folder(folder / "mine", ("MgO", "MoSi2", "Ti3Al"))
    build_store([source], folder / "store")
    return open_database(folder / "store")


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(database_spectra_store, "BLOCK_ENTRIES", 1)


def test_spectra_of_a_store_are_those_of_its_entries(database, tmp_path):
    written = write_spectra(database, replace(SETTING, error=0.05), tmp_path / "out")
    assert (written.spectra, written.aside) == (3, ())
    with h5py.File(written.file) as file:
        ids = [one.decode() for one in file["id"][:]]
        spectra = file["intensity"][:]
        edges = file["q_inverse_A_edges"][:], file["energy_meV_edges"][:]
        assert b"barn/meV/sr" in file.attrs["words"]
    assert ids == ["MgO", "MoSi2", "Ti3Al"]
    found = stable(vibrations_of("MgO", database=database))
    exact = powder_map(
        found,
        optics(1.0, instrument="generic", fwhm_meV=1.5),
        temperature_K=SETTING.temperature_K,
        momentum_edges=edges[0],
        energy_edges_meV=edges[1],
    ).intensity
    assert np.abs(spectra[0] - exact).sum() < 0.05 * exact.sum()
    assert np.isfinite(spectra).all()


def test_spectra_are_the_same_to_the_bit_by_one_process_and_by_two(
    database, tmp_path, small_blocks
):
    pytest.importorskip("dask", reason="the extra `dask` is not installed")
    for workers in (1, 2):
        write_spectra(database, SETTING, tmp_path / str(workers), workers=workers)
    one, two = bytes_of(tmp_path / "1"), bytes_of(tmp_path / "2")
    assert len(one) == 5  # three blocks, what they are for, what joins them
    assert one == two


def test_spectra_that_were_killed_go_on_and_leave_the_same_bits(database, tmp_path, small_blocks):
    write_spectra(database, SETTING, tmp_path / "undisturbed")
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path\n"
        "from steering.database import open_database\n"
        "from steering.predict import database_spectra_store, write_spectra\n"
        "from tests.steering.predict.test_database_spectra_store import SETTING\n"
        "database_spectra_store.BLOCK_ENTRIES = 1\n"
        "write_spectra(open_database(Path(sys.argv[1])), SETTING, Path(sys.argv[2]))"
    )
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(database.folder), str(out)],
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    deadline = time.monotonic() + 120
    while len(list((out / BLOCKS).glob("*.h5"))) < 1 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    written = write_spectra(database, SETTING, out)
    assert written.blocks_kept >= 1
    assert bytes_of(out) == bytes_of(tmp_path / "undisturbed")


def test_spectra_of_an_indirect_instrument_have_a_row_for_every_bank(database, tmp_path):
    setting = SpectraSetting(
        instrument="VISION", energy_edges_meV=tuple(np.arange(2.0, 150.0, 1.0)), error=0.1
    )
    written = write_spectra(database, setting, tmp_path / "out", ids=["MgO"])
    with h5py.File(written.file) as file:
        assert file["intensity"].shape == (1, 2, 147)
        assert "q_inverse_A_edges" not in file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instrument": "NOWHERE", "ei_meV": 160.0}, "NOWHERE"),
        ({"instrument": "ARCS"}, "ei_meV is missing; expected the incident energy of ARCS"),
        ({"instrument": "ARCS", "ei_meV": 50.0}, "expected an end below Ei = 50 meV"),
        ({"instrument": "VISION", "ei_meV": 50.0}, "indirect-geometry instrument. Leave it out"),
        ({"momentum_edges": ()}, "q_inverse_A is missing"),
        ({"fwhm_meV": None}, "instrument is generic; expected fwhm_meV"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_written(
    database, tmp_path, change, message
):
    with pytest.raises(InputError, match=message):
        write_spectra(database, replace(SETTING, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_setting_or_of_other_files_is_refused(database, tmp_path):
    write_spectra(database, SETTING, tmp_path / "out", ids=["MgO"])
    with pytest.raises(InputError, match="holds spectra of another temperature_K, 10.0, not 300.0"):
        write_spectra(
            database, replace(SETTING, temperature_K=300.0), tmp_path / "out", ids=["MgO"]
        )
    with pytest.raises(InputError, match="another ids"):
        write_spectra(database, SETTING, tmp_path / "out", ids=["MoSi2"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds other files, such as 'thesis.tex'"):
        write_spectra(database, SETTING, tmp_path / "mine")


def test_a_full_disk_loses_no_spectrum(small_disk, database, tmp_path, small_blocks):
    write_spectra(database, SETTING, tmp_path / "undisturbed")
    out = small_disk.folder / "out"
    size = max(p.stat().st_size for p in (tmp_path / "undisturbed" / BLOCKS).iterdir())
    small_disk.fill(leave_bytes=int(1.5 * size) + 20_000)
    with pytest.raises(StorageError, match="expected room on the disk"):
        write_spectra(database, SETTING, out)
    small_disk.make_room()
    assert write_spectra(database, SETTING, out).blocks_kept >= 1
    assert bytes_of(out) == bytes_of(tmp_path / "undisturbed")


@pytest.mark.shared_data
def test_an_entry_that_is_unstable_is_set_aside_and_the_rest_is_computed(shared_data, tmp_path):
    from tests.steering.database.stores import small_phonondb

    source = small_phonondb(shared_data, tmp_path / "few.h5", ["mp-754146", "mp-149"])
    build_store([source], tmp_path / "store")
    arguments = (
        f"database spectra {tmp_path / 'store'} --instrument generic --fwhm-meV 2 --error 0.2 "
        f"--energy-meV 0:80:2 --q-inverse-A 0:6:0.5 --imaginary refuse -o {tmp_path / 'out'} --json"
    )
    assert cli.run(arguments.split()) == cli.OK
