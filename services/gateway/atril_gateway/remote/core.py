"""`InferenceCore` over replicas."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import (
    NO_LOAD_OPTIONS,
    InferRequest,
    InferResponse,
    LoadOptions,
    ModelIndexEntry,
    ModelMetadata,
)
from atril_common.oip.grpc_codec import encode_request
from atril_gateway.remote.everywhere import gather, on_all
from atril_gateway.remote.index import merge_indexes
from atril_gateway.remote.replica import Replica
from atril_gateway.remote.replicas import ReplicaSet
from atril_gateway.remote.routes import Route, Routes, read_response
from atril_gateway.remote.sequences import Sequences
from atril_gateway.remote.statistics import sum_statistics

LOAD_TIMEOUT_S = 600.0
"""Longest time for a model to load and warm up on every replica, or to be unloaded."""

_DEFAULT_IDLE_US = 1_000_000
"""Triton's own `max_sequence_idle_microseconds`."""


class RemoteCore:
    """Answers for models that replicas hold.

    Unary requests without state are coalesced, go to the least busy replica, and once more to
    another one if the first is lost or refuses. The requests of a sequence go alone, to the replica
    that holds its state. Streams go alone, to one replica.

    Args:
        targets: gRPC addresses, see `parse_targets`.
        timeout_s: longest time for a request, from its acceptance to its answer.
        max_queue_size: most requests that wait for one model whose configuration sets no limit.
    """

    def __init__(self, targets: tuple[str, ...], timeout_s: float, max_queue_size: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._replicas = ReplicaSet(targets, self._replicas_changed)
        self._routes = Routes(self._replicas, timeout_s, max_queue_size)
        self._timeout_s = timeout_s
        self._sequences = Sequences(self._replicas)

    async def start(self) -> None:
        """Find the replicas; they need not be ready yet."""
        await self._replicas.start()

    async def close(self) -> None:
        """Answer what was accepted, then close the channels."""
        await self._routes.close()
        await self._replicas.close()

    def infer(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """See `InferenceCore.infer`."""
        if request.deadline_s is None:
            request = request._replace(deadline_s=self._deadline_s())
        route = self._routes.known((request.model_name, request.model_version))
        if route is None:
            return asyncio.ensure_future(self._infer_on_new_route(request))
        return self._submit(route, request)

    async def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:
        """See `InferenceCore.stream`."""
        route = await self._routes.get((request.model_name, request.model_version))
        if not route.decoupled:
            yield await self.infer(request)
            return
        route.validator.check(request)
        deadline_s = self._deadline_s() if request.deadline_s is None else request.deadline_s
        message = encode_request(request)
        with self._holder(route, request) as replica:
            async with aclosing(replica.stream_infer(message, deadline_s)) as answers:
                async for answer in answers:
                    if answer.outputs:  # the last message may only say that it is the last
                        yield read_response(answer)

    async def ready(self) -> bool:
        """Whether any replica takes requests."""
        return bool(self._replicas.ready)

    async def model_ready(self, model_name: str, model_version: str = "") -> bool:
        """See `InferenceCore.model_ready`."""
        request = pb.ModelReadyRequest(name=model_name, version=model_version)
        answer = await self._replicas.call("ModelReady", request, self._deadline_s())
        return bool(answer.ready)

    async def metadata(self, model_name: str, model_version: str = "") -> ModelMetadata:
        """See `InferenceCore.metadata`."""
        return (await self._routes.get((model_name, model_version))).metadata

    async def config(self, model_name: str, model_version: str = "") -> ModelConfig:
        """See `InferenceCore.config`."""
        return (await self._routes.get((model_name, model_version))).config

    async def index(self, *, ready_only: bool = False) -> list[ModelIndexEntry]:
        """See `InferenceCore.index`; replicas that differ are told apart in the reason."""
        answers = await self._gather("RepositoryIndex", pb.RepositoryIndexRequest())
        merged = merge_indexes(
            {
                address: [
                    ModelIndexEntry(m.name, m.version, m.state, m.reason) for m in answer.models
                ]
                for address, answer in answers.items()
            }
        )
        return [entry for entry in merged if not ready_only or entry.state == "READY"]

    async def statistics(
        self, model_name: str = "", model_version: str = ""
    ) -> list[pb.ModelStatistics]:
        """See `InferenceCore.statistics`; the sum over the replicas that are ready."""
        request = pb.ModelStatisticsRequest(name=model_name, version=model_version)
        answers = await self._gather("ModelStatistics", request)
        return sum_statistics(answer.model_stats for answer in answers.values())

    async def load(self, model_name: str, options: LoadOptions = NO_LOAD_OPTIONS) -> None:
        """See `InferenceCore.load`; every replica must have loaded it."""
        request = pb.RepositoryModelLoadRequest(model_name=model_name)
        if options.config is not None:
            request.parameters["config"].string_param = options.config
        for path, content in options.files.items():
            request.parameters[f"file:{path}"].bytes_param = content
        await self._on_all("RepositoryModelLoad", request)

    async def unload(self, model_name: str, *, unload_dependents: bool = False) -> None:
        """See `InferenceCore.unload`; every replica must have unloaded it."""
        request = pb.RepositoryModelUnloadRequest(model_name=model_name)
        if unload_dependents:
            request.parameters["unload_dependents"].bool_param = True
        await self._on_all("RepositoryModelUnload", request)

    def _replicas_changed(self) -> None:
        self._routes.replicas_changed()

    def _deadline_s(self) -> float:
        return self._loop.time() + self._timeout_s

    async def _gather(self, method: str, request: Any) -> Mapping[str, Any]:
        replicas = self._replicas.ready or self._replicas.all
        return await gather(replicas, method, request, self._deadline_s())

    async def _on_all(self, method: str, request: Any) -> None:
        try:
            await on_all(self._replicas.all, method, request, self._loop.time() + LOAD_TIMEOUT_S)
        finally:
            self._routes.forget(request.model_name)

    def _submit(self, route: Route, request: InferRequest) -> asyncio.Future[InferResponse]:
        rows = route.validator.check(request)
        if route.stateful and request.options.sequence is not None:
            return asyncio.ensure_future(self._infer_in_sequence(route, request))
        return route.batcher.submit(request, rows)

    async def _infer_on_new_route(self, request: InferRequest) -> InferResponse:
        route = await self._routes.get((request.model_name, request.model_version))
        return await self._submit(route, request)

    async def _infer_in_sequence(self, route: Route, request: InferRequest) -> InferResponse:
        assert request.deadline_s is not None  # `infer` gives every request one
        message = encode_request(request)
        with self._holder(route, request) as replica:
            return read_response(await replica.call("ModelInfer", message, request.deadline_s))

    def _holder(self, route: Route, request: InferRequest) -> AbstractContextManager[Replica]:
        """Who answers a request that goes alone."""
        sequence = request.options.sequence
        if not route.stateful or sequence is None:
            return nullcontext(self._replicas.least_busy())
        idle_us = route.config.sequence_batching.max_sequence_idle_microseconds or _DEFAULT_IDLE_US
        return self._sequences.holder(request.model_name, sequence, idle_us / 1e6)
