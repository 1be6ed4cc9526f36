"""The control plane over gRPC: statistics, repository, logging, trace (2.6, 2.8, 2.11)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from atril_common.core import InferenceCore
from atril_common.errors import InvalidInputError, UnsupportedError
from atril_common.h2grpc.rpc import Method, RpcContext, UnaryMethod
from atril_common.oip.controls import Controls
from atril_common.oip.load_parameters import load_options
from atril_common.oip.tracing import require_model

SERVICE = "inference.GRPCInferenceService"


def control_methods(core: InferenceCore, controls: Controls) -> tuple[Method, ...]:
    """The methods."""
    repository = _Repository(core)
    settings = _Settings(core, controls)
    handlers: dict[str, tuple[Any, Callable[[Any, RpcContext], Awaitable[bytes]]]] = {
        "ModelStatistics": (pb.ModelStatisticsRequest, repository.statistics),
        "RepositoryIndex": (pb.RepositoryIndexRequest, repository.index),
        "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, repository.unload),
        "TraceSetting": (pb.TraceSettingRequest, settings.trace),
        "LogSettings": (pb.LogSettingsRequest, settings.logging),
    }
    small = tuple(
        UnaryMethod(f"/{SERVICE}/{name}", request.FromString, handle)
        for name, (request, handle) in handlers.items()
    )
    load = UnaryMethod(
        f"/{SERVICE}/RepositoryModelLoad",
        pb.RepositoryModelLoadRequest.FromString,
        repository.load,
        controls.max_load_bytes,
    )
    return (*small, load)


def to_bytes(message: Any) -> bytes:
    """A message on the wire."""
    data: bytes = message.SerializeToString()
    return data


class _Repository:
    """Statistics, index, load and unload."""

    def __init__(self, core: InferenceCore) -> None:
        self._core = core

    async def statistics(self, request: Any, _context: RpcContext) -> bytes:
        models = await self._core.statistics(request.name, request.version)
        return to_bytes(pb.ModelStatisticsResponse(model_stats=models))

    async def index(self, request: Any, _context: RpcContext) -> bytes:
        entries = await self._core.index(ready_only=request.ready)
        model = pb.RepositoryIndexResponse.ModelIndex
        return to_bytes(
            pb.RepositoryIndexResponse(models=[model(**entry._asdict()) for entry in entries])
        )

    async def load(self, request: Any, _context: RpcContext) -> bytes:
        _require_no_repository(request)
        options = load_options(_load_parameters(request.parameters))
        # A caller who goes away does not leave a model half loaded.
        await asyncio.shield(self._core.load(request.model_name, options))
        return to_bytes(pb.RepositoryModelLoadResponse())

    async def unload(self, request: Any, _context: RpcContext) -> bytes:
        _require_no_repository(request)
        dependents = False
        for name, value in request.parameters.items():
            if name != "unload_dependents" or value.WhichOneof("parameter_choice") != "bool_param":
                raise InvalidInputError(
                    f"unrecognized unload parameter '{name}': expected 'unload_dependents' as "
                    "bool_param"
                )
            dependents = value.bool_param
        unload = self._core.unload(request.model_name, unload_dependents=dependents)
        await asyncio.shield(unload)
        return to_bytes(pb.RepositoryModelUnloadResponse())


class _Settings:
    """Trace and log settings; a request without settings asks for those in force."""

    def __init__(self, core: InferenceCore, controls: Controls) -> None:
        self._core = core
        self._log = controls.log
        self._tracer = controls.tracer

    async def trace(self, request: Any, _context: RpcContext) -> bytes:
        await require_model(self._core, request.model_name)
        changes = {name: _trace_value(name, s.value) for name, s in request.settings.items()}
        if changes:
            self._tracer.update(request.model_name, changes)
        response = pb.TraceSettingResponse()
        for name, value in self._tracer.get(request.model_name).items():
            response.settings[name].value.extend(value if isinstance(value, list) else [value])
        return to_bytes(response)

    async def logging(self, request: Any, _context: RpcContext) -> bytes:
        changes = {
            name: getattr(setting, str(setting.WhichOneof("parameter_choice")), None)
            for name, setting in request.settings.items()
        }
        if changes:
            self._log.update(changes)
        response = pb.LogSettingsResponse()
        for name, value in self._log.get().items():
            if isinstance(value, bool):
                response.settings[name].bool_param = value
            elif isinstance(value, int):
                response.settings[name].uint32_param = value
            else:
                response.settings[name].string_param = value
        return to_bytes(response)


def _require_no_repository(request: Any) -> None:
    if request.repository_name:
        raise UnsupportedError("'repository_name' specification is not supported")


def _load_parameters(parameters: Any) -> Iterator[tuple[str, str | bytes]]:
    for name, value in parameters.items():
        wanted = "bytes_param" if name.startswith("file:") else "string_param"
        if value.WhichOneof("parameter_choice") != wanted:
            raise InvalidInputError(
                f"invalid value type for load parameter '{name}', expected {wanted}."
            )
        yield name, getattr(value, wanted)


def _trace_value(name: str, values: Any) -> str | list[str] | None:
    """One string, or for `trace_level` all of them; none clears the setting."""
    if not values:
        return None
    if name == "trace_level":
        return list(values)
    if len(values) > 1:
        raise InvalidInputError(f"expect only 1 value for '{name}', got {len(values)}")
    return str(values[0])
