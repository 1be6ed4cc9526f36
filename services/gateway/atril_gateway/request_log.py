"""The middleware that tells every `/v1` request once, to the log and to the metrics."""

import asyncio
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atril_common.errors import ErrorKind
from atril_common.telemetry import Telemetry
from atril_gateway.http_errors import error_response
from atril_gateway.record import INTERNAL_ERROR, REQUEST_ID, RequestRecord, request_id_from

logger = logging.getLogger(__name__)

PREFIX = "/v1/"


class RequestLog:
    """Gives a request its id and its record, and answers what nothing else answered.

    Requests outside `/v1` pass untouched; their front tells them itself.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        record = RequestRecord("http", request_id_from(Headers(scope=scope).get(REQUEST_ID, "")))
        scope.setdefault("state", {})["record"] = record
        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message)[REQUEST_ID] = record.request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            record.kind = ErrorKind.CANCELLED
            raise
        except Exception:
            record.kind = ErrorKind.INTERNAL
            logger.exception("request_failed", extra={"request_id": record.request_id})
            if begun:
                raise
            answer = error_response(ErrorKind.INTERNAL, INTERNAL_ERROR)
            await answer(scope, receive, send_with_id)
        finally:
            _describe(record, scope)
            record.finish(self._telemetry)


def _describe(record: RequestRecord, scope: Scope) -> None:
    """Fill in what the route says, where the endpoint did not come to it."""
    route = scope.get("route")
    record.method = getattr(route, "name", record.method)
    path_params = scope.get("path_params") or {}
    record.model_name = path_params.get("model_name", "")
    record.model_version = record.model_version or path_params.get("version", "")
