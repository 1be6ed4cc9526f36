"""The Open Inference Protocol over HTTP: the routes, for any ASGI app with an `InferenceCore`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from atril_common.core import InferenceCore, ModelMetadata
from atril_common.errors import (
    INTERNAL_ERROR,
    AtrilError,
    InternalError,
    InvalidInputError,
    TooLargeError,
    UnsupportedMediaTypeError,
)
from atril_common.lifecycle import Lifecycle
from atril_common.oip.config_json import message_to_json
from atril_common.oip.http_codec import HEADER_LENGTH
from atril_common.oip.http_coding import INLINE_BYTES, coding_of, inflated
from atril_common.oip.http_infer import InferHandler, WireResponse, error_response
from atril_common.oip.server import ServerMetadata, is_ready
from atril_common.tensors import TensorSpec

Endpoint = Callable[[Request], Awaitable[Response]]

logger = logging.getLogger(__name__)

_MODEL = "/v2/models/{model_name}"
_VERSION = _MODEL + "/versions/{model_version}"
_MAX_CONTROL_BODY_BYTES = 64 * 1024


def oip_routes(core: InferenceCore, lifecycle: Lifecycle, handler: InferHandler) -> list[Route]:
    """The protocol's routes (H01-H10, H13) over a core."""
    front = _HttpFront(core, lifecycle, handler)
    endpoints: list[tuple[str, Endpoint, str]] = [
        ("/v2/health/live", front.live, "GET"),
        ("/v2/health/ready", front.ready, "GET"),
        ("/v2", front.server_metadata, "GET"),
        ("/v2/", front.server_metadata, "GET"),
        ("/v2/repository/index", front.index, "POST"),
        ("/v2/repository/{repository_name}/index", front.index, "POST"),
    ]
    for base in (_MODEL, _VERSION):
        endpoints += [
            (base, front.metadata, "GET"),
            (base + "/ready", front.model_ready, "GET"),
            (base + "/config", front.config, "GET"),
            (base + "/infer", front.infer, "POST"),
        ]
    return [Route(path, _answering(endpoint), methods=[m]) for path, endpoint, m in endpoints]


def create_oip_app(core: InferenceCore, lifecycle: Lifecycle, handler: InferHandler) -> Starlette:
    """An app that serves nothing but the protocol."""
    app = Starlette(
        routes=oip_routes(core, lifecycle, handler),
        exception_handlers={HTTPException: http_exception},
    )
    app.router.redirect_slashes = False
    return app


async def http_exception(_: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods, told as the protocol tells errors (H20, H21)."""
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code, error.headers)


def _answering(endpoint: Endpoint) -> Endpoint:
    """Answer every error as the protocol tells errors; one that nobody foresaw is logged."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AtrilError as err:
            return _response(error_response(err))
        except HTTPException:
            raise
        except Exception:
            logger.exception("request_failed", extra={"path": request.url.path})
            return _response(error_response(InternalError(INTERNAL_ERROR)))

    return answer


class _HttpFront:
    """The endpoints."""

    def __init__(self, core: InferenceCore, lifecycle: Lifecycle, handler: InferHandler) -> None:
        self._core = core
        self._lifecycle = lifecycle
        self._handler = handler

    async def live(self, _: Request) -> Response:
        return Response()

    async def ready(self, _: Request) -> Response:
        return Response(status_code=200 if await is_ready(self._core, self._lifecycle) else 503)

    async def server_metadata(self, _: Request) -> Response:
        return _json(ServerMetadata()._asdict())

    async def metadata(self, request: Request) -> Response:
        return _json(_metadata_json(await self._core.metadata(*_target(request))))

    async def model_ready(self, request: Request) -> Response:
        if await self._core.model_ready(*_target(request)):
            return Response()
        return _json({"error": "Model version not ready"}, 400)

    async def config(self, request: Request) -> Response:
        return _json(message_to_json(await self._core.config(*_target(request))))

    async def index(self, request: Request) -> Response:
        body = await _read(request, _MAX_CONTROL_BODY_BYTES)
        if body is None:
            raise TooLargeError(
                f"request body is larger than the limit of {_MAX_CONTROL_BODY_BYTES} bytes"
            )
        ready_only = _ready_filter(body)
        entries = await self._core.index(ready_only=ready_only)
        return _json([{k: v for k, v in e._asdict().items() if v} for e in entries])

    async def infer(self, request: Request) -> Response:
        model_name, model_version = _target(request)
        try:
            coding = coding_of(request.headers.get("content-encoding"))
        except UnsupportedMediaTypeError as err:
            return _response(self._handler.unread_coding(model_name, err))
        limit = self._handler.max_body_bytes
        body = await _read(request, limit)
        if body is not None and coding is not None:
            body = await inflated(body, coding, limit)
        if body is None:
            return _response(self._handler.too_large(model_name))
        length = request.headers.get(HEADER_LENGTH.decode())
        begun = self._handler.begin(
            model_name, model_version, body, None if length is None else length.encode("latin-1")
        )
        if isinstance(begun, WireResponse):
            return _response(begun)
        await _done_or_left(begun.future, request)
        response = self._handler.finish(begun)
        accepted = response.coding_for(request.headers.get("accept-encoding"))
        if accepted is not None:
            encode = response.encoded
            large = len(response.body) > INLINE_BYTES
            response = await asyncio.to_thread(encode, accepted) if large else encode(accepted)
        return _response(response)


async def _done_or_left(future: asyncio.Future[Any], request: Request) -> None:
    """Wait for the answer; a caller who goes away cancels it."""
    leaving = asyncio.ensure_future(request.receive())  # after the body: http.disconnect
    try:
        await asyncio.wait((future, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        future.cancel()  # does nothing to a future that is done
        leaving.cancel()


def _target(request: Request) -> tuple[str, str]:
    """Model and version of the path; a version that is not digits is no route (H05)."""
    version = request.path_params.get("model_version", "")
    if version and not (version.isascii() and version.isdigit()):
        raise HTTPException(404)
    return request.path_params["model_name"], version


async def _read(request: Request, limit: int) -> bytes | None:
    """The request's body, or None if it is larger than the limit.

    Raises:
        InvalidInputError: the client went away before the end.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                return None
            chunks.append(chunk)
    except ClientDisconnect:
        raise InvalidInputError("the request ended before its body was complete") from None
    return b"".join(chunks)


def _ready_filter(body: bytes) -> bool:
    if not body.strip():
        return False
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as err:
        raise InvalidInputError(f"Unable to parse the request body as JSON: {err}") from None
    ready = message.get("ready", False) if isinstance(message, dict) else None
    if not isinstance(ready, bool):
        raise InvalidInputError("Unable to parse 'ready': expected {\"ready\": true or false}")
    return ready


def _metadata_json(metadata: ModelMetadata) -> dict[str, Any]:
    return metadata._asdict() | {
        "inputs": [_spec_json(spec) for spec in metadata.inputs],
        "outputs": [_spec_json(spec) for spec in metadata.outputs],
    }


def _spec_json(spec: TensorSpec) -> dict[str, Any]:
    return spec._asdict()


def _json(content: object, status: int = 200, headers: Any = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def _response(wire: WireResponse) -> Response:
    response = Response(wire.body, wire.status)
    response.raw_headers = wire.headers()
    return response
