"""The chart of deploy/helm: rendered by Helm itself, held to the schemas of Kubernetes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from steering import cli

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "beamsteer"
KUBERNETES = ("1.25.0", "1.37.0")  # the oldest that the chart takes, and the newest known here
CUSTOM = {"ServiceMonitor", "PrometheusRule"}  # of the Prometheus operator; no schema is at hand
FULL = {
    "live": {"enabled": True, "kafka": "broker:9092", "experiment": {"configMap": "experiment"}},
    "backup": {"enabled": True, "claim": "backups"},
    "ingress": {"enabled": True, "host": "ins.example.org", "tlsSecret": "tls"},
    "secrets": {
        "token": "token",
        "people": "people.yaml",
        "kafkaPassword": "kafka",
        "alarmUrls": "alarms",
    },
    "monitoring": {"serviceMonitor": {"enabled": True}, "rules": {"enabled": True}},
}


def program(name: str) -> str:
    """Where a program is; a test that needs it is skipped where it is not."""
    found = shutil.which(name) or shutil.which(name, path=os.path.expanduser("~/go/bin"))
    if found is None:
        pytest.skip(f"No {name} here to judge the chart; `make helm` installs it by Go.")
    return found


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("helm"), *arguments], capture_output=True, text=True, check=False
    )


def rendered(folder: Path, values: dict[str, Any], kubernetes: str = KUBERNETES[-1]) -> str:
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = helm("template", "night", str(CHART), "--kube-version", kubernetes, "-f", str(file))
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(folder: Path, values: dict[str, Any]) -> str:
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = helm("template", "night", str(CHART), "--kube-version", "1.30.0", "-f", str(file))
    assert done.returncode != 0
    return done.stderr


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def by_kind(text: str) -> dict[str, dict[str, Any]]:
    found = documents(text)
    assert len({one["kind"] for one in found}) == len(found)
    return {one["kind"]: one for one in found}


@cache
def definitions(kubernetes: str) -> tuple[Path, dict[str, Any]]:
    """Strict schemas of a version of Kubernetes, as a package of the test extra ships them."""
    pytest.importorskip("kubernetes_validate", reason="ships the schemas of Kubernetes")
    folder = Path(str(resources.files("kubernetes_validate"))) / "kubernetes-json-schema"
    folder /= f"v{kubernetes}-local-strict"
    return folder, json.loads((folder / "_definitions.json").read_text())["$defs"]


def schema_name(document: dict[str, Any]) -> str:
    group, _, version = document["apiVersion"].rpartition("/")
    parts = [document["kind"].lower(), *([group.partition(".")[0]] if group else []), version]
    return "-".join(parts)


def schema_of(document: dict[str, Any], kubernetes: str) -> dict[str, Any]:
    """Schema of a document with the definitions that it leads to, and no others."""
    folder, shared = definitions(kubernetes)
    text = (folder / f"{schema_name(document)}.json").read_text()
    found = json.loads(text.replace("/api/_definitions.json#", "#"))
    needed: dict[str, Any] = {}
    rest = [found]
    while rest:
        for name in re.findall(r'"#/\$defs/([^"]+)"', json.dumps(rest.pop())):
            if name not in needed:
                needed[name] = shared[name]
                rest.append(shared[name])
    return found | {"$defs": needed}


def validate(document: dict[str, Any], kubernetes: str) -> None:
    """Raise what is wrong with a document; the schemas themselves are believed."""
    jsonschema.Draft202012Validator(schema_of(document, kubernetes)).validate(document)


def test_helm_finds_nothing_to_mend():
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout + done.stderr


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("values", [{}, FULL], ids=["bare", "full"])
def test_every_manifest_is_one_that_kubernetes_takes(values, kubernetes, tmp_path):
    found = documents(rendered(tmp_path, values, kubernetes))
    kinds = {one["kind"] for one in found}
    assert {"StatefulSet", "Service", "PersistentVolumeClaim", "NetworkPolicy"} <= kinds
    assert not values or {"CronJob", "Ingress", *CUSTOM} <= kinds
    for one in found:
        if one["kind"] not in CUSTOM:
            validate(one, kubernetes)


def test_the_schemas_see_a_misspelt_field(tmp_path):
    whole = by_kind(rendered(tmp_path, {}))["StatefulSet"]
    whole["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnly"] = True
    with pytest.raises(jsonschema.ValidationError):
        validate(whole, KUBERNETES[-1])


def test_kubeconform_takes_the_manifests(tmp_path):
    kubeconform = program("kubeconform")
    text = rendered(tmp_path, FULL)
    for one in documents(text):
        if one["kind"] not in CUSTOM:
            path = tmp_path / f"{schema_name(one)}.json"
            path.write_text(json.dumps(schema_of(one, KUBERNETES[-1])))
    place = str(tmp_path / "{{.ResourceKind}}{{.KindSuffix}}.json")
    done = subprocess.run(
        [kubeconform, "-strict", "-summary", "-output", "json", "-skip", ",".join(sorted(CUSTOM))]
        + ["-schema-location", place],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)["summary"]
    assert done.returncode == 0, done.stdout
    assert told == {"valid": 6, "invalid": 0, "errors": 0, "skipped": len(CUSTOM)}


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    spec = document["spec"].get("jobTemplate", document)["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def test_every_container_is_confined_bounded_and_needs_no_root(tmp_path):
    found = by_kind(rendered(tmp_path, FULL))
    seen = 0
    for kind in ("StatefulSet", "CronJob"):
        document = found[kind]
        spec = document["spec"].get("jobTemplate", document)["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in containers(document):
            seen += 1
            security = one["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            for bound in ("requests", "limits"):
                assert set(one["resources"][bound]) == {"cpu", "memory"}
    assert seen == 5


def test_user_image_and_folders_are_those_of_the_dockerfile(tmp_path):
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    uid = int(re.findall(r"--uid (\d+)", text)[0])
    pod = by_kind(rendered(tmp_path, FULL))["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == uid
    assert pod["securityContext"]["fsGroup"] == uid
    assert 'ENTRYPOINT ["beamsteer"]' in text
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{described["appVersion"]}"' in (ROOT / "pyproject.toml").read_text()


def test_no_secret_is_a_value_and_all_come_from_files(tmp_path):
    found = by_kind(rendered(tmp_path, FULL))
    assert "Secret" not in found
    for kind in ("StatefulSet", "CronJob"):
        for one in containers(found[kind]):
            for variable in one.get("env", []):
                name, value = variable["name"], variable.get("value", "")
                if re.search("TOKEN|PASSWORD|URLS|KEY", name):
                    assert name.endswith("_FILE")
                    assert value.startswith("/secrets/")
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    (mounted,) = (one["secret"] for one in pod["volumes"] if "secret" in one)
    assert mounted["defaultMode"] == 0o440
    paths = {f"/secrets/{one['path']}" for one in mounted["items"]}
    given = {v.get("value") for one in pod["containers"] for v in one["env"]}
    assert paths <= given


def test_commands_are_verbs_with_known_options_and_probes_ask_their_own_ports(tmp_path, capsys):
    found = by_kind(rendered(tmp_path, FULL))
    for kind in ("StatefulSet", "CronJob"):
        for one in containers(found[kind]):
            if "args" not in one:
                assert one["command"] == ["mkdir", "-p", "/data/live"]
                continue
            assert cli.run([one["args"][0], "--help"]) == 0
            shown = capsys.readouterr().out
            for part in one["args"][1:]:
                if part.startswith("-"):
                    assert re.search(rf"(?m)\s{re.escape(part.split('=')[0])}\s", shown), part
            if kind == "CronJob":
                continue
            (port,) = one["ports"]
            assert re.search(rf"--(health-)?port={port['containerPort']}", " ".join(one["args"]))
            for probe, path in (
                ("startupProbe", "/health"),
                ("livenessProbe", "/health"),
                ("readinessProbe", "/ready"),
            ):
                assert one[probe]["httpGet"] == {"path": path, "port": port["name"]}
    # What is not ready is shown all the same: the page says what is wrong.
    assert found["Service"]["spec"]["publishNotReadyAddresses"] is True
    ports = {port["targetPort"] for port in found["Service"]["spec"]["ports"]}
    named = {p["name"] for c in containers(found["StatefulSet"]) for p in c.get("ports", [])}
    assert ports == named
    asked = {
        port["port"] for rule in found["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]
    }
    assert asked == named


def test_the_state_is_one_volume_that_outlives_the_release_and_one_pod_writes_it(tmp_path):
    found = by_kind(rendered(tmp_path, FULL))
    claim = found["PersistentVolumeClaim"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert found["StatefulSet"]["spec"]["replicas"] == 1
    for kind in ("StatefulSet", "CronJob"):
        document = found[kind]
        spec = document["spec"].get("jobTemplate", document)["spec"]["template"]["spec"]
        (state,) = (one for one in spec["volumes"] if one["name"] == "state")
        assert state["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mounts = {m["name"]: m for c in containers(found["CronJob"]) for m in c["volumeMounts"]}
    assert mounts["state"]["readOnly"] is True


def test_alert_rules_and_job_names_are_those_of_prometheus_without_an_operator(tmp_path):
    rules = ROOT / "deploy" / "prometheus" / "alerts.yml"
    assert (CHART / "files" / "alerts.yml").read_text() == rules.read_text()
    found = by_kind(rendered(tmp_path, FULL))
    assert found["PrometheusRule"]["spec"] == yaml.safe_load(rules.read_text())
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    jobs = {one["job_name"] for one in config["scrape_configs"]}
    endpoints = found["ServiceMonitor"]["spec"]["endpoints"]
    assert {one["relabelings"][0]["replacement"] for one in endpoints} == jobs


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"replicas": 3}, "additional properties 'replicas'"),
        ({"live": {"enabled": True}}, "expected live.experiment.configMap"),
        ({"secrets": {"token": ""}}, "secrets.token and secrets.people are empty"),
        ({"secrets": {"password": "hunter2"}}, "additional properties 'password'"),
        ({"ingress": {"enabled": True}}, "expected both, since tokens go over the wire"),
        ({"backup": {"enabled": True}}, "expected a claim that is there"),
        ({"backup": {"keep": 0}}, "keep"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"persistence": {"size": "much"}}, "size"),
        ({"live": {"kafka": "broker"}}, "kafka"),
        ({"service": {"port": 70000}}, "port"),
    ],
)
def test_values_that_make_no_sense_are_refused_with_the_field(values, says, tmp_path):
    assert says in refused(tmp_path, values)
