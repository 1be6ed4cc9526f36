"""Prometheus: a configuration it accepts, alerts that fire when they should, targets that exist."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from atril_gateway.settings import GatewaySettings
from atril_inference.settings import InferenceSettings


@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["test", "rules", "rules.test.yml"]],
    ids=["configuration", "alerts"],
)
def test_promtool_accepts(
    arguments: list[str], root: Path, require_tool: Callable[[str], str]
) -> None:
    """The configuration is valid, and each alert fires on its series and on no other."""
    done = subprocess.run(
        [require_tool("promtool"), *arguments],
        cwd=root / "deploy/prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested(root: Path) -> None:
    """An alert that no test sees fire is a guess."""
    folder = root / "deploy/prometheus"
    groups = yaml.safe_load((folder / "rules.yml").read_text())["groups"]
    tests = yaml.safe_load((folder / "rules.test.yml").read_text())["tests"]
    declared = {rule["alert"] for group in groups for rule in group["rules"]}
    fired = {
        check["alertname"]
        for test in tests
        for check in test["alert_rule_test"]
        if check["exp_alerts"]
    }
    assert fired == declared


def test_targets_are_services_at_their_metrics_ports(root: Path, compose: dict[str, Any]) -> None:
    """Every scraped address is a service of the compose file at the port its metrics are on."""
    configuration = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text())
    scraped = set()
    for job in configuration["scrape_configs"]:
        for static in job.get("static_configs", []):
            scraped |= {tuple(target.split(":")) for target in static["targets"]}
        for lookup in job.get("dns_sd_configs", []):
            scraped |= {(name, str(lookup["port"])) for name in lookup["names"]}
    ours = {(name, port) for name, port in scraped if name != "localhost"}
    assert {name for name, _ in ours} <= set(compose["services"])
    assert ours == {
        ("gateway", str(GatewaySettings.model_fields["metrics_port"].default)),
        ("inference", str(InferenceSettings.model_fields["metrics_port"].default)),
    }
