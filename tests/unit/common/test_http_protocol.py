"""The fast way of an inference request, on a transport that the test plays."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest
import uvicorn
from uvicorn.server import ServerState

from atril_common.core import InferRequest, InferResponse
from atril_common.oip.controls import Controls
from atril_common.oip.http_infer import InferHandler
from atril_common.oip.http_protocol import InferProtocol
from atril_common.telemetry import Telemetry


class FakeTransport(asyncio.Transport):
    """Keeps what is written, and calls for a pause once more than `high_water` bytes are."""

    def __init__(self, high_water: int = 1 << 30) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.closed = False
        self.high_water = high_water
        self.protocol: InferProtocol | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """No addresses."""
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep the bytes."""
        self.written += bytes(data)
        if len(self.written) > self.high_water and self.protocol is not None:
            self.protocol.pause_writing()

    def pause_reading(self) -> None:
        """Note it."""
        self.reading = False

    def resume_reading(self) -> None:
        """Note it."""
        self.reading = True

    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self.closed

    def close(self) -> None:
        """Note it."""
        self.closed = True


class FakeCore:
    """A core whose answers the test gives."""

    def __init__(self) -> None:
        self.futures: list[asyncio.Future[InferResponse]] = []

    def infer(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """Accept everything."""
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    def answer(self, value: float = 1.0) -> None:
        """Answer the oldest request."""
        response = InferResponse("m", "1", {"y": np.array([value], np.float32)})
        self.futures.pop(0).set_result(response)


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def connect(core: FakeCore, transport: FakeTransport) -> InferProtocol:
    """A connection to a server with that core."""
    handler = InferHandler(core, Telemetry(), 1 << 20, Controls())  # type: ignore[arg-type]  # all it needs
    config = uvicorn.Config(_no_app, log_config=None, access_log=False)
    protocol = InferProtocol(
        handler=handler, config=config, server_state=ServerState(), app_state={}
    )
    transport.protocol = protocol
    protocol.connection_made(transport)
    return protocol


def request_bytes() -> bytes:
    """An inference request."""
    entry = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}
    body = json.dumps({"inputs": [entry]}).encode()
    head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def settle() -> None:
    """Let the loop run what is due."""
    for _ in range(10):
        await asyncio.sleep(0)


def disconnect(protocol: InferProtocol) -> None:
    """End the connection, and with it the keep-alive timer."""
    protocol.connection_lost(None)


async def test_a_request_is_answered_without_the_app() -> None:
    """The answer goes straight to the transport once the future is done."""
    core, transport = FakeCore(), FakeTransport()
    protocol = connect(core, transport)
    protocol.data_received(request_bytes())
    assert transport.written == b""
    core.answer()
    await settle()
    assert transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"data":[1.0]' in transport.written
    disconnect(protocol)


async def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """Once its answers pile up, no further request of it is taken until it reads."""
    core, transport = FakeCore(), FakeTransport(high_water=10)
    protocol = connect(core, transport)
    protocol.data_received(request_bytes())
    core.answer()
    await settle()
    assert transport.written
    assert not transport.reading
    protocol.resume_writing()
    assert transport.reading
    disconnect(protocol)


async def test_a_client_that_went_away_takes_its_request_with_it() -> None:
    """The future is cancelled, so that the batcher drops the request."""
    core, transport = FakeCore(), FakeTransport()
    protocol = connect(core, transport)
    protocol.data_received(request_bytes())
    (future,) = core.futures
    transport.close()
    protocol.connection_lost(None)
    await settle()
    assert future.cancelled()
    assert transport.written == b""


@pytest.mark.parametrize("behind", [b"GET /v2 HTTP/1.1\r\nHost: t\r\n\r\n", request_bytes()])
async def test_a_client_that_went_away_takes_its_pipelined_requests_with_it(behind: bytes) -> None:
    """What waits behind the first request does not keep it alive."""
    core, transport = FakeCore(), FakeTransport()
    protocol = connect(core, transport)
    protocol.data_received(request_bytes() + behind)
    future = core.futures[0]
    transport.close()
    protocol.connection_lost(None)
    await settle()
    assert future.cancelled()
    assert len(core.futures) == 1
    assert transport.written == b""


async def test_a_shutdown_lets_a_request_be_answered_and_then_closes() -> None:
    """The answer says that it is the last, as the connection is."""
    core, transport = FakeCore(), FakeTransport()
    protocol = connect(core, transport)
    protocol.data_received(request_bytes())
    protocol.shutdown()
    assert not transport.closed
    core.answer()
    await settle()
    assert b"connection: close\r\n" in transport.written
    assert transport.closed
    disconnect(protocol)
