"""Errors of the `/v1` routes: `{"error": text}` with the status of the error's kind."""

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from atril_common.errors import AtrilError, ErrorKind
from atril_common.status import RETRY_AFTER_S, STATUS
from atril_gateway.record import RequestRecord

_MAX_QUOTED = 100
_KINDS = {404: ErrorKind.NOT_FOUND, 413: ErrorKind.TOO_LARGE}


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of an app in this form, its 404 and 405 included."""
    app.add_exception_handler(AtrilError, _atril_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)


def error_response(kind: ErrorKind, text: str) -> Response:
    """The answer for one kind of error."""
    status = STATUS[kind]
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status.retry else None
    return Response(orjson.dumps({"error": text}), status.task, headers, "application/json")


async def _atril_error(request: Request, err: Exception) -> Response:
    assert isinstance(err, AtrilError)
    _note(request, err.kind)
    return error_response(err.kind, str(err))


async def _validation_error(request: Request, err: Exception) -> Response:
    assert isinstance(err, RequestValidationError)
    _note(request, ErrorKind.INVALID_INPUT)
    problems = "; ".join(
        f"{' '.join(map(str, e['loc']))} is {str(e['input'])[:_MAX_QUOTED]!r}: {e['msg']}"
        for e in err.errors()
    )
    return error_response(ErrorKind.INVALID_INPUT, problems)


async def _http_exception(request: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException)
    default = ErrorKind.INVALID_INPUT if err.status_code < 500 else ErrorKind.INTERNAL
    _note(request, _KINDS.get(err.status_code, default))
    body = orjson.dumps({"error": err.detail})
    return Response(body, err.status_code, err.headers, "application/json")


def _note(request: Request, kind: ErrorKind) -> None:
    record = getattr(request.state, "record", None)
    if isinstance(record, RequestRecord):
        record.kind = kind
