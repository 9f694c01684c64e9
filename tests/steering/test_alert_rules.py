"""Alert rules: Prometheus' own tool takes them, and they ask for metrics that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from steering.experiment.alarms import ALARM_KINDS
from steering.service.metrics import SERVICE_METRICS
from steering.web import STORE_METRICS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
OF_KIND = {
    "stop": "BeamsteerStop",
    "target met": "BeamsteerTargetMet",
    "untrusted": "BeamsteerUntrusted",
    "stream lost": "BeamsteerStreamLost",
    "state stale": "BeamsteerWorkerDead",
    "chunk set aside": "BeamsteerChunkSetAside",
    "beam off": "BeamsteerBeamOff",
    "disk filling": "BeamsteerDiskFilling",
}
"""The rule that says what an alarm of the program says."""


def rules() -> list[dict]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_metric_that_a_rule_asks_for_exists():
    known = {m.full_name for m in (*STORE_METRICS, *SERVICE_METRICS.values())}
    for rule in rules():
        asked = set(re.findall(r"beamsteer_\w+", rule["expr"]))
        assert asked <= known, rule["alert"]
        assert asked or "up{" in rule["expr"]


def test_labels_that_rules_choose_by_exist():
    labels = {m.full_name: m.labels for m in (*STORE_METRICS, *SERVICE_METRICS.values())}
    for rule in rules():
        for name, chosen in re.findall(r"(beamsteer_\w+)\{(\w+)=", rule["expr"]):
            assert chosen in (*labels[name], "job"), rule["alert"]


def test_every_kind_of_alarm_has_a_rule_that_says_what_to_do():
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    assert set(OF_KIND) == set(ALARM_KINDS)
    assert set(OF_KIND.values()) <= set(names)
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_every_rule_is_tested():
    tested = yaml.safe_load((RULES.parent / "alerts_test.yml").read_text())["tests"]
    fired = {
        one["alertname"] for test in tested for one in test["alert_rule_test"] if one["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules()}


def test_prometheus_is_given_the_rules():
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["prometheus"][
        "volumes"
    ]
    mounted = dict(volume.split(":")[:2] for volume in volumes)
    assert [mounted["./prometheus/alerts.yml"]] == config["rule_files"]


@pytest.mark.parametrize(("verb", "file"), [("check", "alerts.yml"), ("test", "alerts_test.yml")])
def test_the_tool_of_prometheus_takes_the_rules(verb, file):
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("No promtool; it comes with Prometheus.")
    done = subprocess.run(
        [tool, verb, "rules", file], cwd=RULES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_the_tool_of_prometheus_takes_the_configuration(tmp_path):
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("No promtool; it comes with Prometheus.")
    text = (DEPLOY / "prometheus.yml").read_text()
    text = text.replace("/etc/prometheus/alerts.yml", str(RULES))
    text = text.replace("/run/secrets/beamsteer_token", str(tmp_path / "token"))
    (tmp_path / "token").write_text("x")
    (tmp_path / "prometheus.yml").write_text(text)
    done = subprocess.run(
        [tool, "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
