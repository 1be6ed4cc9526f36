"""A server of echo methods on a thread with its own uvloop, for clients of every kind."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import uvloop
from tritonclient.grpc import service_pb2 as pb

from atril_common.errors import InvalidInputError
from atril_common.h2grpc.health import HealthService
from atril_common.h2grpc.reflection import reflection_method
from atril_common.h2grpc.rpc import RpcContext, StreamMethod, UnaryMethod
from atril_common.h2grpc.server import GrpcServer

ResultT = TypeVar("ResultT")

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIMIT_BYTES = 80 << 20


class EchoServer:
    """The server, and what its handlers have seen; all on the loop of its thread."""

    def __init__(self, **options: Any) -> None:
        self.ready = True
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.release = asyncio.Event()
        self.produced = 0
        self.begun = 0
        self.port = 0
        health = HealthService(self._is_ready, ["test.Echo"], poll_s=0.01)
        self.server = GrpcServer(
            [
                UnaryMethod("/test.Echo/Say", bytes, self._say),
                UnaryMethod("/test.Echo/Now", bytes, self._now),
                UnaryMethod("/test.Echo/Peer", bytes, self._peer),
                UnaryMethod("/test.Echo/Fail", bytes, self._fail),
                UnaryMethod("/test.Echo/Wait", bytes, self._wait),
                StreamMethod("/test.Echo/Count", bytes, self._count),
                StreamMethod("/test.Echo/Chat", bytes, self._chat),
                UnaryMethod(INFER, pb.ModelInferRequest.FromString, self._infer),
                *health.methods(),
                reflection_method(["inference.GRPCInferenceService"]),
            ],
            **{"max_message_bytes": LIMIT_BYTES, **options},
        )

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def on_loop(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run something on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    async def _is_ready(self) -> bool:
        return self.ready

    async def _say(self, message: bytes, context: RpcContext) -> bytes:
        context.initial_metadata = [
            (name, value) for name, value in context.metadata.items() if name.startswith("x-")
        ]
        return message

    def _now(self, message: bytes, context: RpcContext) -> asyncio.Future[bytes]:
        self.begun += 1
        future: asyncio.Future[bytes] = self.loop.create_future()
        self.loop.call_soon(future.set_result, message[:200])
        return future

    async def _peer(self, message: bytes, context: RpcContext) -> bytes:
        return context.peer.encode()

    async def _fail(self, message: bytes, context: RpcContext) -> bytes:
        raise InvalidInputError(message.decode())

    async def _wait(self, message: bytes, context: RpcContext) -> bytes:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return message

    async def _count(self, requests: AsyncIterator[Any], _: RpcContext) -> AsyncIterator[bytes]:
        async for request in requests:
            for number in range(int(request)):
                self.produced += 1
                yield str(number).encode().rjust(10_000)

    async def _chat(self, requests: AsyncIterator[Any], _: RpcContext) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def _infer(self, request: Any, context: RpcContext) -> bytes:
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        for tensor in request.inputs:
            response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.extend(request.raw_input_contents)
        data: bytes = response.SerializeToString()
        return data


@contextmanager
def serve(
    *, run_loop: Callable[[Coroutine[Any, Any, None]], None] = uvloop.run, **options: Any
) -> Iterator[EchoServer]:
    """Run an echo server on a free port."""
    echo = EchoServer(**options)
    listening = threading.Event()

    async def run() -> None:
        echo.loop = asyncio.get_running_loop()
        echo.stopped = asyncio.Event()
        sock = socket.create_server(("127.0.0.1", 0))
        echo.port = sock.getsockname()[1]
        await echo.server.start(sock)
        listening.set()
        await echo.stopped.wait()
        await echo.server.stop(0)

    thread = threading.Thread(target=run_loop, args=(run(),))
    thread.start()
    try:
        assert listening.wait(30)
        yield echo
    finally:
        echo.loop.call_soon_threadsafe(echo.stopped.set)
        thread.join(30)
