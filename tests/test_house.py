from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


@pytest.mark.parametrize("command", [("check", "."), ("format", "--check", ".")])
def test_ruff_has_nothing_to_say(command):
    run(str(BIN / "ruff"), *command)


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
        pinned[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    wanted = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        wanted += extra
    for requirement in wanted:
        name = re.split(r"[\[<>=~! ]", requirement)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in pinned, requirement
    assert pinned["torch"] == "2.13.0"


def test_every_source_module_has_its_test_or_is_covered_by_a_named_one():
    """A test file that mirrors no source is a leftover of a rename."""
    strays = []
    for package in ("simulations", "consumers", "model_server", "steering"):
        for path in (ROOT / "tests" / package).glob("test_*.py"):
            name = path.stem.removeprefix("test_")
            source = ROOT / package
            if not any((source / f"{name}{end}").exists() for end in (".py", "")):
                strays.append(str(path.relative_to(ROOT)))
    assert set(strays) <= {
        "tests/steering/test_deploy.py",
        "tests/steering/test_demo_coverage.py",
        "tests/steering/test_fold_exactness.py",
        "tests/steering/test_fold_memory.py",
        "tests/steering/test_supports.py",
        "tests/steering/test_mno_virtual.py",
        "tests/steering/test_tube_bias.py",
        "tests/simulations/test_oracles.py",
    }


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


def test_ci_requires_the_real_components():
    script = (ROOT / ".ci" / "run").read_text()
    assert "browser,shared_data,kafka" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    run("bash", "-n", ".ci/run")


@pytest.mark.parametrize(
    "target", ["setup", "demo", "test", "prove", "bench", "serve", "kafka", "lint"]
)
def test_make_knows_its_targets(target):
    run("make", "--dry-run", target)
