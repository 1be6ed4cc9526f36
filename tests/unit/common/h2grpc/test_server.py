"""The server's own arguments, and its health service."""

import pytest
from grpc_health.v1 import health_pb2 as pb

from atril_common.errors import NotFoundError
from atril_common.h2grpc.health import HealthService
from atril_common.h2grpc.protocol import _address
from atril_common.h2grpc.rpc import Method, RpcContext, UnaryMethod
from atril_common.h2grpc.server import GrpcServer


async def _echo(message: bytes, context: RpcContext) -> bytes:
    return message


def test_path_may_be_served_once() -> None:
    """Two methods with one path are a mistake of the program."""
    methods = [UnaryMethod("/a.B/C", bytes, _echo)] * 2
    with pytest.raises(ValueError, match=r"two methods have the path /a\.B/C"):
        GrpcServer(methods, max_message_bytes=1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (("1.2.3.4", 5), "1.2.3.4:5"),
        (("::1", 5, 0, 0), "[::1]:5"),
        ("/run/x", "/run/x"),
    ],
)
def test_peer_is_told_as_an_address(name: object, text: str) -> None:
    """IPv6 hosts are in brackets."""
    assert _address(name) == text


def _check(methods: tuple[Method, ...]) -> UnaryMethod:
    (check,) = [method for method in methods if isinstance(method, UnaryMethod)]
    return check


async def test_health_is_not_serving_when_readiness_is_unknown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A question that fails is logged, and the answer is the careful one."""

    async def ready() -> bool:
        raise ZeroDivisionError

    check = _check(HealthService(ready, ["a.B"]).methods())
    answer = await check.handle(pb.HealthCheckRequest(service="a.B"), RpcContext({}, None, ""))
    assert pb.HealthCheckResponse.FromString(answer).status == pb.HealthCheckResponse.NOT_SERVING
    assert "readiness_unknown" in caplog.text
    with pytest.raises(NotFoundError, match="no service 'c'"):
        await check.handle(pb.HealthCheckRequest(service="c"), RpcContext({}, None, ""))
