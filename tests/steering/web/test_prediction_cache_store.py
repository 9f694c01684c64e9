from __future__ import annotations

import os

from steering.web.prediction_cache_store import PredictionCache, prediction_key

FIELDS = {"structure": "germanium", "ei_meV": 40.0}


def test_a_key_hangs_on_every_input_and_on_nothing_else():
    key = prediction_key(FIELDS, [("POSCAR", b"a"), ("BORN", b"b")])
    again = prediction_key(dict(reversed(FIELDS.items())), [("BORN", b"b"), ("POSCAR", b"a")])
    assert key == again
    others = {
        prediction_key(FIELDS | {"ei_meV": 41.0}, [("POSCAR", b"a"), ("BORN", b"b")]),
        prediction_key(FIELDS, [("POSCAR", b"a"), ("BORN", b"c")]),
        prediction_key(FIELDS, [("POSCAR", b"a"), ("FORCE_SETS", b"b")]),
        prediction_key(FIELDS, [("POSCAR", b"a")]),
        prediction_key(FIELDS, [("POSCAR", b"a"), ("BORN", b"b")], "another database"),
        key,
    }
    assert len(others) == 6


def test_memory_is_bounded_and_what_was_used_last_is_kept():
    cache = PredictionCache(memory_bytes=300)
    for name in "abc":
        cache.put(name, name.encode() * 100)
    assert cache.get("a") == b"a" * 100
    cache.put("d", b"d" * 100)
    assert cache.bytes_in_memory == 300
    assert cache.get("b") is None
    assert cache.get("a") == b"a" * 100
    cache.put("large", b"x" * 1000)  # until the next one comes
    assert cache.get("large") == b"x" * 1000
    cache.put("e", b"e")
    assert cache.get("large") is None


def test_a_folder_outlives_the_process_and_is_bounded(tmp_path):
    folder = tmp_path / "cache"
    before = PredictionCache(folder, disk_bytes=700)
    for k, name in enumerate("ab"):
        before.put(name, name.encode() * 200)
        os.utime(folder / f"{name}.prediction", ns=(0, 10**9 * k))
    after = PredictionCache(folder, disk_bytes=700)
    assert after.get("a") == b"a" * 200  # and was used last now
    after.put("c", b"c" * 200)
    assert {path.stem for path in folder.iterdir()} == {"a", "c"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 700
    assert PredictionCache(folder).get("a") == b"a" * 200
    assert not list(folder.glob("*.partial"))


def test_a_damaged_file_is_no_answer_and_is_removed(tmp_path):
    PredictionCache(tmp_path).put("a", b"whole")
    path = tmp_path / "a.prediction"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert PredictionCache(tmp_path).get("a") is None
    assert not path.exists()


def test_a_folder_that_is_none_costs_only_the_disk(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = PredictionCache(tmp_path / "file" / "cache")
    cache.put("a", b"x")
    assert cache.get("a") == b"x"
    assert cache.get("b") is None
