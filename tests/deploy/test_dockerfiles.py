"""The images: Dockerfiles that lint, run as nobody in particular and say who they are."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from atril_common.settings import load_settings
from atril_gateway.settings import GatewaySettings
from atril_inference.settings import InferenceSettings

SERVICES = ("gateway", "inference", "training")
DOCKERFILES = [*(f"services/{s}/Dockerfile" for s in SERVICES), "deploy/ci/prometheus.Dockerfile"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_finds_nothing(
    dockerfile: str, root: Path, dev_tool: Callable[[str], str]
) -> None:
    """Every Dockerfile passes hadolint."""
    command = [dev_tool("hadolint"), "--no-color", root / dockerfile]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_shellcheck_finds_nothing(root: Path, dev_tool: Callable[[str], str]) -> None:
    """The smoke test passes shellcheck."""
    command = [dev_tool("shellcheck"), root / "deploy/ci/compose-smoke.sh"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_image_runs_as_a_numbered_user_from_a_pinned_lock(
    service: str, root: Path, version: str
) -> None:
    """No image runs as root, every one is installed by the lock and labelled with the version."""
    text = (root / "services" / service / "Dockerfile").read_text()
    final = text[text.rindex("\nFROM ") :]
    assert "\nUSER 10001:10001\n" in final
    assert re.search(r"^ENTRYPOINT \[", final, re.MULTILINE)
    assert f'org.opencontainers.image.version="{version}"' in final
    assert "install -c constraints.txt" in text
    assert not text.startswith("# syntax="), "fetches its front end from a registry"


@pytest.mark.parametrize(
    ("service", "settings_class"),
    [("gateway", GatewaySettings), ("inference", InferenceSettings)],
)
def test_image_listens_where_it_says(
    service: str,
    settings_class: type[GatewaySettings] | type[InferenceSettings],
    root: Path,
    image_environment: Callable[[str], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image's variables are known settings, and EXPOSE names the ports that follow."""
    for name, value in image_environment(service).items():
        monkeypatch.setenv(name, value)
    settings = load_settings(settings_class)
    text = (root / "services" / service / "Dockerfile").read_text()
    exposed = re.search(r"^EXPOSE (.+)$", text, re.MULTILINE)
    assert exposed is not None
    ports = [settings.http_port, settings.grpc_port, settings.metrics_port]
    assert [int(port) for port in exposed[1].split()] == ports
    assert settings.host == "0.0.0.0"
    assert f"'{settings.http_port}'" in text[text.index("HEALTHCHECK") :]
