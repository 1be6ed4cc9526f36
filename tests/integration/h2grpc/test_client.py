"""Our own client on real sockets, against our server and against grpcio's."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from atril_common.h2grpc import frames
from atril_common.h2grpc.client import ConnectionLostError, GrpcClient, NotProcessedError
from atril_common.h2grpc.frames import Setting
from atril_common.h2grpc.messages import RpcStatusError
from tests.integration.h2grpc.grpc_echo import EchoServer, serve

SAY, NOW, WAIT = "/test.Echo/Say", "/test.Echo/Now", "/test.Echo/Wait"
FAIL, COUNT = "/test.Echo/Fail", "/test.Echo/Count"
GREETING = frames.settings({})
"""How a server begins."""


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    """A fresh server."""
    with serve() as server:
        yield server


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[GrpcClient]:
    """A client, closed at the end."""
    client = GrpcClient("127.0.0.1", port)
    try:
        yield client
    finally:
        await client.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Let the loop run until something holds.

    Raises:
        TimeoutError: it did not within 20 s.
    """
    end_s = asyncio.get_running_loop().time() + 20
    while not condition():
        if asyncio.get_running_loop().time() > end_s:
            raise TimeoutError(what)
        await asyncio.sleep(0.005)


class _Generic(grpc.GenericRpcHandler):  # type: ignore[misc]
    """grpcio's server with the echo's methods, as far as these tests call them."""

    def service(self, details: Any) -> Any:
        """Find a method."""

        async def say(message: bytes, context: Any) -> bytes:
            return message

        async def fail(message: bytes, context: Any) -> bytes:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message.decode())
            raise AssertionError("unreachable")

        async def count(message: bytes, context: Any) -> AsyncIterator[bytes]:
            for number in range(int(message)):
                yield str(number).encode().rjust(10_000)

        if details.method == COUNT:
            return grpc.unary_stream_rpc_method_handler(count)
        return grpc.unary_unary_rpc_method_handler(say if details.method == SAY else fail)


@pytest.fixture(params=["ours", "grpcio"])
async def port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    """Where either server listens."""
    if request.param == "ours":
        with serve() as echo:
            yield echo.port
        return
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((_Generic(),))
    bound = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield bound
    await server.stop(None)


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 70_000, 5_000_000, 40_000_000])
async def test_messages_of_any_size_go_out_and_come_back(port: int, size: int) -> None:
    """Over several frames and windows, in both directions."""
    async with connected(port) as client:
        message = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert await client.unary(SAY, message, 60) == message


async def test_concurrent_calls_get_their_own_answers(port: int) -> None:
    """Some hundred calls of mixed sizes on one connection."""
    async with connected(port) as client:
        sent = [bytes((n % 256,)) * (n * 9973 % 200_000) for n in range(300)]
        assert await asyncio.gather(*(client.unary(SAY, m, 60) for m in sent)) == sent


async def test_a_status_is_told_with_its_text(port: int) -> None:
    """The code and the percent-encoded text, letters beyond ASCII included."""
    async with connected(port) as client:
        with pytest.raises(RpcStatusError, match="größer als 100 %") as failed:
            await client.unary(FAIL, "größer als 100 %".encode(), 20)
        assert failed.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_gives_every_message(port: int) -> None:
    """More than a window holds."""
    async with connected(port) as client:
        got = [int(m) async for m in client.stream(COUNT, b"3000", 60, ())]
        assert got == list(range(3000))


async def test_a_deadline_ends_a_call_here_and_there(echo: EchoServer) -> None:
    """DEADLINE_EXCEEDED, and the server's handler is cancelled."""
    async with connected(echo.port) as client:
        assert await client.unary(SAY, b"connected", 20) == b"connected"
        with pytest.raises(RpcStatusError) as failed:
            await client.unary(WAIT, b"", 1.0)  # long enough for the handler to begin
        assert failed.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(echo.cancelled.is_set, "the handler to be cancelled")
        assert await client.unary(SAY, b"still there", 20) == b"still there"


async def test_a_cancelled_call_is_cancelled_there(echo: EchoServer) -> None:
    """RST_STREAM, with the connection left as it is."""
    async with connected(echo.port) as client:
        call = asyncio.ensure_future(client.unary(WAIT, b"", 60))
        await until(echo.started.is_set, "the handler")
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await until(echo.cancelled.is_set, "the handler to be cancelled")
        assert await client.unary(SAY, b"still there", 20) == b"still there"


async def test_a_stream_that_nobody_reads_holds_the_server_back(echo: EchoServer) -> None:
    """Window is given as messages are taken; leaving cancels the RPC."""
    async with connected(echo.port) as client:
        messages = client.stream(COUNT, b"100000", 60, ())
        assert int(await anext(messages)) == 0
        produced = -1
        while produced != echo.produced:  # until it produces nothing more
            produced = echo.produced
            await asyncio.sleep(0.1)
        assert produced < 5_000  # 16 MiB of window and what lies in sockets, of 1 GB
        await messages.aclose()
        assert await client.unary(SAY, b"still there", 20) == b"still there"


async def test_connections_of_a_short_life_lose_nothing() -> None:
    """A server that ends its connections all the time: what it did not take is sent anew."""
    with serve(max_connection_age_s=0.3) as echo:
        async with connected(echo.port) as client:
            peers = set()
            for start in range(0, 12_000, 100):
                calls = [client.unary(NOW, b"%d" % n, 20) for n in range(start, start + 100)]
                assert await asyncio.gather(*calls) == [
                    b"%d" % n for n in range(start, start + 100)
                ]
                peers.add(await client.unary("/test.Echo/Peer", b"", 20))
            while len(peers) < 2:
                peers.add(await client.unary("/test.Echo/Peer", b"", 20))


async def test_more_calls_than_the_server_takes_wait_here() -> None:
    """MAX_CONCURRENT_STREAMS is kept to; nobody is refused."""
    with serve(max_concurrent_streams=2) as echo:
        async with connected(echo.port) as client:
            answers = await asyncio.gather(*(client.unary(SAY, b"%d" % n, 60) for n in range(300)))
            assert [int(a) for a in answers] == list(range(300))


async def test_a_server_that_is_not_there_is_told_at_once_and_found_later() -> None:
    """Refused connections are no answers; the next call connects."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with connected(port) as client:
        with pytest.raises(NotProcessedError, match="onnect"):
            await client.unary(SAY, b"", 20)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_Generic(),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        assert await client.unary(SAY, b"now", 20) == b"now"
        await server.stop(None)


async def test_a_call_whose_connection_is_lost_is_not_repeated(echo: EchoServer) -> None:
    """The server may have run it: that is for the caller to decide."""
    async with connected(echo.port) as client:
        call = asyncio.ensure_future(client.unary(WAIT, b"", 60))
        await until(echo.started.is_set, "the handler")
        link = client._link
        assert link is not None
        link._transport.abort()
        with pytest.raises(ConnectionLostError) as lost:
            await call
        assert not isinstance(lost.value, NotProcessedError)
        assert await client.unary(SAY, b"anew", 20) == b"anew"


async def test_closing_ends_what_is_under_way(echo: EchoServer) -> None:
    """Calls fail, and no new one begins."""
    client = GrpcClient("127.0.0.1", echo.port)
    call = asyncio.ensure_future(client.unary(WAIT, b"", 60))
    await until(echo.started.is_set, "the handler")
    await client.close()
    with pytest.raises(ConnectionLostError):
        await call
    with pytest.raises(NotProcessedError, match="closed"):
        await client.unary(SAY, b"", 20)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConnectionLostError),
        (GREETING + frames.frame(frames.DATA, 0, 99, b"x"), ConnectionLostError),
        (
            GREETING + frames.frame(frames.HEADERS, 4, 1, b"\xff\xff"),
            ConnectionLostError,
        ),
        (GREETING + frames.rst_stream(1, 7), ConnectionLostError),
        (GREETING + frames.rst_stream(1, 8), RpcStatusError),
        (GREETING + frames.frame(frames.HEADERS, 5, 1, b"\x88"), RpcStatusError),
        (GREETING + frames.goaway(0, 0), NotProcessedError),
        (frames.settings({Setting.MAX_FRAME_SIZE: 1}), ConnectionLostError),
        (b"", NotProcessedError),
    ],
    ids=["http1", "idle", "hpack", "refused", "reset", "no-status", "goaway", "settings", "eof"],
)
async def test_a_server_that_is_none_fails_the_call(said: bytes, error: type[Exception]) -> None:
    """Whatever comes back: an error, on time, and never a hang."""
    answered: list[asyncio.Task[Any] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered.append(asyncio.current_task())
        await reader.readuntil(b"/test.Echo/Say")
        writer.write(said)
        await writer.drain()
        if said:
            with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, OSError):
                # A call that was refused is sent once more.
                await asyncio.wait_for(reader.readuntil(b"/test.Echo/Say"), 0.5)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, connected(server.sockets[0].getsockname()[1]) as client:
        with pytest.raises(error):
            await client.unary(SAY, b"hello", 20)
        await client.close()
        await asyncio.gather(*(task for task in answered if task is not None))
