from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.exposition import generate_latest

from consumers.transport import KafkaSection, KafkaTopics
from consumers.transport.kafka_settings import FRAME_BYTES
from steering import cli
from steering.service import service_registry
from steering.service.health import WorkerStatus
from steering.service.metrics import FAMILIES
from steering.web import People, create_app, serving
from tests.steering.fabricated import store

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = ("beamsteer", "beamsteer-consume", "beamsteer-model-server")
BACKUP = "beamsteer-backup"
EXPOSURE = 1.3  # of `systemd-analyze security`, at most; 1.2 is measured, 0.5 for the backup
LIVE = {"consume": 8081, "model-server": 8082}  # services of live streams, their ports
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


def everything() -> WorkerStatus:
    """A status in which all is known."""
    counters = {f"{name}.x" if label else name: 1 for name, (_, _, label) in FAMILIES.items()}
    return WorkerStatus(
        service="consume",
        last_loop_ns=0,
        connected=True,
        last_commit_ns=0,
        lag={("p_detector", 0): 1},
        generation={0: 1},
        chunks={"run": 1},
        counters={**counters, "clock_jumps": 1},
    )


def published() -> dict[str, str]:
    """Samples that page and services expose where everything is known, with their metrics."""
    told = [
        *create_app(store()).state.registry.collect(),
        *service_registry(everything)[0].collect(),
    ]
    return {sample.name: family.name for family in told for sample in family.samples}


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def options_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run([verb, "--help"]) == 0
    return capsys.readouterr().out


def check_options(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The first word is a verb, and every option after it is one of that verb's."""
    shown = options_of(command[0], capsys)
    for part in command[1:]:
        if part.startswith("-"):
            assert re.search(rf"(?m)\s{re.escape(part.split('=')[0])}\s", shown), part


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
    check_options(json.loads(dict(dockerfile())["CMD"]), capsys)


def test_compose_holds_the_services_on_loopback_and_no_secret():
    described = compose()
    services = described["services"]
    live = {"topics", *LIVE}
    profiles = {name: ["live"] for name in live} | {"proxy": ["tls"], "backup": ["backup"]}
    assert set(services) == {"kafka", "beamsteer", "prometheus", "grafana", *profiles}
    assert services["kafka"]["image"].startswith("apache/kafka:")
    for name, service in services.items():
        # Without an experiment the rest starts all the same.
        assert service.get("profiles", []) == profiles.get(name, []), name
        ports = [port.removeprefix("${BEAMSTEER_LISTEN:-") for port in service.get("ports", [])]
        assert all(port.startswith("127.0.0.1:") for port in ports), name
        assert "build" in service or re.search(r":v?\d", service["image"]), name
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            if source == "./secrets/people":  # made where people are named
                assert "people/people.yaml" in (DEPLOY / "secrets" / "README").read_text()
            elif source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in described["volumes"]
        for other in service.get("depends_on", []):
            assert name in live or other not in live, name
    assert services["beamsteer"]["environment"]["BEAMSTEER_TOKEN_FILE"].startswith("/run/secrets/")
    assert (DEPLOY / services["beamsteer"]["build"]["context"] / "deploy/Dockerfile").is_file()


def test_compose_demands_no_variable_and_takes_every_secret_from_a_file():
    text = (DEPLOY / "compose.yaml").read_text()
    assert re.findall(r"\$\{(\w+):?\?", re.sub(r"\$\$\{", "", text)) == []
    described = compose()
    told = (DEPLOY / "secrets" / "README").read_text()
    for secret in described["secrets"].values():
        assert set(secret) == {"file"}
        assert f"deploy/secrets/{Path(secret['file']).name}" in told
    for service in described["services"].values():
        assert set(service.get("secrets", [])) <= set(described["secrets"])
        for name in service.get("environment", {}):
            if re.search("TOKEN|PASSWORD|URLS", name):
                assert name.endswith("_FILE"), name
    listed = subprocess.run(
        ["git", "ls-files", "deploy/secrets"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {Path(line).name for line in listed.stdout.split()} <= {".gitignore", "README"}


def test_every_service_is_bounded_confined_and_its_log_is_turned_over():
    for name, service in compose()["services"].items():
        assert {"mem_limit", "cpus", "pids_limit"} <= set(service), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only") or name == "kafka", name  # it writes its configuration
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        lasting = service["restart"] != "no"
        assert ("healthcheck" in service) == lasting, name


def test_docker_compose_takes_the_file(tmp_path):
    if shutil.which("docker") is None:
        pytest.skip("No docker here to judge the compose file.")
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("This docker has no compose to judge the file.")
    profiles = [word for one in ("live", "tls", "backup") for word in ("--profile", one)]
    done = subprocess.run(
        ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), *profiles, "config"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(compose()["services"])


@contextmanager
def proxied(folder: Path, upstream: str) -> Iterator[int]:
    """Port of the real proxy with the file that compose gives it, before a page."""
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("No caddy here to stand before the page; apt-get install caddy has it.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    caddyfile = DEPLOY / "proxy" / "Caddyfile"
    environment = os.environ | {
        "BEAMSTEER_TLS_PORT": str(port),
        "BEAMSTEER_UPSTREAM": upstream,
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "run", "--config", str(caddyfile), "--adapter", "caddyfile"],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            yield port
        finally:
            process.terminate()
            process.wait(20)


def test_the_proxy_serves_the_page_by_tls_and_sends_events_on_at_once(tmp_path):
    """A real Caddy before a real server: certificates, cookies, origins, bounds, events."""
    token = "sixteen-letters-or-more"  # noqa: S105
    bearer = {"Authorization": f"Bearer {token}"}
    runs = store()
    app = create_app(runs, people=People(token=token))
    with serving(app, host="127.0.0.1", port=0) as url:
        with proxied(tmp_path, url.removeprefix("http://").rstrip("/")) as port:
            page = f"https://localhost:{port}"
            until, root = time.monotonic() + 30, tmp_path / "caddy/pki/authorities/local/root.crt"
            while not root.exists() and time.monotonic() < until:
                time.sleep(0.05)
            trusted = ssl.create_default_context(cafile=str(root))
            with httpx.Client(base_url=page, verify=trusted, timeout=30) as client:
                while True:
                    try:
                        found = client.get("/health")
                        break
                    except httpx.TransportError:  # its certificate is in the making
                        assert time.monotonic() < until
                        time.sleep(0.1)
                assert found.status_code == 200
                assert client.get("/runs").status_code == 401
                answer = client.get("/runs", headers=bearer)
                assert answer.status_code == 200
                assert "max-age" in answer.headers["strict-transport-security"]
                entered = client.post("/login", data={"token": token}, headers={"Origin": page})
                assert entered.status_code == 303
                cookie = entered.headers["set-cookie"].lower()
                assert "secure" in cookie
                assert "samesite=strict" in cookie
                foreign = {"Origin": "https://elsewhere.example"}
                assert (
                    client.post("/login", data={"token": token}, headers=foreign).status_code == 403
                )
                # Refused while it is still being sent: who sends may see the answer, or the end.
                try:
                    with client.stream(
                        "POST", "/predict", content=b"x" * 3_000_000, headers=bearer
                    ) as large:
                        assert large.status_code in (413, 502)  # so may the proxy
                except httpx.TransportError:
                    assert client.get("/runs", headers=bearer).status_code == 200
                run = runs.list()[0].run_id
                with client.stream("GET", f"/runs/{run}/events", headers=bearer) as events:
                    assert next(events.iter_lines())  # though the answer goes on
        assert token not in (tmp_path / "proxy.log").read_text()


def test_the_services_are_confined_alike_and_share_image_and_state():
    services = compose()["services"]
    page = services["beamsteer"]
    assert (page["read_only"], page["cap_drop"]) == (True, ["ALL"])
    # Where alarms go is a secret of the process that sends them; people come by the page.
    assert page["environment"].pop("BEAMSTEER_ALARM_URLS_FILE") == "/run/secrets/alarm_urls"
    assert page["environment"].pop("BEAMSTEER_PEOPLE") == "${BEAMSTEER_PEOPLE:-}"
    backup = services["backup"]
    assert backup["volumes"][0] == "runs:/data:ro"
    assert "/backups" in (DEPLOY / "Dockerfile").read_text()  # its owner may write there
    for name in LIVE:
        for key in (
            "image",
            "build",
            "restart",
            "environment",
            "read_only",
            "tmpfs",
            "cap_drop",
            "security_opt",
            "logging",
            "mem_limit",
        ):
            assert services[name][key] == page[key], (name, key)
        state, experiment = services[name]["volumes"]
        assert state == page["volumes"][0] == "runs:/data"
        assert experiment.endswith(":/experiment:ro")
        assert "/experiment/" in services["consume"]["command"][1]


def test_the_backup_service_is_a_verb_with_known_options(capsys):
    check_options(compose()["services"]["backup"]["command"], capsys)


@pytest.mark.parametrize("name", ["beamsteer", *LIVE])
def test_the_commands_of_the_services_are_verbs_with_known_options(name, capsys):
    command = compose()["services"][name]["command"]
    check_options(command, capsys)
    # No port of the verb's own would reach the host, and no address the other containers.
    service = compose()["services"][name]
    port = LIVE.get(name, 8080)
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert re.search(rf"--(health-)?port[= ]{port}", " ".join(command))
    assert re.search(r"--host[= ]0\.0\.0\.0", " ".join(command))
    check = service.get("healthcheck", {}).get("test") or [dict(dockerfile())["HEALTHCHECK"]]
    assert f"http://127.0.0.1:{port}/health" in " ".join(check)


def test_the_broker_takes_the_largest_message_that_a_worker_sends():
    environment = compose()["services"]["kafka"]["environment"]
    section = KafkaSection(topics=KafkaTopics(prefix="p"))
    largest = section.max_message_bytes + FRAME_BYTES
    assert int(environment["KAFKA_MESSAGE_MAX_BYTES"]) == largest
    assert int(environment["KAFKA_REPLICA_FETCH_MAX_BYTES"]) == largest
    assert int(environment["KAFKA_SOCKET_REQUEST_MAX_BYTES"]) > largest


def run_topics(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The one-shot service's script, with a program that notes what it is asked for."""
    service = compose()["services"]["topics"]
    program = folder / "kafka-topics.sh"
    program.write_text(f'#!/bin/bash\necho "$@" >> {shlex.quote(str(folder / "asked"))}\n')
    program.chmod(0o755)
    script = service["command"][0].replace("$$", "$").replace("/opt/kafka/bin", str(folder))
    return subprocess.run(
        [*service["entrypoint"], script],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_one_shot_service_makes_every_topic_with_equal_partitions(tmp_path):
    done = run_topics(tmp_path, {"PREFIX": "hyspec", "PARTITIONS": "3"})
    assert done.returncode == 0, done.stderr
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    names = [words[words.index("--topic") + 1] for words in asked]
    topics = KafkaTopics(prefix="hyspec")
    fields = [field for field in KafkaTopics.model_fields if field != "prefix"]
    assert sorted(names) == sorted(topics.name(field) or "" for field in fields)
    for words in asked:
        assert {"--create", "--if-not-exists"} <= set(words)
        assert words[words.index("--partitions") + 1] == "3"


def test_the_one_shot_service_asks_for_the_prefix(tmp_path):
    done = run_topics(tmp_path, {"PREFIX": "", "PARTITIONS": "1"})
    assert done.returncode != 0
    assert "BEAMSTEER_PREFIX" in done.stderr
    assert not (tmp_path / "asked").exists()


def test_prometheus_scrapes_the_paths_and_ports_that_are_served():
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    ports = {"beamsteer": 8080, **LIVE}
    assert {job["job_name"] for job in config["scrape_configs"]} == set(ports)
    assert dict(dockerfile())["EXPOSE"].split() == [str(port) for port in ports.values()]
    for job in config["scrape_configs"]:
        assert job["metrics_path"] == "/metrics"
        name = job["job_name"]
        assert job["static_configs"] == [{"targets": [f"{name}:{ports[name]}"]}]
        assert name in compose()["services"]
        assert job["authorization"]["credentials_file"] == "/run/secrets/beamsteer_token"


def test_the_dashboard_asks_only_for_metrics_that_exist_and_shows_all_of_them():
    dashboard = json.loads((DEPLOY / "grafana/dashboards/beamsteer.json").read_text())
    metrics = published()
    asked: set[str] = set()
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            asked |= set(re.findall(r"beamsteer_\w+", target["expr"]))
    assert asked <= set(metrics)
    assert {metrics[name] for name in asked} == set(metrics.values())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_the_dashboard_finds_its_datasource():
    datasources = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )
    dashboard = json.loads((DEPLOY / "grafana/dashboards/beamsteer.json").read_text())
    uids = {source["uid"] for source in datasources["datasources"]}
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} <= uids
    provider = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/beamsteer.yaml").read_text()
    )
    folder = provider["providers"][0]["options"]["path"]
    mounts = [volume.split(":") for volume in compose()["services"]["grafana"]["volumes"]]
    assert any(source == "./grafana/dashboards" and to == folder for source, to, *_ in mounts)


class Repeated(dict[str, Any]):
    """Keys of a section; systemd adds up those that come several times."""

    def __setitem__(self, key: str, value: Any) -> None:
        known = self.get(key)
        if isinstance(known, list) and isinstance(value, list):
            value = [*known, *value]
        super().__setitem__(key, value)


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, dict_type=Repeated)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / f"{name}.service")
    return parser


def environment_of(name: str) -> dict[str, str]:
    words = shlex.split(unit(name)["Service"]["Environment"])
    return dict(word.split("=", 1) for word in words)


@pytest.mark.parametrize("name", UNITS)
def test_the_units_serve_on_loopback_and_do_not_retry_bad_input(name, capsys):
    parsed = unit(name)
    assert set(parsed.sections()) == {"Unit", "Service", "Install"}
    service = parsed["Service"]
    defaults = environment_of(name)
    assert defaults["BEAMSTEER_HOST"] == "127.0.0.1"
    assert service["EnvironmentFile"] == "-/etc/beamsteer/environment"
    assert service["RestartPreventExitStatus"] == str(cli.BAD_INPUT)
    assert service["User"] != "root"
    _, *command = shlex.split(service["ExecStart"])
    check_options(command, capsys)
    for variable in re.findall(r"\$\{(\w+)\}", service["ExecStart"]):
        assert variable in defaults  # else the option would be empty
    # Compiled code is kept where the unit may write.
    assert defaults["NUMBA_CACHE_DIR"].startswith(f"/var/cache/{service['CacheDirectory']}/")


def test_the_units_of_live_streams_are_confined_like_the_page_and_come_back():
    page = unit("beamsteer")["Service"]
    prefixes = ("Protect", "Private", "NoNew", "Restrict", "SystemCall", "Capab", "Type", "Watch")
    confining = [key for key in page if key.startswith(prefixes)]
    assert len(confining) >= 20
    assert (page["Type"], page["NotifyAccess"]) == ("notify", "main")
    states = set()
    for name in UNITS[1:]:
        service = unit(name)["Service"]
        assert {key: service[key] for key in confining} == {key: page[key] for key in confining}
        assert service["Restart"] == "always"
        assert unit(name)["Unit"]["StartLimitIntervalSec"] == "0"
        assert page["StateDirectory"] in service["StateDirectory"].split()
        states.add(service["StateDirectory"])
        (state,) = (f"/var/lib/{f}" for f in service["StateDirectory"].split() if "/" in f)
        assert state in shlex.split(service["ExecStart"])
        assert state.startswith(shlex.split(page["ExecStart"])[2])  # so the page shows it
    assert len(states) == 1


def test_a_broker_that_is_away_is_not_told_as_bad_input(tmp_path, capsys):
    """The units would not start again after bad input."""
    described = yaml.safe_load((ROOT / "examples" / "ge-arcs.yaml").read_text())
    described["source"] = {
        "kind": "kafka",
        "kafka": {
            "bootstrap_servers": "127.0.0.1:1",
            "topics": {"prefix": "arcs"},
            "connect_timeout_s": 0.5,
        },
    }
    file = tmp_path / "away.yaml"
    file.write_text(yaml.safe_dump(described))
    status = cli.run(["consume", str(file), "-o", str(tmp_path / "state"), "--health-port", "0"])
    assert "127.0.0.1:1" in capsys.readouterr().err
    assert status == cli.AWAY != cli.BAD_INPUT


@pytest.mark.parametrize("name", [*UNITS, BACKUP])
def test_systemd_finds_the_unit_well_confined(name):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("No systemd-analyze here to judge the unit.")
    path = DEPLOY / f"{name}.service"
    done = subprocess.run(
        [program, "security", "--offline=true", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("This systemd-analyze judges only units that run.")
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= EXPOSURE


def test_the_backup_is_confined_like_the_rest_and_only_reads_the_state(capsys):
    page, backup = unit("beamsteer")["Service"], unit(BACKUP)["Service"]
    for key in page:
        if key.startswith(("Protect", "Private", "NoNew", "RestrictN", "SystemCall", "Capab")):
            assert backup[key] == page[key], key
    assert backup["PrivateNetwork"] == "yes"
    assert backup["ReadOnlyPaths"] == f"/var/lib/{page['StateDirectory']}"
    assert backup["RestartPreventExitStatus"] == str(cli.BAD_INPUT)
    _, *command = shlex.split(backup["ExecStart"])
    check_options(command, capsys)
    defaults = environment_of(BACKUP)
    for variable in re.findall(r"\$\{(\w+)\}", backup["ExecStart"]):
        assert variable in defaults
    assert defaults["BEAMSTEER_BACKUPS"] == f"/var/lib/{backup['StateDirectory']}"
    assert unit("beamsteer-consume")["Service"]["StateDirectory"].split()[1] in command[1]


def test_systemd_understands_the_time_of_the_backup(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("No systemd-analyze here to judge the timer.")
    text = (DEPLOY / f"{BACKUP}.timer").read_text()
    (when,) = re.findall(r"(?m)^OnCalendar=(.*)$", text)
    done = subprocess.run([program, "calendar", when], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.copy(DEPLOY / f"{BACKUP}.timer", tmp_path)
    service = (DEPLOY / f"{BACKUP}.service").read_text()
    (tmp_path / f"{BACKUP}.service").write_text(
        service.replace("/opt/beamsteer/.venv/bin/beamsteer", "/bin/true").replace(
            "=beamsteer\n", "=daemon\n"
        )
    )
    done = subprocess.run(
        [program, "verify", "--man=no", str(tmp_path / f"{BACKUP}.timer")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert BACKUP not in done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_the_units_leave_numerical_libraries_what_they_need(name):
    """Memory that is written and then executed, and a say in which processors are used."""
    service = unit(name)["Service"]
    assert service.get("MemoryDenyWriteExecute", "no") == "no"
    allowed, refused = service["SystemCallFilter"].splitlines()
    assert allowed == "@system-service"
    assert refused.startswith("~")
    assert "@resources" not in refused.split()


def test_prometheus_finds_nothing_to_mend_in_the_names_of_metrics():
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("No promtool here to judge metrics; apt-get install prometheus has it.")
    registries = (create_app(store()).state.registry, service_registry(everything)[0])
    told = b"".join(generate_latest(registry) for registry in registries)
    done = subprocess.run(
        [program, "check", "metrics"], input=told, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")


@pytest.mark.parametrize("name", [*UNITS, BACKUP])
def test_systemd_accepts_the_unit(name, tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("No systemd-analyze here to judge the unit.")
    text = (DEPLOY / f"{name}.service").read_text()
    path = tmp_path / f"{name}.service"
    # The program and its user are not installed on a test machine.
    path.write_text(
        text.replace("/opt/beamsteer/.venv/bin/beamsteer", "/bin/true").replace(
            "=beamsteer\n", "=daemon\n"
        )
    )
    done = subprocess.run(
        [program, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if f"{name}.service" in line]
    assert complaints == []


def make_system(folder: Path, **programs: str) -> str:
    """Output of ``make system`` where only these programs are there, each a line of shell."""
    for name in ("sed", "env"):
        (folder / name).symlink_to(shutil.which(name) or name)
    for name, line in programs.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run(
        [make, "-s", "system", "PYTHON=python3"],
        cwd=ROOT,
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def java(version: str) -> str:
    return f"""echo 'openjdk version "{version}" 2025-04-15' >&2"""


def test_make_system_is_silent_where_all_is_there(tmp_path):
    there = {"chromium": "exit 0", "mvn": "exit 0", "java": java("17.0.15")}
    assert make_system(tmp_path, apt_get="echo called", **there) == ""


def test_make_system_tells_what_to_install_where_it_may_not(tmp_path):
    told = make_system(tmp_path, apt_get="echo called", id="echo 1000", sudo="exit 1")
    assert told.endswith("apt-get install -y chromium openjdk-17-jre-headless maven\n")
    assert "called" not in told


def test_make_system_installs_only_what_is_missing(tmp_path):
    told = make_system(
        tmp_path, apt_get='echo "apt $*"', id="echo 0", google_chrome="exit 0", java=java("11.0.2")
    )
    installed = re.findall(r"apt install .* (\S+)$", told, re.MULTILINE)
    assert installed == ["openjdk-17-jre-headless", "maven"]


def test_ports_of_a_local_kafka_differ_from_each_other_and_from_named_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = importlib.util.spec_from_file_location("broker", DEPLOY / "kafka" / "broker.py")
    assert spec is not None
    assert spec.loader is not None
    broker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(broker)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        first = int(taken.getsockname()[1])
        monkeypatch.setattr(broker, "BELOW_LENT", range(first, first + 40))
        found = broker.free_ports(3, but=(None, first + 1))
        assert len(set(found)) == 3
        assert not {first, first + 1} & set(found)
        monkeypatch.setattr(broker, "BELOW_LENT", range(first, first + 1))
        with pytest.raises(broker.MissingError, match="--port, --controller-port"):
            broker.free_ports(1, but=())
