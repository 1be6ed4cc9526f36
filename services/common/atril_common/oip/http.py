"""The Open Inference Protocol over HTTP: the routes, for any ASGI app with an `InferenceCore`."""

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atril_common.core import InferenceCore, ModelMetadata
from atril_common.errors import UnsupportedMediaTypeError
from atril_common.lifecycle import Lifecycle
from atril_common.oip.config_json import message_to_json
from atril_common.oip.controls import Controls
from atril_common.oip.http_base import (
    Endpoints,
    answering,
    done_or_left,
    json_response,
    read_body,
    target,
    wire_response,
)
from atril_common.oip.http_codec import HEADER_LENGTH
from atril_common.oip.http_coding import INLINE_BYTES, coding_of, inflated
from atril_common.oip.http_control import control_endpoints
from atril_common.oip.http_generate import generate_endpoints
from atril_common.oip.http_infer import InferHandler, WireResponse
from atril_common.oip.http_shared_memory import shared_memory_endpoints
from atril_common.oip.server import ServerMetadata, is_ready

_MODEL = "/v2/models/{model_name}"
_VERSION = _MODEL + "/versions/{model_version}"


def oip_routes(
    core: InferenceCore, lifecycle: Lifecycle, handler: InferHandler, controls: Controls
) -> list[Route]:
    """The protocol's routes (H01-H18) over a core."""
    front = _HttpFront(core, lifecycle, handler, ServerMetadata.of(controls))
    endpoints: Endpoints = [
        ("/v2/health/live", front.live, "GET"),
        ("/v2/health/ready", front.ready, "GET"),
        ("/v2", front.server_metadata, "GET"),
        ("/v2/", front.server_metadata, "GET"),
        *control_endpoints(core, controls),
        *generate_endpoints(core, handler.telemetry, handler.max_body_bytes),
        *shared_memory_endpoints(controls.memory),
    ]
    for base in (_MODEL, _VERSION):
        endpoints += [
            (base, front.metadata, "GET"),
            (base + "/ready", front.model_ready, "GET"),
            (base + "/config", front.config, "GET"),
            (base + "/infer", front.infer, "POST"),
        ]
    return [Route(path, answering(endpoint), methods=[m]) for path, endpoint, m in endpoints]


def create_oip_app(
    core: InferenceCore, lifecycle: Lifecycle, handler: InferHandler, controls: Controls
) -> Starlette:
    """An app that serves nothing but the protocol."""
    app = Starlette(
        routes=oip_routes(core, lifecycle, handler, controls),
        exception_handlers={HTTPException: http_exception},
    )
    app.router.redirect_slashes = False
    return app


async def http_exception(_: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods, told as the protocol tells errors (H20, H21)."""
    assert isinstance(error, HTTPException)
    return json_response({"error": error.detail}, error.status_code, error.headers)


class _HttpFront:
    """Health, descriptions and inference."""

    def __init__(
        self,
        core: InferenceCore,
        lifecycle: Lifecycle,
        handler: InferHandler,
        server: ServerMetadata,
    ) -> None:
        self._server = server
        self._core = core
        self._lifecycle = lifecycle
        self._handler = handler

    async def live(self, _: Request) -> Response:
        return Response()

    async def ready(self, _: Request) -> Response:
        return Response(status_code=200 if await is_ready(self._core, self._lifecycle) else 503)

    async def server_metadata(self, _: Request) -> Response:
        return json_response(self._server._asdict())

    async def metadata(self, request: Request) -> Response:
        return json_response(_metadata_json(await self._core.metadata(*target(request))))

    async def model_ready(self, request: Request) -> Response:
        if await self._core.model_ready(*target(request)):
            return Response()
        return json_response({"error": "Model version not ready"}, 400)

    async def config(self, request: Request) -> Response:
        return json_response(message_to_json(await self._core.config(*target(request))))

    async def infer(self, request: Request) -> Response:
        model_name, model_version = target(request)
        try:
            coding = coding_of(request.headers.get("content-encoding"))
        except UnsupportedMediaTypeError as err:
            return wire_response(self._handler.unread_coding(model_name, err))
        limit = self._handler.max_body_bytes
        body = await read_body(request, limit)
        if body is not None and coding is not None:
            body = await inflated(body, coding, limit)
        if body is None:
            return wire_response(self._handler.too_large(model_name))
        length = request.headers.get(HEADER_LENGTH.decode())
        begun = self._handler.begin(
            model_name, model_version, body, None if length is None else length.encode("latin-1")
        )
        if isinstance(begun, WireResponse):
            return wire_response(begun)
        await done_or_left(begun.future, request)
        response = self._handler.finish(begun)
        accepted = response.coding_for(request.headers.get("accept-encoding"))
        if accepted is not None:
            encode = response.encoded
            large = len(response.body) > INLINE_BYTES
            response = await asyncio.to_thread(encode, accepted) if large else encode(accepted)
        return wire_response(response)


def _metadata_json(metadata: ModelMetadata) -> dict[str, Any]:
    return metadata._asdict() | {
        "inputs": [spec._asdict() for spec in metadata.inputs],
        "outputs": [spec._asdict() for spec in metadata.outputs],
    }
