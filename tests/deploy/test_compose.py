"""The compose file: what the tool checks, and what it does not."""

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atril_common.settings import load_settings
from atril_gateway.settings import GatewaySettings
from atril_inference.settings import InferenceSettings

Compose = dict[str, Any]
SECONDS = re.compile(r"(\d+)s")


@pytest.fixture
def docker(require_tool: Callable[[str], str]) -> str:
    """Docker with its compose plugin; none of them needs to run an engine."""
    found = str(require_tool("docker"))
    plugin = subprocess.run([found, "compose", "version"], capture_output=True, check=False)
    return found if plugin.returncode == 0 else str(require_tool("docker-compose-plugin"))


@pytest.fixture
def settings(
    compose: Compose,
    image_environment: Callable[[str], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[GatewaySettings, InferenceSettings]:
    """What the two services would read: the image's variables, over them the compose file's."""
    for image, service in [("inference", "inference"), ("gateway", "gateway")]:
        declared = image_environment(image) | compose["services"][service].get("environment", {})
        for name, value in declared.items():
            monkeypatch.setenv(name, value)
    return load_settings(GatewaySettings), load_settings(InferenceSettings)


@pytest.mark.parametrize("profile", [[], ["--profile", "gpu"]], ids=["cpu", "gpu"])
def test_compose_accepts_the_file(docker: str, profile: list[str], root: Path) -> None:
    """`docker compose config` finds nothing wrong with either profile."""
    command = [docker, "compose", "--project-directory", root, *profile, "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_compose_accepts_the_folder_of_wheels(
    docker: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that builds the training image from local wheels fits the compose file."""
    monkeypatch.setenv("ATRIL_WHEELS", str(tmp_path))
    files = ["-f", root / "docker-compose.yml", "-f", root / "deploy/ci/compose.wheels.yml"]
    command = [docker, "compose", *files, "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_whoever_is_waited_for_can_become_healthy(compose: Compose, root: Path) -> None:
    """Each `service_healthy` names a service with a health check, of its own or its image's."""
    services = compose["services"]
    waited_for = {
        name
        for service in services.values()
        for name, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_healthy"
    }
    assert waited_for
    for name in waited_for:
        own = "test" in services[name].get("healthcheck", {})
        assert own or _image_has_healthcheck(services[name], root), name


def _image_has_healthcheck(service: dict[str, Any], root: Path) -> bool:
    dockerfile = root / service["build"]["dockerfile"] if "build" in service else None
    return dockerfile is not None and "\nHEALTHCHECK --" in dockerfile.read_text()


def test_every_port_is_published_once_and_to_this_machine_only(compose: Compose) -> None:
    """No port is published twice, and none beyond the loopback interface."""
    ports = [p for s in compose["services"].values() for p in s.get("ports", [])]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports), ports
    host_ports = Counter(port.split(":")[1] for port in ports)
    assert [p for p, n in host_ports.items() if n > 1] == []


def test_published_ports_are_those_the_gateway_listens_on(
    compose: Compose, settings: tuple[GatewaySettings, InferenceSettings]
) -> None:
    """The container side of the gateway's ports is what its settings say."""
    gateway, _ = settings
    inside = {int(p.rsplit(":", 1)[1]) for p in compose["services"]["gateway"]["ports"]}
    assert inside == {gateway.http_port, gateway.grpc_port, gateway.metrics_port}


@pytest.mark.parametrize(
    ("service", "settings_class"),
    [
        ("gateway", GatewaySettings),
        ("inference", InferenceSettings),
        ("inference-gpu", InferenceSettings),
    ],
)
def test_settings_are_known_and_in_bounds(
    service: str,
    settings_class: type[GatewaySettings] | type[InferenceSettings],
    compose: Compose,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every variable that compose sets is accepted by the service that reads it."""
    for name, value in compose["services"][service]["environment"].items():
        monkeypatch.setenv(name, value)
    load_settings(settings_class)


def test_replicas_are_reached_under_one_name_in_both_profiles(
    compose: Compose, settings: tuple[GatewaySettings, InferenceSettings]
) -> None:
    """The gateway's upstream is the CPU service's name and the GPU service's alias."""
    gateway, inference = settings
    host, port = gateway.replicas.split(":")
    services = compose["services"]
    assert host in services
    assert host in services["inference-gpu"]["networks"]["inside"]["aliases"]
    assert int(port) == inference.grpc_port


@pytest.mark.parametrize("service", ["inference", "inference-gpu", "gateway"])
def test_a_stop_leaves_time_for_the_drain(
    service: str, compose: Compose, settings: tuple[GatewaySettings, InferenceSettings]
) -> None:
    """The engine kills only after the drain and the longest request that was accepted."""
    gateway, inference = settings
    drain_s = gateway.drain_s if service == "gateway" else inference.drain_s
    grace = SECONDS.fullmatch(compose["services"][service]["stop_grace_period"])
    assert grace is not None
    assert int(grace[1]) > drain_s + gateway.request_timeout_s


def test_every_container_is_confined(compose: Compose) -> None:
    """Root file systems are read-only, capabilities dropped, memory, CPU and processes limited."""
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert "privileged" not in service, name


def test_only_training_writes_models(compose: Compose) -> None:
    """The repository is mounted read-only everywhere but where it is published to."""
    writers = {
        name
        for name, service in compose["services"].items()
        for mount in service.get("volumes", [])
        if isinstance(mount, dict)
        and mount["source"] == "models"
        and not mount.get("read_only", False)
    }
    assert writers == {"train"}


def test_inference_is_reached_by_nothing_outside(compose: Compose) -> None:
    """The protocol without keys lives on an internal network and publishes no port."""
    for name in ("inference", "inference-gpu"):
        service = compose["services"][name]
        assert all(compose["networks"][network]["internal"] for network in service["networks"])
        assert "ports" not in service


def test_images_are_pinned(compose: Compose, version: str) -> None:
    """Our images bear the project's version, the others a full one; none is `latest`."""
    for name, service in compose["services"].items():
        tag = service["image"].rsplit(":", 1)[1]
        assert tag == version if "build" in service else re.fullmatch(r"v?\d+\.\d+\.\d+", tag), name
