"""What the protocol's HTTP endpoints share: bodies in, answers and errors out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from atril_common.errors import (
    INTERNAL_ERROR,
    AtrilError,
    InternalError,
    InvalidInputError,
    TooLargeError,
    sample,
)
from atril_common.oip.http_infer import WireResponse, error_response

Endpoint = Callable[[Request], Awaitable[Response]]

Endpoints = list[tuple[str, Endpoint, str]]
"""Path, endpoint, method."""

logger = logging.getLogger(__name__)

MAX_CONTROL_BODY_BYTES = 64 * 1024
"""Largest body of a request that carries settings only."""


def answering(endpoint: Endpoint) -> Endpoint:
    """Answer every error as the protocol tells errors; one that nobody foresaw is logged."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AtrilError as err:
            return wire_response(error_response(err))
        except HTTPException:
            raise
        except Exception:
            logger.exception("request_failed", extra={"path": request.url.path})
            return wire_response(error_response(InternalError(INTERNAL_ERROR)))

    return answer


def target(request: Request) -> tuple[str, str]:
    """Model and version of the path; a version that is not digits is no route (H05)."""
    version = request.path_params.get("model_version", "")
    if version and not (version.isascii() and version.isdigit()):
        raise HTTPException(404)
    return request.path_params["model_name"], version


async def read_body(request: Request, limit: int) -> bytes | None:
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


async def read_object(request: Request, limit: int = MAX_CONTROL_BODY_BYTES) -> dict[str, Any]:
    """The JSON object in the request's body; an empty body is an empty object.

    Raises:
        InvalidInputError: the body is something else, or the client went away.
        TooLargeError: the body is larger than the limit.
    """
    body = await read_body(request, limit)
    if body is None:
        raise TooLargeError(f"request body is larger than the limit of {limit} bytes")
    return parse_object(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """A body's JSON object; an empty body is an empty object.

    Raises:
        InvalidInputError: it is something else.
    """
    if not body.strip():
        return {}
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as err:
        raise InvalidInputError(f"Unable to parse the request body as JSON: {err}") from None
    if not isinstance(message, dict):
        raise InvalidInputError(
            f"Unable to parse the request body: expected a JSON object, got {sample(message)}"
        )
    return message


async def done_or_left(future: asyncio.Future[Any], request: Request) -> None:
    """Wait for the answer; a caller who goes away cancels it."""
    leaving = asyncio.ensure_future(request.receive())  # after the body: http.disconnect
    try:
        await asyncio.wait((future, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        future.cancel()  # does nothing to a future that is done
        leaving.cancel()


def json_response(content: object, status: int = 200, headers: Any = None) -> Response:
    """JSON as an answer."""
    return Response(orjson.dumps(content), status, headers, "application/json")


def wire_response(wire: WireResponse) -> Response:
    """What the inference handler answered, for an ASGI app."""
    response = Response(wire.body, wire.status)
    response.raw_headers = wire.headers()
    return response
