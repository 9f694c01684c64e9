from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from simulations.kernels import kernel_sources

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("simulations", "consumers", "model_server", "steering")
SOURCES = {
    path: ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def python(program: str, folder: Path, **environment: str) -> str:
    """What a program prints that sees the packages in ``folder`` alone."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {program}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for package in ("simulations", "consumers"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


COUNT_ONE_EVENT = """
import numpy as np
from consumers.fold import powder_folding as folding
from simulations.fold.powder_exposure import _accumulate
one, counts, account = np.ones(1), np.zeros((9, 1), dtype=np.int64), np.zeros(4, dtype=np.int64)
first, seen = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.bool_)
assert folding.__file__.startswith(sys.path[0])
folding._count(first.astype(np.int32), np.array([0.5]), np.array([0.0, 1.0]), one, seen, 5.0, one,
               first, 1.0, counts, account)
weight, flat = np.zeros((9, 1)), np.zeros((9, 1))
_accumulate(one, seen, 5.0, one, first, 1.0, np.zeros((0, 0), dtype=np.bool_), one, one, one, one,
            weight, flat)
print(counts.argmax(), weight.argmax())
"""


@pytest.mark.parametrize("plain", [False, True], ids=["ours", "numba's"])
def test_an_edited_helper_reaches_the_kernels_that_inline_it(copied, tmp_path, plain):
    """Counts and exposure ask one helper for their bin, across packages; numba misses the edit."""
    if plain:
        for path in copied.rglob("*.py"):
            text = path.read_text()
            path.write_text(
                text.replace("from simulations.kernels import njit", "from numba import njit")
            )
    caches = {"NUMBA_CACHE_DIR": str(tmp_path / "caches")}
    assert python(COUNT_ONE_EVENT, copied, **caches) == "4 4"
    edit(copied / "simulations/fold/powder_exposure.py", "* per_bin)", "* per_bin) + 1")
    assert python(COUNT_ONE_EVENT, copied, **caches) == ("4 5" if plain else "5 5")


@pytest.fixture
def small(copied: Path) -> Path:
    """A package of its own whose kernel calls a helper and freezes a constant of another file."""
    folder = copied / "small"
    folder.mkdir()
    (folder / "__init__.py").touch()
    head = "from simulations.kernels import njit\n"
    (folder / "shared.py").write_text(
        f"{head}\nSCALE = 1\n\n@njit(cache=True)\ndef shared(x):\n    return x + 1\n"
    )
    (folder / "asking.py").write_text(
        f"{head}from small.shared import SCALE, shared\n\n"
        "@njit(cache=True)\ndef asking(x):\n    return SCALE * shared(x)\n"
    )
    return copied


ASK = "from small.asking import asking; print(asking(1), sum(asking.stats.cache_hits.values()))"


def test_a_cache_holds_until_a_source_changes(small, tmp_path):
    caches = {"NUMBA_CACHE_DIR": str(tmp_path / "caches")}
    assert python(ASK, small, **caches) == "2 0"
    assert python(ASK, small, **caches) == "2 1"
    edit(small / "small/shared.py", "SCALE = 1", "SCALE = 3")
    assert python(ASK, small, **caches) == "6 0"
    edit(small / "small/shared.py", "x + 1", "x + 2")
    assert python(ASK, small, **caches) == "9 0"
    edit(small / "simulations/constants.py", "from __future__", "# new\nfrom __future__")
    assert python(ASK, small, **caches) == "9 0"
    (small / "simulations/prior/box.py").write_text("# holds no kernel")
    assert python(ASK, small, **caches) == "9 1"


def test_kernels_compile_where_no_cache_can_be_kept(small, tmp_path):
    shut = tmp_path / "a file, no folder"
    shut.touch()
    (small / "small" / "__pycache__").touch()  # nothing can be written beside the source
    out = python(
        f"import warnings; warnings.simplefilter('ignore'); {ASK}",
        small,
        NUMBA_CACHE_DIR=str(shut),
        XDG_CACHE_HOME=str(shut),
        HOME=str(shut),
    )
    assert out == "2 0"


def test_a_cache_that_vanished_costs_time_alone(small, tmp_path):
    caches = tmp_path / "caches"
    program = f"import shutil; {ASK}; shutil.rmtree({str(caches)!r}); print(asking(1.5))"
    assert python(program, small, NUMBA_CACHE_DIR=str(caches)).split() == ["2", "0", "2.5"]


def test_processes_that_start_together_keep_what_each_compiled(small, tmp_path):
    """One index names all that were compiled at once, and every file is what the index says."""
    caches = {**os.environ, "PYTHONPATH": str(small), "NUMBA_CACHE_DIR": str(tmp_path / "caches")}
    arguments = ("1", "1.5", "1j")
    program = (
        "import sys; sys.stdin.readline(); from small.asking import asking;"
        "print(asking(eval(sys.argv[1])), sum(asking.stats.cache_hits.values()))"
    )
    for hits in (0, 1):
        started = [
            subprocess.Popen(
                [sys.executable, "-c", program, argument],
                env=caches,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for argument in arguments
        ]
        told = [process.communicate("\n")[0].split() for process in started]
        assert told == [[answer, str(hits)] for answer in ("2", "2.5", "(1+1j)")]


SHARE_OUT = """
import os, threading
import numba
from simulations.kernels import share_out

meet = threading.Barrier(3)

def shared(count, wait=False):
    parts = []
    def work(first, last):
        if wait:
            meet.wait(30)  # of all three at once, or never
        parts.append((first, last))
    share_out(count, work)
    return sorted(parts)

print(shared(0), shared(1), shared(2), shared(7, wait=True), flush=True)
try:
    share_out(3, lambda first, last: 1 // (1 - first))
except ZeroDivisionError:
    print("told", flush=True)
child = os.fork()
if child == 0:
    numba.set_num_threads(2)
    print(shared(7), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_work_is_shared_out_once_each_at_the_same_time_and_after_a_fork():
    said = python(SHARE_OUT, ROOT, NUMBA_NUM_THREADS="3").splitlines()
    assert said == [
        "[(0, 0)] [(0, 1)] [(0, 1), (1, 2)] [(0, 2), (2, 4), (4, 7)]",
        "told",
        "[(0, 3), (3, 7)]",
        "0",
    ]


def kernels(tree: ast.Module) -> list[ast.FunctionDef]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any("njit" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]


def home(module: str, name: str) -> Path:
    """The file that defines what a module offers: a room's ``__init__`` hands on."""
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in SOURCES[path].body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return home(node.module or "", name)
    return path


def held(tree: ast.Module, names: set[str]) -> set[Path]:
    """Files of ours whose functions and values the named things of a module copy."""
    found: set[Path] = set()
    for node in tree.body:
        inside: set[str] = set()
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            asked = [alias for alias in node.names if (alias.asname or alias.name) in names]
            found |= {home(node.module or "", alias.name) for alias in asked}
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.ClassDef):
            targets = getattr(node, "targets", [getattr(node, "target", node)])
            own = {n for t in targets for n in (getattr(t, "id", None), getattr(t, "name", None))}
            if own & names:
                inside = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - names
        if inside:
            found |= held(tree, names | inside)
    return found


def test_kernels_copy_nothing_from_a_file_that_their_cache_does_not_follow():
    seen = 0
    for path, tree in SOURCES.items():
        package = import_module(path.relative_to(ROOT).parts[0])
        followed = kernel_sources(package.__name__)
        for kernel in kernels(tree):
            seen += 1
            assert path in followed
            assert held(tree, {kernel.name}) <= set(followed), f"{path}: {kernel.name}"
    assert seen > 40


def test_numba_compiles_through_one_door():
    """Nothing is asked of numba itself: every njit has the cache that follows its sources."""
    found = {
        (path.relative_to(ROOT).as_posix(), alias.name)
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numba"))
        for alias in node.names
        if alias.name.startswith("numba") or isinstance(node, ast.ImportFrom)
    }
    assert {path for path, _ in found} == {"simulations/kernels.py"}
