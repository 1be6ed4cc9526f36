"""What the checks of the deployment share: the files, and the tools that read them."""

import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="session")
def version(root: Path) -> str:
    """The version that the images bear."""
    return str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])


@pytest.fixture(scope="session")
def compose(root: Path) -> dict[str, Any]:
    """The compose file as YAML, merge keys resolved, variables as they stand."""
    return dict(yaml.safe_load((root / "docker-compose.yml").read_text()))


@pytest.fixture(scope="session")
def image_environment(root: Path) -> Callable[[str], dict[str, str]]:
    """Look up the settings that a service's Dockerfile makes."""

    def look_up(service: str) -> dict[str, str]:
        text = (root / "services" / service / "Dockerfile").read_text()
        return dict(re.findall(r"\b(ATRIL_[A-Z_]+)=(\S+)", text))

    return look_up


@pytest.fixture
def dev_tool(require_tool: Callable[[str], str]) -> Callable[[str], str]:
    """Find a tool that the development group brings into the virtual environment."""

    def find(name: str) -> str:
        return shutil.which(name, path=Path(sys.executable).parent) or str(require_tool(name))

    return find
