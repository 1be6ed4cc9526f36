"""The inference route over HTTP, without a framework: body in, body out."""

import asyncio
import logging
import time
from typing import NamedTuple

import orjson

from atril_common.core import InferenceCore, InferRequest, InferResponse
from atril_common.errors import (
    INTERNAL_ERROR,
    AtrilError,
    CancelledRequestError,
    InternalError,
    InvalidInputError,
    TooLargeError,
    UnsupportedMediaTypeError,
)
from atril_common.oip.controls import Controls
from atril_common.oip.http_codec import decode_request, encode_response
from atril_common.oip.http_coding import CODINGS, deflated, wanted_coding
from atril_common.oip.http_header import RequestHeader
from atril_common.oip.raw_request import RAW_HEADER, raw_request
from atril_common.status import RETRY_AFTER_S, STATUS
from atril_common.telemetry import Telemetry

logger = logging.getLogger(__name__)

METHOD = "http_infer"


class WireResponse(NamedTuple):
    """An answer to be written; `header_length` is set when binary tensors follow the JSON.

    `extra` are headers that few answers have.
    """

    status: int
    body: bytes
    header_length: int | None = None
    retry_after_s: int | None = None
    extra: tuple[tuple[bytes, bytes], ...] = ()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The answer's HTTP headers."""
        binary = self.header_length is not None
        headers = [
            (b"content-type", b"application/octet-stream" if binary else b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
        ]
        if self.header_length is not None:
            headers.append((b"inference-header-content-length", b"%d" % self.header_length))
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        headers.extend(self.extra)
        return headers

    def coding_for(self, accept_encoding: str | None) -> str | None:
        """The content coding in which this answer should go; None for none."""
        if accept_encoding is None or self.status != 200:
            return None
        return wanted_coding(accept_encoding, len(self.body))

    def encoded(self, coding: str) -> "WireResponse":
        """The same answer in a content coding; `header_length` stays that of the plain JSON."""
        extra = (*self.extra, (b"content-encoding", coding.encode()))
        return self._replace(body=deflated(self.body, coding), extra=extra)


class Accepted(NamedTuple):
    """A request that waits for its answer."""

    future: asyncio.Future[InferResponse]
    header: RequestHeader
    model_name: str
    started_s: float


class InferHandler:
    """Decodes, submits and encodes inference requests for the ASGI route and the fast protocol."""

    def __init__(
        self,
        core: InferenceCore,
        telemetry: Telemetry,
        max_body_bytes: int,
        controls: Controls,
    ) -> None:
        self._core = core
        self.telemetry = telemetry
        self._tracer = controls.tracer
        self._memory = controls.memory
        self.max_body_bytes = max_body_bytes

    def begin(
        self, model_name: str, model_version: str, body: bytes, header_length: bytes | None
    ) -> Accepted | WireResponse:
        """Submit a request; an error in it is answered at once."""
        started_s = time.monotonic()
        try:
            length = None if header_length is None else _header_length(header_length)
            if length == 0:
                raw = self._infer_raw(model_name, model_version, body, started_s)
                return Accepted(asyncio.ensure_future(raw), RAW_HEADER, model_name, started_s)
            request, header = decode_request(model_name, model_version, body, length, self._memory)
            if self._tracer.on:
                future = self._traced(request, header.request_id, started_s)
            else:
                future = self._core.infer(request)
            return Accepted(future, header, model_name, started_s)
        except Exception as err:  # noqa: BLE001  # answered and logged in _failure
            return self._failure(err, model_name, started_s)

    def finish(self, accepted: Accepted) -> WireResponse:
        """Encode the answer of a request whose future is done."""
        future, header, model_name, started_s = accepted
        if future.cancelled():
            return self._failure(CancelledRequestError("cancelled"), model_name, started_s)
        try:
            body, header_length = encode_response(future.result(), header, self._memory)
        except Exception as err:  # noqa: BLE001  # answered and logged in _failure
            return self._failure(err, model_name, started_s)
        self.telemetry.observe(METHOD, model_name, None, time.monotonic() - started_s)
        return WireResponse(200, body, header_length)

    def unread_coding(self, model_name: str, error: UnsupportedMediaTypeError) -> WireResponse:
        """The answer to a body in a content coding that is not read (case E22)."""
        answer = self._failure(error, model_name, time.monotonic())
        return answer._replace(extra=((b"accept-encoding", CODINGS.encode()),))

    def too_large(self, model_name: str) -> WireResponse:
        """The answer to a body over the limit (case E20)."""
        error = TooLargeError(
            f"request body is larger than the limit of {self.max_body_bytes} bytes "
            f"(setting MAX_BODY_BYTES), got more"
        )
        return self._failure(error, model_name, time.monotonic())

    async def _infer_raw(
        self, model_name: str, model_version: str, body: bytes, started_s: float
    ) -> InferResponse:
        request = await raw_request(self._core, model_name, model_version, body)
        if self._tracer.on:
            return await self._traced(request, "", started_s)
        return await self._core.infer(request)

    def _traced(
        self, request: InferRequest, request_id: str, started_s: float
    ) -> asyncio.Future[InferResponse]:
        received = ("HTTP_RECV_END", int(started_s * 1e9))
        return self._tracer.infer(self._core, request, request_id, received)

    def _failure(self, error: Exception, model_name: str, started_s: float) -> WireResponse:
        if not isinstance(error, AtrilError):
            logger.error("infer_failed", exc_info=error, extra={"model_name": model_name})
            error = InternalError(INTERNAL_ERROR)
        self.telemetry.observe(METHOD, model_name, error.kind, time.monotonic() - started_s)
        return error_response(error)


def error_response(error: AtrilError) -> WireResponse:
    """An error as the protocol tells it: `{"error": text}` with the kind's status."""
    status = STATUS[error.kind]
    return WireResponse(
        status.oip,
        orjson.dumps({"error": str(error)}),
        retry_after_s=RETRY_AFTER_S if status.retry else None,
    )


def _header_length(value: bytes) -> int:
    digits = value.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 40:
        raise InvalidInputError(
            f"Inference-Header-Content-Length must be a non-negative integer, got '{value[:40]!r}'"
        )
    return int(value)
