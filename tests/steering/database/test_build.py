from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from simulations.errors import InputError, StorageError
from steering.database import build_store, open_database, plan_store
from steering.database.plan_store import BLOCKS, PLAN
from tests.steering.database.stores import (
    MATERIALS,
    bytes_of,
    example_folder,
    small_phonondb,
    spoil,
)


@pytest.fixture
def small_blocks(monkeypatch):
    """Two entries a block, so that a few entries make several."""
    monkeypatch.setattr(plan_store, "BLOCK_ENTRIES", 2)


def test_a_folder_of_phonopy_files_becomes_a_store(tmp_path):
    folder = example_folder(tmp_path / "mine", ("MgO", "MoSi2", "Ti3Al"))
    built = build_store([folder], tmp_path / "store")
    assert (built.entries, built.aside) == (3, 0)
    database = open_database(tmp_path / "store")
    cards = {one.card.id: one.card for one in database.search()}
    assert {name: (c.formula, c.space_group, c.atoms) for name, c in cards.items()} == {
        "MgO": ("MgO", 225, 2),
        "MoSi2": ("Si2Mo", 139, 3),
        "Ti3Al": ("Ti3Al", 194, 8),
    }
    assert cards["MgO"].polar
    assert not cards["MoSi2"].polar
    assert cards["MgO"].highest_meV > 80
    assert min(card.lowest_meV for card in cards.values()) > -0.05


@pytest.mark.shared_data
def test_a_store_is_the_same_to_the_bit_by_one_process_and_by_two(
    shared_data, tmp_path, small_blocks
):
    pytest.importorskip("dask", reason="the extra `dask` is not installed")
    sources = [small_phonondb(shared_data, tmp_path / "few.h5"), example_folder(tmp_path / "mine")]
    one = build_store(sources, tmp_path / "one", workers=1)
    two = build_store(sources, tmp_path / "two", workers=2)
    assert (one.entries, one.blocks_made) == (two.entries, two.blocks_made) == (6, 3)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


@pytest.mark.shared_data
def test_a_build_that_is_killed_goes_on_and_leaves_the_same_bits(shared_data, tmp_path):
    """SIGKILL at several moments of a real process; blocks that were whole are not made again."""
    materials = (*MATERIALS, "mp-1265", "mp-2741")
    source = small_phonondb(shared_data, tmp_path / "few.h5", materials)
    code = (
        "import sys; from pathlib import Path"
        "\nfrom steering.database import build_store, plan_store"
        "\nplan_store.BLOCK_ENTRIES = 1"
        "\nprint(build_store([Path(sys.argv[1])], Path(sys.argv[2])).blocks_kept)"
    )
    undisturbed = tmp_path / "undisturbed"
    command = [sys.executable, "-c", code, str(source)]
    subprocess.run([*command, str(undisturbed)], check=True, capture_output=True, timeout=120)
    store = tmp_path / "store"
    for blocks in (1, 3):
        process = subprocess.Popen([*command, str(store)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list((store / BLOCKS).glob("*.h5"))) < blocks and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    (store / BLOCKS / "0-000000.h5.partial").write_bytes(b"half")  # as of a kill while it wrote
    done = subprocess.run(
        [*command, str(store)], check=True, capture_output=True, text=True, timeout=120
    )
    assert int(done.stdout) >= 3
    assert bytes_of(store) == bytes_of(undisturbed)


def test_sources_are_added_to_a_store_and_need_not_be_named_again(tmp_path):
    first, second = example_folder(tmp_path / "a"), example_folder(tmp_path / "b", ["Ti3Al"])
    build_store([first], tmp_path / "store")
    shutil.rmtree(first)
    built = build_store([second], tmp_path / "store")
    assert (built.entries, built.blocks_kept, built.blocks_made) == (3, 1, 1)
    assert len(open_database(tmp_path / "store").sources) == 2


def test_an_id_that_two_sources_have_is_taken_from_the_first(tmp_path):
    first, second = example_folder(tmp_path / "a"), example_folder(tmp_path / "b")
    (second / "MgO" / "BORN").unlink()
    built = build_store([first, second], tmp_path / "store")
    assert (built.entries, built.aside) == (2, 2)
    database = open_database(tmp_path / "store")
    assert database.card("MgO").polar
    assert {(a.id, a.source) for a in database.aside()} == {("MgO", "b"), ("MoSi2", "b")}
    assert "its id stands in a already" in database.aside()[0].reason


def _change_lattice(file):
    file["lattice"][0] = np.nan


def _flat(file):
    file["lattice"][0, 2] = file["lattice"][0, 1]


def _change_numbers(file):
    file["atomic_numbers"][0] = 200


def _no_neutron_data(file):
    file["atomic_numbers"][:8] = 87  # francium


def _overlap(file):
    file["scaled_positions"][1] = file["scaled_positions"][0]


def _no_forces(file):
    offsets = file["force_offset"][:]
    step = offsets[1]
    rows = file["forces_zigzag"][step:]
    del file["forces_zigzag"], file["force_offset"]
    file["forces_zigzag"] = rows
    file["force_offset"] = np.r_[0, offsets[1:] - step]


def _supercell(file):
    file["supercell_matrix"][0] = np.diag([2, 2, 1])


def _displaced(file):
    file["displaced_atom"][0] = 999


def _charges(file):
    text = file["born_text"][0]
    file["born_text"][0] = text[: len(text) // 3]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_change_lattice, "expected finite numbers"),
        (_flat, "expected three directions"),
        (_change_numbers, "atomic number 200 is no element"),
        (_no_neutron_data, "no neutron scattering length is tabulated for Fr"),
        (_overlap, "angstrom apart"),
        (_no_forces, "0 rows of forces for"),
        (_supercell, "expected .* the 32 atoms of the supercell"),
        (_displaced, "atom 999 is displaced"),
        (_charges, "Born charges cannot be read"),
    ],
)
def test_a_bad_entry_is_set_aside_with_its_reason(shared_data, tmp_path, change, reason):
    source = spoil(small_phonondb(shared_data, tmp_path / "few.h5", ("mp-149", "mp-1000")), change)
    built = build_store([source], tmp_path / "store")
    assert (built.entries, built.aside) == (1, 1)
    database = open_database(tmp_path / "store")
    with pytest.raises(InputError, match=f"mp-149 was set aside .*{reason}"):
        database.entry("mp-149")
    assert database.card("mp-1000").formula == "BaTe"


def test_a_folder_with_bad_entries_says_what_each_lacks(tmp_path):
    folder = example_folder(tmp_path / "mine")
    (folder / "MoSi2" / "FORCE_CONSTANTS").unlink()
    (folder / "empty").mkdir()
    (folder / "empty" / "POSCAR").touch()
    (folder / "binary").mkdir()
    (folder / "binary" / "POSCAR").write_bytes(bytes(range(256)))
    shutil.copy(folder / "MgO" / "FORCE_CONSTANTS", folder / "binary")
    shutil.copytree(folder / "MgO", folder / "nan")
    text = (folder / "nan" / "FORCE_CONSTANTS").read_text().splitlines()
    text[2] = "nan 0 0"
    (folder / "nan" / "FORCE_CONSTANTS").write_text("\n".join(text) + "\n")
    shutil.copytree(folder / "MgO", folder / "unknown")
    poscar = (folder / "unknown" / "POSCAR").read_text()
    (folder / "unknown" / "POSCAR").write_text(poscar.replace("Mg", "Xx"))
    built = build_store([folder], tmp_path / "store")
    assert built.entries == 1
    reasons = {one.id: one.reason for one in open_database(tmp_path / "store").aside()}
    assert set(reasons) == {"MoSi2", "empty", "binary", "nan", "unknown"}
    assert "none found" in reasons["MoSi2"]
    assert "empty" in reasons["empty"]
    assert "binary" in reasons["binary"]
    assert "NaN" in reasons["nan"]
    assert "Xx" in reasons["unknown"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a phonon database"),
        (bytes(range(256)) * 8, "cannot be read as HDF5"),
        (None, "is not there"),
    ],
)
def test_a_source_that_is_none_is_refused_before_anything_is_written(tmp_path, content, message):
    source = tmp_path / "source.h5"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(InputError, match=message):
        build_store([source], tmp_path / "store")
    assert not (tmp_path / "store" / PLAN).exists()


def test_hdf5_of_another_layout_and_a_folder_without_phonopy_files_are_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["lattice"] = np.eye(3)
    with pytest.raises(InputError, match="has no atom_offset, .*expected the columns"):
        build_store([tmp_path / "other.h5"], tmp_path / "store")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="holds no phonopy files"):
        build_store([tmp_path / "nothing"], tmp_path / "store")


def test_a_folder_of_other_files_is_no_place_for_a_store(tmp_path):
    source = example_folder(tmp_path / "mine", ["MgO"])
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds other files, such as 'thesis.tex'"):
        build_store([source], tmp_path / "store")


def test_a_store_of_another_version_is_refused_by_builder_and_reader(tmp_path):
    source = example_folder(tmp_path / "mine", ["MgO"])
    store = tmp_path / "store"
    build_store([source], store)
    plan = store / PLAN
    plan.write_text(plan.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(InputError, match="format 99; expected 1.*into another folder"):
        build_store([source], store)
    import sqlite3

    connection = sqlite3.connect(store / "index.sqlite")
    connection.execute("UPDATE about SET value = '99' WHERE key = 'format'")
    connection.commit()
    connection.close()
    with pytest.raises(InputError, match="format 99; expected 1"):
        open_database.__wrapped__(store)


def test_a_store_that_is_not_finished_or_damaged_says_so(tmp_path):
    with pytest.raises(InputError, match="is no store; expected a folder that"):
        open_database(tmp_path / "nowhere")
    source = example_folder(tmp_path / "mine", ["MgO"])
    store = tmp_path / "store"
    build_store([source], store)
    block = next((store / BLOCKS).glob("*.h5"))
    whole = block.read_bytes()
    block.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be read .*remove .*and run"):
        build_store([source], store)
    with pytest.raises(InputError, match="cannot be read"):
        open_database(store).entry("MgO")
    block.unlink()
    assert build_store([source], store).blocks_made == 1
    assert block.read_bytes() == whole
    (store / "index.sqlite").unlink()
    with pytest.raises(InputError, match="is not finished"):
        open_database.__wrapped__(store)
    (store / "index.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match="cannot be read .*expected the index"):
        open_database.__wrapped__(store)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_loses_nothing_and_the_build_goes_on_with_room(
    small_disk, tmp_path, small_blocks, workers
):
    pytest.importorskip("dask", reason="the extra `dask` is not installed")
    folder = tmp_path / "mine"
    for copy in range(3):
        example_folder(folder / str(copy))
    build_store([folder], tmp_path / "undisturbed")
    size = max(p.stat().st_size for p in (tmp_path / "undisturbed" / BLOCKS).iterdir())
    store = small_disk.folder / "store"
    small_disk.fill(leave_bytes=size + 40_000)
    with pytest.raises(StorageError, match="expected room on the disk"):
        build_store([folder], store, workers=workers)
    assert not list(store.rglob("*.partial"))
    with pytest.raises(InputError, match="is not finished"):
        open_database(store)
    small_disk.make_room()
    built = build_store([folder], store, workers=workers)
    assert built.blocks_kept >= 1
    assert bytes_of(store) == bytes_of(tmp_path / "undisturbed")


def test_of_two_builders_of_a_store_one_is_told_to_wait(tmp_path):
    source = example_folder(tmp_path / "mine", ["MgO"])
    with plan_store.owned(tmp_path / "store"):
        with pytest.raises(BlockingIOError, match="another process writes it"):
            build_store([source], tmp_path / "store")


def test_a_number_of_workers_that_is_none_is_refused(tmp_path):
    source = example_folder(tmp_path / "mine", ["MgO"])
    with pytest.raises(InputError, match="workers is 0; expected 1 to 256"):
        build_store([source], tmp_path / "store", workers=0)


def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    """A pool's processes would wait for ever for tasks of a parent that was killed."""
    pytest.importorskip("dask", reason="the extra `dask` is not installed")
    marks = tmp_path / "pids"
    marks.mkdir()
    code = (
        "import sys\nfrom tests.steering.database.sleeping import sleep_long\n"
        "from steering.database import run_tasks\n"
        "if __name__ == '__main__':\n"
        "    run_tasks(sleep_long, [sys.argv[1]] * 2, 2, lambda n: None)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, str(script), str(marks)], env=environment)
    deadline = time.monotonic() + 60
    while len(list(marks.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(path.name) for path in marks.iterdir()]
    assert len(workers) == 2
    process.kill()
    process.wait(timeout=30)
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in workers)


def _alive(pid: int) -> bool:
    """Whether a process still runs; one that nobody waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
