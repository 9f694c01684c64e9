from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from steering.api import create_app
from tests.steering.fabricated import store

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
INSTRUCTIONS = {
    "FROM",
    "ENV",
    "RUN",
    "WORKDIR",
    "COPY",
    "ARG",
    "USER",
    "VOLUME",
    "EXPOSE",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
}


def dockerfile() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text())
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)
    ]


def published() -> set[str]:
    """Names of the metrics that the API really exposes for a run with everything known."""
    app = create_app(store())
    return {family.name for family in app.state.registry.collect() if family.samples}


def test_the_dockerfile_is_well_formed_and_copies_what_is_there():
    steps = dockerfile()
    assert steps[0] == ("FROM", "python:3.11-slim")
    assert {word for word, _ in steps} <= INSTRUCTIONS
    for word, rest in steps:
        if word == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
        if word in ("ENTRYPOINT", "CMD", "VOLUME"):
            assert isinstance(json.loads(rest), list)
        if word == "HEALTHCHECK":
            assert isinstance(json.loads(rest[rest.index("CMD") + 3 :]), list)
    assert ("USER", "beamsteer") in steps


def test_the_command_of_the_image_is_a_verb_with_known_options(capsys):
    from steering import cli

    command = json.loads(dict(dockerfile())["CMD"])
    assert cli.run([command[0], "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (part for part in command if part.startswith("--")):
        assert option in shown


def test_compose_holds_the_four_services_on_loopback_and_no_secret():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"kafka", "beamsteer", "prometheus", "grafana"}
    assert services["kafka"]["image"].startswith("apache/kafka:")
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert "build" in service or re.search(r":v?\d", service["image"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in compose["volumes"]
    assert "${BEAMSTEER_TOKEN:?" in services["beamsteer"]["environment"]["BEAMSTEER_TOKEN"]
    assert (DEPLOY / services["beamsteer"]["build"]["context"] / "deploy/Dockerfile").is_file()


def test_prometheus_scrapes_the_path_and_port_that_are_served():
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": ["beamsteer:8080"]}]
    assert ("EXPOSE", "8080") in dockerfile()
    assert job["authorization"]["credentials_file"] == "/run/secrets/beamsteer_token"


def test_the_dashboard_asks_only_for_metrics_that_exist_and_shows_all_of_them():
    dashboard = json.loads((DEPLOY / "grafana/dashboards/beamsteer.json").read_text())
    asked: set[str] = set()
    for panel in dashboard["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            asked |= set(re.findall(r"beamsteer_\w+", target["expr"]))
    assert asked == published()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_the_dashboard_finds_its_datasource():
    datasources = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )
    dashboard = json.loads((DEPLOY / "grafana/dashboards/beamsteer.json").read_text())
    uids = {source["uid"] for source in datasources["datasources"]}
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} <= uids
    provider = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/beamsteer.yaml").read_text()
    )
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    mounts = [volume.split(":") for volume in compose["services"]["grafana"]["volumes"]]
    assert any(source == "./grafana/dashboards" and to == folder for source, to, *_ in mounts)


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "beamsteer.service")
    return parser


def test_the_unit_serves_on_loopback_and_does_not_retry_bad_input():
    parsed = unit()
    assert set(parsed.sections()) == {"Unit", "Service", "Install"}
    service = parsed["Service"]
    assert " serve " in service["ExecStart"]
    assert service["Environment"] == "BEAMSTEER_HOST=127.0.0.1"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["User"] != "root"


def test_systemd_accepts_the_unit(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("No systemd-analyze here to judge the unit.")
    text = (DEPLOY / "beamsteer.service").read_text()
    path = tmp_path / "beamsteer.service"
    # The program and its user are not installed on a test machine.
    path.write_text(
        text.replace("/opt/beamsteer/.venv/bin/beamsteer", "/bin/true").replace(
            "=beamsteer\n", "=daemon\n"
        )
    )
    done = subprocess.run(
        [program, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "beamsteer.service" in line]
    assert complaints == []
