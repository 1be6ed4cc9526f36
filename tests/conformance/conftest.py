"""The server under test and the clients that talk to it.

Every test here takes `oip` (or something made from it) and runs once for each entry of
`SERVER_KINDS`, or, with `--oip-http URL --oip-grpc ADDRESS`, against the server named there, which
must serve the repository that `python -m tests.support.repositories FOLDER` writes. Such a run ends
with a table of what deviates from the protocol.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.deviations import Deviation, protocol_line, table, what_came
from tests.support.raw_http import RawConnection, raw_connection
from tests.support.repositories import write_conformance_repository, write_unready_repository
from tests.support.servers import SERVER_KINDS, OipServer
from tests.support.transports import TRANSPORTS, Grpc, Transport
from tests.support.waiting import wait_until

_GIVEN = "given"
_RESTART_S = 60.0
_SERVER_FIXTURES = ("oip", "unready_oip")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what needs a server once for every kind of server."""
    given = metafunc.config.getoption("--oip-http")
    for fixture in _SERVER_FIXTURES:
        if fixture in metafunc.fixturenames:
            kinds = [_GIVEN] if given else list(SERVER_KINDS)
            metafunc.parametrize(fixture, kinds, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each test's report carry the line of the protocol that it checks."""
    for item in items:
        if isinstance(item, pytest.Function):
            item.user_properties.append(("line", protocol_line(item.function.__doc__)))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """End a run against a given server with the table of its deviations."""
    if config.getoption("--oip-http") is None:
        return
    failed = [*terminalreporter.stats.get("failed", []), *terminalreporter.stats.get("error", [])]
    deviations = [
        Deviation(
            dict(report.user_properties).get("line", ""),
            report.nodeid.rpartition("::")[2],
            what_came(_message(report)),
        )
        for report in failed
    ]
    passed = len(terminalreporter.stats.get("passed", []))
    terminalreporter.section("deviations from the protocol")
    terminalreporter.write_line(f"{passed} checks passed, {len(deviations)} deviate.")
    if deviations:
        for row in table(deviations):
            terminalreporter.write_line(row)


def _message(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(report.longrepr if crash is None else crash.message)


@pytest.fixture(scope="session")
def oip(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OipServer]:
    """A ready server over the repository of the conformance tests."""
    if request.param == _GIVEN:
        yield OipServer(
            http_url=request.config.getoption("--oip-http"),
            grpc_address=request.config.getoption("--oip-grpc"),
        )
        return
    repository = tmp_path_factory.mktemp("repository")
    write_conformance_repository(repository)
    with SERVER_KINDS[request.param](repository, True) as server:
        yield server


@pytest.fixture(autouse=True)
def _up(request: pytest.FixtureRequest) -> None:
    """Give a server that the test before has ended the time to be started anew."""
    url = request.config.getoption("--oip-http")
    if url is not None and not _is_ready(url):
        wait_until(lambda: _is_ready(url), f"{url} to be ready", deadline_s=_RESTART_S)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready", timeout=20).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def unready_oip(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OipServer]:
    """A server with models that cannot be served, beside one that can."""
    if request.param == _GIVEN:
        pytest.skip("needs a server with a broken repository, which a given server is not")
    repository: Path = tmp_path_factory.mktemp("unready")
    write_unready_repository(repository)
    with SERVER_KINDS[request.param](repository, False) as server:
        yield server


@pytest.fixture(scope="session", params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest, oip: OipServer) -> Iterator[Transport]:
    """Every way to speak the protocol, one after another."""
    client = TRANSPORTS[request.param](oip.http_url, oip.grpc_address)
    yield client
    client.close()


@pytest.fixture(scope="session", params=["http-json", "grpc"])
def unready(request: pytest.FixtureRequest, unready_oip: OipServer) -> Iterator[Transport]:
    """Either protocol, to the server with broken models."""
    client = TRANSPORTS[request.param](unready_oip.http_url, unready_oip.grpc_address)
    yield client
    client.close()


@pytest.fixture(scope="session")
def http(oip: OipServer) -> Iterator[httpx.Client]:
    """Raw HTTP."""
    with httpx.Client(base_url=oip.http_url, timeout=20) as client:
        yield client


@pytest.fixture(scope="session")
def rpc(oip: OipServer) -> Iterator[Grpc]:
    """The bare gRPC stubs."""
    client = Grpc(oip.http_url, oip.grpc_address)
    yield client
    client.close()


@pytest.fixture(scope="session")
def onnxruntime(http: httpx.Client) -> None:
    """For what only a back end that runs the ONNX files itself can do; may skip."""
    backend = http.get("/v2/models/matmul/config").json()["backend"]
    if backend != "onnxruntime":
        pytest.skip(f"this server runs the models in its {backend} back end, which cannot do that")


@pytest.fixture
def raw(oip: OipServer) -> Iterator[RawConnection]:
    """A bare TCP connection to the HTTP port."""
    with raw_connection(oip.http_url) as connection:
        yield connection
