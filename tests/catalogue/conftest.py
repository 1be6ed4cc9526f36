"""The whole catalogue, built once by the command that users have."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import ServerProcess, all_in_one_process, running

_BUILD_S = 3000.0


@dataclass(frozen=True)
class Built:
    """`atril catalogue build` on an empty repository, once it has ended."""

    repository: Path
    output: str


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Every architecture in its small form: minutes of work, shared by all tests of a session.

    With `--catalogue FOLDER` what is there is taken, and what is missing there is built.
    """
    given = request.config.getoption("--catalogue")
    repository = Path(given) if given else tmp_path_factory.mktemp("catalogue") / "models"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "atril_cli", "catalogue", "build", "--if-missing"),
            *("--repository", str(repository)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(repository, done.stdout)


@pytest.fixture(scope="session")
def catalogue_server(built: Built) -> Iterator[ServerProcess]:
    """The gateway over an engine with every model of the catalogue."""
    with running(all_in_one_process("serve", built.repository, {})) as server:
        yield server
