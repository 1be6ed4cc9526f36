"""ModelStreamInfer: any number of requests on one stream (protocol reference 2.8).

Requests of a stream run at the same time, up to a limit. Models with one response a request are
answered in the order of the requests; the responses of decoupled models are sent as they come.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, cast

from tritonclient.grpc import service_pb2 as pb

from atril_common.core import InferenceCore, InferRequest, InferResponse
from atril_common.errors import AtrilError, ErrorKind
from atril_common.h2grpc.messages import RpcStatusError
from atril_common.h2grpc.rpc import RpcContext, status_of
from atril_common.oip.controls import Controls
from atril_common.oip.grpc_codec import AnswerTarget, decode_request, encode_response
from atril_common.oip.parameters import EMPTY_FINAL_RESPONSE, FINAL_RESPONSE
from atril_common.telemetry import Telemetry

METHOD = "grpc_stream_infer"

MAX_IN_FLIGHT = 64
"""Requests of one stream under way at once; the next waits, and the client's window with it."""

_MAX_UNSENT = 16
_TRUE_STATUS = "triton_grpc_error"
"""Metadata with which a stream ends at the first error, with its status."""


class StreamInfer:
    """The RPC, over a core."""

    def __init__(self, core: InferenceCore, telemetry: Telemetry, controls: Controls) -> None:
        self._core = core
        self._telemetry = telemetry
        self._controls = controls

    async def handle(
        self, requests: AsyncIterator[Any], context: RpcContext
    ) -> AsyncIterator[bytes]:
        """Answer a stream; ending the iteration cancels what has not been answered."""
        stream = _Stream(self._core, self._telemetry, self._controls, context)
        reading = asyncio.create_task(stream.read(requests))
        try:
            while (message := await stream.unsent.get()) is not None:
                if isinstance(message, RpcStatusError):
                    raise message
                yield message
        finally:
            await stream.cancel(reading)


class _Stream:
    """One stream: what is under way, and what waits to be sent."""

    def __init__(
        self,
        core: InferenceCore,
        telemetry: Telemetry,
        controls: Controls,
        context: RpcContext,
    ) -> None:
        self._core = core
        self._telemetry = telemetry
        self._tracer = controls.tracer
        self._memory = controls.memory
        self._deadline_s = context.deadline_s
        self._true_status = context.metadata.get(_TRUE_STATUS) == "true"
        self._places = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._last: asyncio.Task[None] | None = None
        self.unsent: asyncio.Queue[bytes | RpcStatusError | None] = asyncio.Queue(_MAX_UNSENT)
        """Messages for the client; an error ends the stream with its status, None without one."""

    async def read(self, requests: AsyncIterator[Any]) -> None:
        """Start every request in its turn; ends when all are answered."""
        end = None
        try:
            async for message in requests:
                await self._places.acquire()
                await self._start(message)
        except Exception as err:  # noqa: BLE001  # answered, and logged if nobody foresaw it
            end = status_of(err, METHOD)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.unsent.put(end)

    async def cancel(self, reading: asyncio.Task[None]) -> None:
        """Drop what has not been answered."""
        tasks = {reading, *self._tasks}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _start(self, message: Any) -> None:
        started_s = time.monotonic()
        asked: InferRequest | Exception
        decoupled = False
        try:
            asked = decode_request(message, self._memory)._replace(deadline_s=self._deadline_s)
            config = await self._core.config(asked.model_name, asked.model_version)
            decoupled = config.model_transaction_policy.decoupled
        except Exception as err:  # noqa: BLE001  # told when it is this request's turn
            asked = err
        if decoupled and isinstance(asked, InferRequest):
            self._run(self._answer_many(message, asked, started_s))
        else:
            self._last = self._run(self._answer_one(message, asked, self._last, started_s))

    def _run(self, answer: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(answer)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._places.release()

    async def _answer_one(
        self,
        message: Any,
        asked: InferRequest | Exception,
        before: asyncio.Task[None] | None,
        started_s: float,
    ) -> None:
        """Run a request at once; send its answer after that of the request before."""
        answer: bytes | Exception
        try:
            if isinstance(asked, Exception):
                raise asked
            target = AnswerTarget.of(message, asked.options, self._memory)
            answer = _answer(await self._infer(asked, message.id, started_s), target, final=True)
        except BaseException as err:
            self._observe(message, err, started_s)
            if not isinstance(err, Exception):
                raise
            answer = err
        else:
            self._observe(message, None, started_s)
        if before is not None:
            await asyncio.wait((before,))
        await self._send(message, answer)

    async def _answer_many(self, message: Any, request: InferRequest, started_s: float) -> None:
        """Send the responses of a decoupled model as they come."""
        responses = cast(AsyncGenerator[InferResponse, None], self._core.stream(request))
        end: bytes | Exception | None
        try:
            target = AnswerTarget.of(message, request.options, self._memory)
            async with aclosing(responses):
                async for response in responses:
                    await self._send(message, _answer(response, target, final=False))
            end = _empty_final(message)
        except BaseException as err:
            self._observe(message, err, started_s)
            if not isinstance(err, Exception):
                raise
            end = err
        else:
            self._observe(message, None, started_s)
        if end is not None:
            await self._send(message, end)

    def _infer(
        self, request: InferRequest, request_id: str, started_s: float
    ) -> asyncio.Future[InferResponse]:
        if not self._tracer.on:
            return self._core.infer(request)
        received = ("GRPC_WAITREAD_END", int(started_s * 1e9))
        return self._tracer.infer(self._core, request, request_id, received)

    async def _send(self, message: Any, answer: bytes | Exception) -> None:
        if isinstance(answer, bytes):
            await self.unsent.put(answer)
            return
        status = status_of(answer, METHOD)
        if self._true_status:
            await self.unsent.put(status)
            return
        error = pb.ModelStreamInferResponse(
            error_message=status.details, infer_response=pb.ModelInferResponse(id=message.id)
        )
        await self.unsent.put(error.SerializeToString())

    def _observe(self, message: Any, error: BaseException | None, started_s: float) -> None:
        kind = None
        if isinstance(error, asyncio.CancelledError):
            kind = ErrorKind.CANCELLED
        elif error is not None:
            kind = error.kind if isinstance(error, AtrilError) else ErrorKind.INTERNAL
        elapsed_s = time.monotonic() - started_s
        self._telemetry.observe(METHOD, message.model_name, kind, elapsed_s)


def _answer(response: InferResponse, target: AnswerTarget, *, final: bool) -> bytes:
    answer = encode_response(response, target)
    answer.parameters[FINAL_RESPONSE].bool_param = final
    data: bytes = pb.ModelStreamInferResponse(infer_response=answer).SerializeToString()
    return data


def _empty_final(message: Any) -> bytes | None:
    """What says that a decoupled model has answered a request to its end, if it was asked for."""
    if not message.parameters or not message.parameters[EMPTY_FINAL_RESPONSE].bool_param:
        return None
    answer = pb.ModelInferResponse(
        model_name=message.model_name, model_version=message.model_version, id=message.id
    )
    answer.parameters[FINAL_RESPONSE].bool_param = True
    data: bytes = pb.ModelStreamInferResponse(infer_response=answer).SerializeToString()
    return data
