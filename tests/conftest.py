"""What every test may use."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# A machine that is busy with something else is no reason to fail.
settings.register_profile("atril", deadline=None)
settings.load_profile("atril")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The conformance tests can be pointed at a server that is already running."""
    group = parser.getgroup("conformance", "the server that the conformance tests run against")
    group.addoption("--oip-http", metavar="URL", help="base URL of its HTTP port")
    group.addoption("--oip-grpc", metavar="ADDRESS", help="host:port of its gRPC port")
    group = parser.getgroup("catalogue", "the models that the catalogue's tests look at")
    group.addoption(
        "--catalogue", metavar="FOLDER", help="a repository that `make catalogue` has built"
    )


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference texts and real data sets beside the repository; may skip."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no shared/ folder with the real data sets beside the repository")
    return folder


def _require_tool(name: str) -> str:
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"{name} is not installed (deploy/ci/apt.txt lists the packages)"
    if os.environ.get("ATRIL_REQUIRE_TOOLS") == "1":
        pytest.fail(f"ATRIL_REQUIRE_TOOLS=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """Path of a system tool; without it a test skips, or fails under ATRIL_REQUIRE_TOOLS=1."""
    return _require_tool
