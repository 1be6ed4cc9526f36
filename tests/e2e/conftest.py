"""A LeNet-5 that was really trained, and the servers in front of it."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import (
    ServerProcess,
    all_in_one_process,
    gateway_process,
    inference_process,
    running,
)


@dataclass(frozen=True)
class Run:
    """`atril run` on an empty repository, once it answers."""

    server: ServerProcess
    repository: Path


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """What `make run` does on a fresh machine."""
    repository = tmp_path_factory.mktemp("run") / "model_repository"
    with running(all_in_one_process("run", repository, {})) as server:
        yield Run(server, repository)


@pytest.fixture(scope="session")
def digit_png(root: Path) -> bytes:
    """A handwritten 3, from scikit-learn's digits."""
    return (root / "deploy" / "ci" / "digit-3.png").read_bytes()


@pytest.fixture(scope="session")
def replicas(first_run: Run) -> Iterator[list[ServerProcess]]:
    """Two replicas of the inference service over the trained model."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(running(inference_process(first_run.repository, {})))
            for _ in range(2)
        ]


@pytest.fixture(scope="session")
def gateway(replicas: list[ServerProcess]) -> Iterator[ServerProcess]:
    """The gateway over both replicas."""
    with running(gateway_process(replicas, {})) as server:
        yield server


@pytest.fixture(scope="session", params=["embedded", "inference", "gateway"])
def front(request: pytest.FixtureRequest) -> ServerProcess:
    """Each of the three ways to serve the model."""
    if request.param == "embedded":
        run: Run = request.getfixturevalue("first_run")
        return run.server
    if request.param == "inference":
        both: list[ServerProcess] = request.getfixturevalue("replicas")
        return both[0]
    server: ServerProcess = request.getfixturevalue("gateway")
    return server


@pytest.fixture(scope="session", params=["embedded", "gateway"])
def task_front(request: pytest.FixtureRequest) -> ServerProcess:
    """The two that offer the task API."""
    if request.param == "embedded":
        run: Run = request.getfixturevalue("first_run")
        return run.server
    server: ServerProcess = request.getfixturevalue("gateway")
    return server
