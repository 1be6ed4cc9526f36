"""What every test may use."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference texts and real data sets beside the repository; skips where there is none."""
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
    """Path of a system tool; without it the test is skipped, or fails under ATRIL_REQUIRE_TOOLS=1."""
    return _require_tool
