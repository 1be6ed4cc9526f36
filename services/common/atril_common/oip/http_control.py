"""The control plane over HTTP: statistics, repository, logging, trace (H11, H13, H14, H17, H18)."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from atril_common.core import InferenceCore
from atril_common.errors import InvalidInputError, OverloadedError, TooLargeError, UnsupportedError
from atril_common.oip.config_json import message_to_json
from atril_common.oip.controls import Controls
from atril_common.oip.http_base import (
    Endpoints,
    json_response,
    parse_object,
    read_body,
    read_object,
    target,
)
from atril_common.oip.load_parameters import load_options_from_json, parameters_of
from atril_common.oip.tracing import require_model

_MAX_LOADS_READ = 4
"""Load requests whose bodies are read at once; each may hold a whole model in memory."""


def control_endpoints(core: InferenceCore, controls: Controls) -> Endpoints:
    """The routes; `/v2/models/stats` goes before the model of that name."""
    repository = _Repository(core, controls.max_load_bytes)
    settings = _Settings(core, controls)
    statistics = _Statistics(core)
    endpoints: Endpoints = [
        ("/v2/models/stats", statistics.of_all, "GET"),
        ("/v2/models/{model_name}/stats", statistics.of_model, "GET"),
        ("/v2/models/{model_name}/versions/{model_version}/stats", statistics.of_model, "GET"),
        ("/v2/repository/index", repository.index, "POST"),
        ("/v2/repository/{repository_name}/index", repository.index, "POST"),
        ("/v2/repository/models/{model_name}/load", repository.load, "POST"),
        ("/v2/repository/models/{model_name}/unload", repository.unload, "POST"),
        ("/v2/logging", settings.logging, "GET"),
        ("/v2/logging", settings.change_logging, "POST"),
    ]
    for change in ("load", "unload"):
        path = "/v2/repository/{repository_name}/models/{model_name}/" + change
        endpoints.append((path, repository.named, "POST"))
    for path in ("/v2/trace/setting", "/v2/models/{model_name}/trace/setting"):
        endpoints += [(path, settings.trace, "GET"), (path, settings.change_trace, "POST")]
    return endpoints


class _Statistics:
    """H11."""

    def __init__(self, core: InferenceCore) -> None:
        self._core = core

    async def of_all(self, _: Request) -> Response:
        return await self._answer("", "")

    async def of_model(self, request: Request) -> Response:
        return await self._answer(*target(request))

    async def _answer(self, model_name: str, model_version: str) -> Response:
        models = await self._core.statistics(model_name, model_version)
        return json_response({"model_stats": [message_to_json(m, absent=True) for m in models]})


class _Repository:
    """H13, H14, 2.6."""

    def __init__(self, core: InferenceCore, max_load_bytes: int) -> None:
        self._core = core
        self._max_load_bytes = max_load_bytes
        self._loads_read = 0

    async def index(self, request: Request) -> Response:
        ready_only = (await read_object(request)).get("ready", False)
        if not isinstance(ready_only, bool):
            raise InvalidInputError("Unable to parse 'ready': expected {\"ready\": true or false}")
        entries = await self._core.index(ready_only=ready_only)
        return json_response([{k: v for k, v in e._asdict().items() if v} for e in entries])

    async def load(self, request: Request) -> Response:
        if self._loads_read >= _MAX_LOADS_READ:
            raise OverloadedError(
                f"{_MAX_LOADS_READ} load requests are being read, which is the limit"
            )
        self._loads_read += 1
        try:
            body = await read_body(request, self._max_load_bytes)
            if body is None:
                raise TooLargeError(
                    f"load request is larger than the limit of {self._max_load_bytes} bytes "
                    "(setting MAX_LOAD_BYTES), got more"
                )
            options = await asyncio.to_thread(lambda: load_options_from_json(parse_object(body)))
        finally:
            self._loads_read -= 1
        await self._core.load(request.path_params["model_name"], options)
        return Response()

    async def unload(self, request: Request) -> Response:
        dependents = parameters_of(await read_object(request)).get("unload_dependents", False)
        if not isinstance(dependents, bool):
            raise InvalidInputError(
                "Unable to parse 'unload_dependents': expected true or false, got "
                f"{str(dependents)[:40]}"
            )
        await self._core.unload(request.path_params["model_name"], unload_dependents=dependents)
        return Response()

    async def named(self, _: Request) -> Response:
        raise UnsupportedError("'repository_name' specification is not supported")


class _Settings:
    """H17, H18, 2.11."""

    def __init__(self, core: InferenceCore, controls: Controls) -> None:
        self._core = core
        self._log = controls.log
        self._tracer = controls.tracer

    async def logging(self, _: Request) -> Response:
        return json_response(self._log.get())

    async def change_logging(self, request: Request) -> Response:
        self._log.update(await read_object(request))
        return json_response(self._log.get())

    async def trace(self, request: Request) -> Response:
        return json_response(self._tracer.get(await self._model(request)))

    async def change_trace(self, request: Request) -> Response:
        model_name = await self._model(request)
        self._tracer.update(model_name, await read_object(request))
        return json_response(self._tracer.get(model_name))

    async def _model(self, request: Request) -> str:
        model_name: Any = request.path_params.get("model_name", "")
        await require_model(self._core, model_name)
        return str(model_name)
