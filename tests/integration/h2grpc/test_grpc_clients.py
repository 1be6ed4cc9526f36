"""The server on real sockets, against the clients that people use."""

import asyncio
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.integration.h2grpc.grpc_echo import LIMIT_BYTES, EchoServer, serve
from tests.support.waiting import wait_until

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    """A fresh server."""
    with serve() as server:
        yield server


@pytest.fixture
def channel(echo: EchoServer) -> Iterator[grpc.Channel]:
    """A channel of its own."""
    with grpc.insecure_channel(echo.address, options=OPTIONS) as channel:
        yield channel


def test_thousands_of_requests_on_one_connection(channel: grpc.Channel) -> None:
    """20 000 requests, 200 at a time, all answered over one connection."""
    say = channel.unary_unary("/test.Echo/Now")
    for start in range(0, 20_000, 200):
        futures = [say.future(b"%d" % number, timeout=60) for number in range(start, start + 200)]
        assert [int(f.result()) for f in futures] == list(range(start, start + 200))


def test_threads_share_a_channel(channel: grpc.Channel) -> None:
    """Concurrent callers of all kinds get their own answers."""
    say = channel.unary_unary("/test.Echo/Say")

    def ask(number: int) -> bool:
        body = bytes((number % 256,)) * (number * 97 % 50_000)
        return bool(say(body, timeout=60) == body)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(500)))


def test_plain_asyncio_loop_serves_too() -> None:
    """The server needs nothing of uvloop."""
    with (
        serve(run_loop=asyncio.run) as echo,
        grpc.insecure_channel(echo.address, options=OPTIONS) as channel,
    ):
        body = b"x" * (5 << 20)
        assert channel.unary_unary("/test.Echo/Say")(body, timeout=60) == body
        echo.on_loop(echo.server.stop(30))


def test_other_protocols_are_turned_away(echo: EchoServer) -> None:
    """An HTTP/1.1 client gets a GOAWAY and the end of the connection."""
    with socket.create_connection(("127.0.0.1", echo.port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while part := client.recv(4096):
            answer += part
    assert answer.endswith(b"no HTTP/2 preface")


def test_large_message_goes_both_ways(channel: grpc.Channel) -> None:
    """64 MiB in, 64 MiB out."""
    body = np.random.default_rng(0).bytes(64 << 20)
    assert channel.unary_unary("/test.Echo/Say")(body, timeout=60) == body


def test_message_over_the_limit_is_refused(channel: grpc.Channel) -> None:
    """The status is RESOURCE_EXHAUSTED, the text names both sizes, the connection lives on."""
    say = channel.unary_unary("/test.Echo/Say")
    with pytest.raises(grpc.RpcError) as caught:
        say(b"x" * (LIMIT_BYTES + 1), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == (
        f"Received message larger than max ({LIMIT_BYTES + 1} vs. {LIMIT_BYTES})"
    )
    assert say(b"x", timeout=60) == b"x"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_read(echo: EchoServer, compression: grpc.Compression) -> None:
    """A client may compress what it sends."""
    with grpc.insecure_channel(echo.address, OPTIONS, compression=compression) as channel:
        body = b"again and again " * 10_000
        assert channel.unary_unary("/test.Echo/Say")(body, timeout=60) == body


def test_metadata_comes_and_goes(channel: grpc.Channel) -> None:
    """Text and binary metadata arrive, and are sent back before the answer."""
    metadata = (("x-request-id", "seven"), ("x-key-bin", b"\x00\xff\x80"))
    answer, call = channel.unary_unary("/test.Echo/Say").with_call(
        b"", metadata=metadata, timeout=60
    )
    assert answer == b""
    assert set(metadata) <= {(key, value) for key, value in call.initial_metadata()}


def test_error_text_may_be_any_unicode(channel: grpc.Channel) -> None:
    """The text of an error arrives as it was written."""
    text = "größer als 100 %: 猫\n"
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/Fail")(text.encode(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == text


def test_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    """As with any gRPC server."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/Nothing")(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_cancelled_request_stops_its_handler(echo: EchoServer, channel: grpc.Channel) -> None:
    """The handler learns that its caller has gone."""
    future = channel.unary_unary("/test.Echo/Wait").future(b"")
    assert echo.started.wait(30)
    future.cancel()
    assert echo.cancelled.wait(30)


def test_deadline_stops_the_handler(echo: EchoServer, channel: grpc.Channel) -> None:
    """DEADLINE_EXCEEDED for the caller, cancellation for the handler."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/Wait")(b"", timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert echo.cancelled.wait(30)


def test_closed_channel_stops_the_handler(echo: EchoServer) -> None:
    """A connection that goes away takes its requests with it."""
    channel = grpc.insecure_channel(echo.address, options=OPTIONS)
    future = channel.unary_unary("/test.Echo/Wait").future(b"")
    assert echo.started.wait(30)
    channel.close()
    assert echo.cancelled.wait(30)
    assert future.code() is grpc.StatusCode.CANCELLED


def test_slow_reader_slows_the_generator(echo: EchoServer) -> None:
    """A client that takes one message of many does not make the server produce them all."""
    counts: list[int] = []

    def stands_still() -> bool:
        counts.append(echo.produced)
        return len(counts) > 10 and counts[-1] == counts[-10]

    with grpc.insecure_channel(echo.address, (*OPTIONS, ("grpc.http2.bdp_probe", 0))) as channel:
        call = channel.unary_stream("/test.Echo/Count")(b"20000", timeout=60)
        assert int(next(call)) == 0
        wait_until(stands_still, "windows and buffers between us to be full")
        assert echo.produced < 20_000
        assert [int(message) for message in call] == list(range(1, 20_000))


async def test_stream_of_requests_is_answered_one_by_one(echo: EchoServer) -> None:
    """A bidirectional method answers while the request goes on."""
    async with grpc.aio.insecure_channel(echo.address, options=OPTIONS) as channel:
        call = channel.stream_stream("/test.Echo/Chat")(timeout=60)
        for size in (0, 1, 100_000, 5):
            await call.write(b"x" * size)
            assert await call.read() == b"x" * size
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_asyncio_client_is_served(echo: EchoServer) -> None:
    """grpc.aio, many at once."""
    async with grpc.aio.insecure_channel(echo.address, options=OPTIONS) as channel:
        say = channel.unary_unary("/test.Echo/Say")
        answers = await asyncio.gather(*(say(b"%d" % n, timeout=60) for n in range(1000)))
    assert [int(answer) for answer in answers] == list(range(1000))


def test_keepalive_pings_are_no_flood(echo: EchoServer) -> None:
    """A client that pings all the time while it waits keeps its connection."""
    options = (
        ("grpc.keepalive_time_ms", 20),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    )
    with grpc.insecure_channel(echo.address, (*OPTIONS, *options)) as channel:
        future = channel.unary_unary("/test.Echo/Wait").future(b"done", timeout=60)
        assert echo.started.wait(30)
        for number in range(200):
            assert channel.unary_unary("/test.Echo/Now")(b"%d" % number, timeout=60)
        echo.loop.call_soon_threadsafe(echo.release.set)
        assert future.result(60) == b"done"


def test_drain_loses_no_request(echo: EchoServer) -> None:
    """While the server stops, every request is answered or was never begun."""
    busy = threading.Event()

    def ask(_: int) -> tuple[int, grpc.StatusCode, str]:
        answered = 0
        with grpc.insecure_channel(echo.address, options=OPTIONS) as channel:
            say = channel.unary_unary("/test.Echo/Now")
            while True:
                try:
                    say(b"x", timeout=60)
                except grpc.RpcError as err:
                    return answered, err.code(), err.details()
                answered += 1
                busy.set()

    with grpc.insecure_channel(echo.address, options=OPTIONS) as channel:
        waiting = channel.unary_unary("/test.Echo/Wait").future(b"done", timeout=60)
        assert echo.started.wait(30)
        with ThreadPoolExecutor(8) as pool:
            workers = [pool.submit(ask, number) for number in range(8)]
            assert busy.wait(30)
            stopping = asyncio.run_coroutine_threadsafe(echo.server.stop(30), echo.loop)
            results = [worker.result(60) for worker in workers]
        echo.loop.call_soon_threadsafe(echo.release.set)
        assert waiting.result(60) == b"done"
        stopping.result(60)
    assert sum(answered for answered, _, _ in results) == echo.begun
    for _, code, details in results:  # each client ended by finding nobody at the address
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details.startswith("failed to connect to all addresses")


def test_stop_cancels_what_outlasts_the_grace(echo: EchoServer, channel: grpc.Channel) -> None:
    """After the grace period a request is given up with UNAVAILABLE."""
    future = channel.unary_unary("/test.Echo/Wait").future(b"", timeout=60)
    assert echo.started.wait(30)
    echo.on_loop(echo.server.stop(0.01))
    assert future.code() is grpc.StatusCode.UNAVAILABLE
    assert echo.cancelled.wait(30)


def test_connections_are_replaced_without_a_failure() -> None:
    """A client whose connection is ended for its age goes on on another."""
    with (
        serve(max_connection_age_s=0.01) as echo,
        grpc.insecure_channel(echo.address, options=OPTIONS) as channel,
    ):
        peers = set()
        say = channel.unary_unary("/test.Echo/Peer")
        while len(peers) < 3:
            peers.add(say(b"", timeout=60))


def test_health_is_checked_and_watched(echo: EchoServer, channel: grpc.Channel) -> None:
    """Check answers now, Watch tells of each change; unknown services are told as such."""
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse
    ask = health_pb2.HealthCheckRequest
    assert stub.Check(ask(service="test.Echo"), timeout=60).status == serving.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(ask(service="no.Such"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    unknown = stub.Watch(ask(service="no.Such"), timeout=60)
    assert next(unknown).status == serving.SERVICE_UNKNOWN
    unknown.cancel()
    watches = [stub.Watch(ask(), timeout=60) for _ in range(3)]
    for ready in (True, False, True):
        echo.ready = ready
        expected = serving.SERVING if ready else serving.NOT_SERVING
        assert [next(watch).status for watch in watches] == [expected] * 3
    for watch in watches:
        watch.cancel()


def test_reflection_describes_the_services(channel: grpc.Channel) -> None:
    """A reflection client finds the services and their files."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "inference.GRPCInferenceService" in database.get_services()
    file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
    assert any(service.name == "GRPCInferenceService" for service in file.service)


def _inputs(module) -> tuple[np.ndarray, list]:  # type: ignore[no-untyped-def,type-arg]
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = module.InferInput("x", array.shape, "FP32")
    tensor.set_data_from_numpy(array)
    return array, [tensor]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_client_is_served(echo: EchoServer, compression: str | None) -> None:
    """tritonclient.grpc sends tensors and gets them back."""
    array, inputs = _inputs(tritonclient.grpc)
    with tritonclient.grpc.InferenceServerClient(echo.address) as client:
        result = client.infer("echo", inputs, compression_algorithm=compression)
    np.testing.assert_array_equal(result.as_numpy("x"), array)


async def test_triton_asyncio_client_is_served(echo: EchoServer) -> None:
    """tritonclient.grpc.aio likewise."""
    array, inputs = _inputs(tritonclient.grpc.aio)
    async with tritonclient.grpc.aio.InferenceServerClient(echo.address) as client:
        result = await client.infer("echo", inputs)
    np.testing.assert_array_equal(result.as_numpy("x"), array)


@pytest.mark.tools
@pytest.mark.parametrize(("clients", "streams"), [(1, 1), (1, 100), (32, 10)])
def test_h2load_gets_every_answer(
    echo: EchoServer,
    tmp_path: Path,
    require_tool: Callable[[str], str],
    clients: int,
    streams: int,
) -> None:
    """An independent HTTP/2 client under load sees no error."""
    body = tmp_path / "body"
    body.write_bytes(b"\x00\x00\x00\x10\x00" + b"x" * 4096)
    command = [
        require_tool("h2load"), "-n", "5000", "-c", str(clients), "-m", str(streams),
        "-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers",
        f"http://{echo.address}/test.Echo/Now",
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in output
    traffic = re.search(r"\((\d+)\) data", output.replace(",", ""))
    assert traffic is None or int(traffic[1]) >= 5000 * 205


@pytest.mark.tools
def test_nghttp_sees_status_and_trailers(
    echo: EchoServer, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    """Headers and trailers are well formed for a client that knows nothing of gRPC."""
    body = tmp_path / "body"
    body.write_bytes(b"\x00\x00\x00\x00\x02hi")
    command = [
        require_tool("nghttp"), "-nv", "-d", str(body), "-H", "content-type: application/grpc",
        "-H", "te: trailers", f"http://{echo.address}/test.Echo/Now",
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert ":status: 200" in output
    assert "grpc-status: 0" in output
