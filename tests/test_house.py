from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=840, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


@pytest.mark.parametrize("command", [("check", "."), ("format", "--check", ".")])
def test_ruff_has_nothing_to_say(command):
    run(str(BIN / "ruff"), *command)


@pytest.mark.timeout(900)  # a minute where the processor is free
def test_pyright_has_nothing_to_say():
    assert "0 errors, 0 warnings" in run(str(BIN / "pyright"))


def test_imports_point_down():
    assert "0 broken" in run(str(BIN / "lint-imports"), "--no-cache")


def test_constraints_pin_every_dependency_by_name_and_version_alone():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    pinned = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line)
        assert match, line
        pinned[normal(match[1])] = match[2]
    wanted = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        wanted += extra
    for requirement in wanted:
        name = re.split(r"[\[<>=~! ]", requirement)[0]
        assert normal(name) in pinned, requirement
    assert pinned["torch"] == "2.13.0"


PACKAGES = ("simulations", "consumers", "model_server", "steering", "beamsteer")
ACROSS_ROOMS = {
    "tests/simulations/test_isotopes.py",
    "tests/simulations/test_oracles.py",
    "tests/simulations/test_torch_dynamics.py",
    "tests/steering/test_demo_coverage.py",
    "tests/steering/test_alert_rules.py",
    "tests/steering/test_bad_inputs.py",
    "tests/steering/test_deploy.py",
    "tests/steering/test_fold_exactness.py",
    "tests/steering/test_fold_memory.py",
    "tests/steering/test_helm.py",
    "tests/steering/test_kill_everything.py",
    "tests/steering/test_latency.py",
    "tests/steering/test_mno_virtual.py",
    "tests/steering/test_passing_trouble.py",
    "tests/steering/test_pockets.py",
    "tests/steering/test_stations.py",
    "tests/steering/test_supports.py",
    "tests/steering/test_tube_bias.py",
    "tests/steering/web/test_attacks.py",
    "tests/steering/web/test_hands.py",
    "tests/steering/web/test_staleness.py",
}
"""Tests of what several rooms do together."""


def test_tests_mirror_the_source_tree():
    """A test file that mirrors no source is a leftover of a rename."""
    strays = []
    for package in PACKAGES:
        for path in (ROOT / "tests" / package).rglob("test_*.py"):
            inside = path.relative_to(ROOT / "tests").parent
            name = path.stem.removeprefix("test_")
            ends = (f"{name}.py", f"_{name}.py", name)
            if not any((ROOT / inside / end).exists() for end in ends):
                strays.append(str(path.relative_to(ROOT)))
    assert set(strays) <= ACROSS_ROOMS


def room_of(module: str) -> str:
    """``simulations.fold`` of ``simulations.fold.voxel_map``; a module without a room: itself."""
    return ".".join(module.split(".")[:2])


@cache
def imports_between_rooms() -> tuple[tuple[str, str, str], ...]:
    """(importing module, module named, name imported) wherever a room is left."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    named = [(alias.name, "") for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{path}: relative import"
                    named = [(node.module or "", alias.name) for alias in node.names]
                else:
                    continue
                found += [
                    (module, source, name)
                    for source, name in named
                    if source.partition(".")[0] in PACKAGES and room_of(source) != room_of(module)
                ]
    return tuple(found)


def test_rooms_are_entered_by_their_door():
    """Others import from a room what its ``__init__`` lists, never from a module inside."""
    inside = [
        found
        for found in imports_between_rooms()
        if found[1] != room_of(found[1]) or not found[2] or found[2].startswith("_")
    ]
    assert inside == []


def test_every_room_says_what_it_holds_and_offers_what_others_import():
    wanted: dict[str, set[str]] = {}
    for _, source, name in imports_between_rooms():
        wanted.setdefault(source, set()).add(name)
    for package in PACKAGES:
        for path in (ROOT / package).glob("*/__init__.py"):
            room = f"{package}.{path.parent.name}"
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree), room
            offered = next(
                (
                    ast.literal_eval(node.value)
                    for node in tree.body
                    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
                ),
                [],
            )
            assert offered == sorted(offered), room
            if room != "steering.cli":  # its offer is the command
                assert set(offered) == wanted.get(room, set()), room


OPENS = {"open", "read_text", "read_bytes", "write_text", "write_bytes"}
"""Methods of a path."""
OPENING = re.compile(
    r"(io\.|gzip\.|tarfile\.|os\.|os\.fd)?open|h5py\.File|zipfile\.ZipFile|json\.(load|dump)"
    r"|np\.(load|save|savez|savez_compressed|loadtxt|savetxt|genfromtxt|fromfile|memmap)"
    r"|(torch|pickle)\.(load|save|dump)|load_file|save_file|safe_open|ET\.(iter)?parse"
)
NO_FILES = ("self._connection.open",)
"""Calls that only look like opening a file."""
OPENERS = {
    "simulations/kernels.py": "sources of kernels, to stamp compiled ones with",
    "steering/cli/__init__.py": "the null device takes the place of a closed pipe",
}
"""Modules that open files without a name that says so, each with what it opens."""


def sources() -> list[tuple[str, ast.Module]]:
    """Path from the root and syntax tree of every module of the four packages."""
    return [
        (str(path.relative_to(ROOT)), ast.parse(path.read_text()))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def opens_files(tree: ast.AST) -> list[str]:
    """Calls that open files; temporary ones of `tempfile` are free to all."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        text
        for text, call in ((ast.unparse(call), call) for call in calls)
        if text not in NO_FILES
        and (OPENING.fullmatch(text) or (isinstance(call, ast.Attribute) and call.attr in OPENS))
    ]


@pytest.mark.parametrize(
    "line",
    [
        "open('x')",
        "Path('x').open()",
        "(folder / 'x').write_text('y')",
        "with h5py.File(path) as f: pass",
        "np.savez_compressed(file, **arrays)",
        "json.load(file)",
        "torch.save(a, b)",
    ],
)
def test_a_call_that_opens_a_file_is_seen(line):
    assert opens_files(ast.parse(line))


@pytest.mark.parametrize("line", ["json.loads(x)", "self._open()", "reopen(x)", "np.array(x)"])
def test_a_call_that_opens_no_file_is_let_be(line):
    assert not opens_files(ast.parse(line))


def test_only_file_store_and_bundle_modules_open_files():
    found = {
        path
        for path, tree in sources()
        if not re.fullmatch(r"(.*_)?(files?|store)|bundle", Path(path).stem) and opens_files(tree)
    }
    assert found == set(OPENERS)


LINES = 700
LONG_FILES = {
    "consumers/wire/flatbuffers_codec.py",
    "simulations/dynamics/mode_kernels.py",
    "simulations/instrument/idf.py",
}
"""Each with its reason in docs/architecture.md, `Long files`."""


def test_no_file_is_long_without_a_reason_in_the_architecture_page():
    found = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".js", ".css", ".html"}
        and path.read_text(encoding="utf-8").count("\n") > LINES
    }
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition("## Long files\n")[2].partition("\n## ")[0]
    assert found == LONG_FILES
    assert set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == LONG_FILES


def test_every_fault_of_the_page_of_faults_has_its_test():
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    rows = [
        line.split(" | ")
        for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| fault")
    ]
    assert rows
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row[1])
        assert named, row[0]
        assert set(named) <= there, row[0]


def untyped(tree: ast.Module) -> list[str]:
    """Public functions and methods of a module that leave a parameter or their result untyped."""
    found = []

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                look(node.body, f"{node.name}.")
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_") and node.name != "__init__":
                continue
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named += [one for one in (node.args.vararg, node.args.kwarg) if one is not None]
            decorators = {ast.unparse(one) for one in node.decorator_list}
            compiled = any("njit" in one or "vectorize" in one for one in decorators)
            if prefix and "staticmethod" not in decorators:
                named = named[1:]
            if not compiled and (
                node.returns is None or any(one.annotation is None for one in named)
            ):
                found.append(prefix + node.name)

    look(tree.body, "")
    return found


def test_public_functions_are_typed():
    assert [(path, name) for path, tree in sources() for name in untyped(tree)] == []


def test_an_untyped_function_is_seen():
    text = "def f(a, b: int) -> int: ...\nclass C:\n  def g(self): ...\n  def _h(self): ...\n"
    assert untyped(ast.parse(text)) == ["f", "C.g"]


NOT_IMPORTED = {
    "plotly": "the page is served its script",
    "python-multipart": "starlette reads forms with it",
}


def normal(name: str) -> str:
    """Return the name of a distribution as indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_runtime_dependency_is_imported_by_the_program_itself():
    """What only tests import belongs to their extra."""
    imported = set()
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    homes = metadata.packages_distributions()
    used = {normal(home) for name in imported for home in homes.get(name, [])}
    named = {normal(re.split(r"[\[<>=~! ]", one)[0]) for one in PROJECT["dependencies"]}
    assert named - used == set(NOT_IMPORTED)


def test_committed_text_names_no_machine_and_no_download_address():
    """Versions are pinned without addresses; examples and docs run anywhere."""
    listed = run("git", "ls-files", "-co", "--exclude-standard").split("\n")
    patterns = re.compile(
        r"files\.python" + r"hosted|pypi" + r"\.org|download\.pyt" + r"orch|/work/" + "main"
    )
    found = []
    for name in listed:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".js", ".css", ".html"}:
            if path.is_file() and patterns.search(path.read_text(encoding="utf-8")):
                found.append(name)
    assert found == []


def test_yaml_of_the_house_parses():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repo["repo"] for repo in hooks["repos"]} == {"local"}
    for path in (ROOT / "examples").glob("*.yaml"):
        yaml.safe_load(path.read_text())


def test_benchmarks_follow_what_they_import():
    """``make test`` does not run them, and a name that moved would break them in silence."""
    assert "collected" in run(
        sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/benchmarks"
    )


def test_ci_requires_the_real_components():
    script = (ROOT / ".ci" / "run").read_text()
    assert "browser,shared_data,kafka" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    run("bash", "-n", ".ci/run")


@pytest.mark.parametrize(
    ("flags", "own", "cores"),
    [
        ("fpu sse4_2 avx2 fma", "Haswell", ["Nehalem"]),
        ("fpu sse4_2 avx2 fma", "Zen", ["Nehalem"]),
        ("sse4_2 fma avx2 avx512f avx512bw avx512cd avx512dq avx512vl", "SkylakeX", ["Haswell"]),
        ("sse4_2 fma avx2 avx512f avx512bw avx512cd avx512dq avx512vl", "Cooperlake", ["Haswell"]),
        ("sse4_2 avx2 fma avx512f", "Haswell", ["Nehalem"]),  # not all of AVX-512
        ("sse4_2 avx2 fma", "", ["Haswell", "Nehalem"]),  # a numpy without OpenBLAS, or a new name
        ("fpu sse4_2", "Nehalem", []),
        ("", "", []),
    ],
)
def test_ci_runs_the_sensitive_tests_under_two_kernels_that_the_processor_has(
    tmp_path, flags, own, cores
):
    """Its own by ``make test``, another by ``make kernels``; one that it lacks ends the process."""
    steps = (ROOT / ".ci" / "run").read_text().split("\n")
    assert steps.index("make test") < steps.index("make kernels")
    described = tmp_path / "cpuinfo"
    described.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : x\nflags : avx2 fma sse4_2\n")
    said = run(
        "make", "-o", "setup", "kernels", f"CPUINFO={described}", f"OWN_KERNELS=echo {own}",
        "SENSITIVE_RUN=ls",
    )  # fmt: skip
    assert re.findall(r"CORETYPE=(\w+)$", said, re.MULTILINE) == cores
    assert said.count("test_sampling.py") == len(cores)


def test_the_sensitive_tests_run_under_two_kernels_of_this_processor():
    """Under its own and another, or under two others where its own has a name not known here."""
    said = run("make", "-o", "setup", "kernels", "SENSITIVE_RUN=ls")
    sets = said.count("make test runs under") + said.count("OPENBLAS_CORETYPE=")
    assert sets == (0 if "OpenBLAS has no two sets" in said else 2)


@pytest.mark.parametrize(
    "target", ["setup", "demo", "test", "kernels", "prove", "bench", "serve", "kafka", "lint"]
)
def test_make_knows_its_targets(target):
    run("make", "--dry-run", target)
