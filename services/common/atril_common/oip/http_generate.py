"""The generate extension over HTTP (H12, 2.9): JSON in, JSON or server-sent events out."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import cast

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from atril_common.core import InferenceCore, InferResponse
from atril_common.errors import (
    INTERNAL_ERROR,
    AtrilError,
    CancelledRequestError,
    ErrorKind,
    InvalidInputError,
    UnsupportedError,
)
from atril_common.oip.generate import read_generation, write_generation
from atril_common.oip.http_base import Endpoints, read_object, target
from atril_common.telemetry import Telemetry

logger = logging.getLogger(__name__)

METHOD = "http_generate"
EVENT_STREAM = "text/event-stream; charset=utf-8"


def generate_endpoints(core: InferenceCore, telemetry: Telemetry, max_body_bytes: int) -> Endpoints:
    """The routes, with and without a version."""
    front = _Generate(core, telemetry, max_body_bytes)
    return [
        (f"/v2/models/{{model_name}}{version}/{name}", endpoint, "POST")
        for version in ("", "/versions/{model_version}")
        for name, endpoint in (
            ("generate", front.generate),
            ("generate_stream", front.generate_stream),
        )
    ]


class _Generate:
    """The two endpoints."""

    def __init__(self, core: InferenceCore, telemetry: Telemetry, max_body_bytes: int) -> None:
        self._core = core
        self._telemetry = telemetry
        self._max_body_bytes = max_body_bytes

    async def generate(self, request: Request) -> Response:
        answers = _Answers(request, self._telemetry)
        try:
            await self._ask(request, answers)
            first = await answers.next()
            if first is None or await answers.next() is not None:
                raise UnsupportedError(
                    "generate expects model to produce exactly 1 response, use generate stream for "
                    "model that may generate various number of responses"
                )
        except Exception as err:
            answers.failed(err)
            raise
        finally:
            await answers.close()
        return Response(first, media_type="application/json")

    async def generate_stream(self, request: Request) -> Response:
        answers = _Answers(request, self._telemetry)
        try:
            await self._ask(request, answers)
            first = await answers.next()  # a failure before it has a status of its own
        except BaseException as err:
            answers.failed(err)
            await answers.close()
            raise
        return _EventStream(first, answers)

    async def _ask(self, request: Request, answers: "_Answers") -> None:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise InvalidInputError("Unsupported content-encoding, only 'identity' is supported.")
        model_name, model_version = target(request)
        message = await read_object(request, self._max_body_bytes)
        metadata = await self._core.metadata(model_name, model_version)
        generation = read_generation(metadata, model_version, message)
        responses = self._core.stream(generation.request)
        answers.begin(cast(AsyncGenerator[InferResponse, None], responses), generation.request_id)


class _Answers:
    """The responses to one request, for as long as its caller is there."""

    def __init__(self, request: Request, telemetry: Telemetry) -> None:
        self._request = request
        self._telemetry = telemetry
        self._model_name = request.path_params["model_name"]
        self._started_s = time.monotonic()
        self._kind: ErrorKind | None = None
        self._responses: AsyncGenerator[InferResponse, None] | None = None
        self._leaving: asyncio.Task[Message] | None = None
        self._request_id = ""

    def begin(self, responses: AsyncGenerator[InferResponse, None], request_id: str) -> None:
        """The request is read: from here on, responses come and the caller may leave."""
        self._responses = responses
        self._request_id = request_id
        self._leaving = asyncio.ensure_future(self._request.receive())

    async def next(self) -> bytes | None:
        """The next response as JSON; None at the end, and after a failure.

        Raises:
            CancelledRequestError: the caller went away.
            AtrilError: the request failed.
        """
        assert self._responses is not None
        assert self._leaving is not None
        if self._kind is not None:
            return None
        step = asyncio.ensure_future(anext(self._responses, None))
        try:
            await asyncio.wait((step, self._leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not step.done():
                step.cancel()
                await asyncio.wait((step,))
        if step.cancelled():
            raise CancelledRequestError("the caller went away")
        response = step.result()
        return None if response is None else write_generation(response, self._request_id)

    def failed(self, error: BaseException) -> None:
        """Remember how it ended."""
        self._kind = error.kind if isinstance(error, AtrilError) else ErrorKind.INTERNAL

    async def close(self) -> None:
        """Let go of the model, which cancels what it has not answered."""
        if self._leaving is not None:
            self._leaving.cancel()
        if self._responses is not None:
            await self._responses.aclose()
        duration_s = time.monotonic() - self._started_s
        self._telemetry.observe(METHOD, self._model_name, self._kind, duration_s)


class _EventStream(Response):
    """Server-sent events, one a response; an error after the first is the last event."""

    def __init__(self, first: bytes | None, answers: _Answers) -> None:
        super().__init__(media_type=EVENT_STREAM)
        del self.headers["content-length"]
        self._first = first
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send responses as they come."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            answer = self._first
            while answer is not None:
                await _send(send, answer)
                answer = await self._next()
            await send({"type": "http.response.body", "body": b""})
        finally:
            await self._answers.close()

    async def _next(self) -> bytes | None:
        """The next event; an error is one too, and nothing comes after it."""
        try:
            return await self._answers.next()
        except Exception as err:  # noqa: BLE001  # told as an event
            return self._error(err)

    def _error(self, error: Exception) -> bytes:
        self._answers.failed(error)
        if isinstance(error, AtrilError):
            return orjson.dumps({"error": str(error)})
        logger.error("generate_failed", exc_info=error)
        return orjson.dumps({"error": INTERNAL_ERROR})


async def _send(send: Send, event: bytes) -> None:
    body = b"".join((b"data: ", event, b"\n\n"))
    await send({"type": "http.response.body", "body": body, "more_body": True})
