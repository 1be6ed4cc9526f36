"""`InferenceCore` over replicas.

Concurrent requests for one model are coalesced: while calls are under way, what arrives waits in
the same batcher that the engine uses, and travels as one call. The hop is paid per batch, not per
request.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.batching import (
    BatchPolicy,
    BatchResult,
    DynamicBatcher,
    ExecutionTimes,
)
from atril_common.core import (
    NO_LOAD_OPTIONS,
    InferRequest,
    InferResponse,
    LoadOptions,
    ModelIndexEntry,
    ModelMetadata,
)
from atril_common.errors import (
    AtrilError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from atril_common.oip.grpc_codec import decode_response, encode_request
from atril_common.tensors import TensorSpec
from atril_common.validation import RequestValidator
from atril_gateway.remote.replicas import ReplicaSet

CONTRACT_TTL_S = 2.0
"""How long a model's metadata and configuration are trusted before they are asked for again."""

MAX_QUEUE_SIZE = 4096
"""Most requests that wait for one model."""

CALLS_PER_REPLICA = 2
"""Batches under way to each replica: one runs while the next travels."""

_UNBATCHED_CALLS_PER_REPLICA = 64


class _Route(NamedTuple):
    """What the gateway knows of one model, and the queue before it."""

    metadata: ModelMetadata
    config: ModelConfig
    validator: RequestValidator
    batcher: DynamicBatcher
    asked_s: float


class _Unobserved:
    """The replicas keep the models' statistics; the gateway has its own of requests."""

    def executed(self, batch_size: int, enqueued_ns: list[int], times: ExecutionTimes) -> None:
        """Count nothing."""

    def failed(self, requests: int, error: AtrilError, spent_ns: int = 0) -> None:
        """Count nothing."""

    def cancelled(self, requests: int) -> None:
        """Count nothing."""


class _RemoteModel:
    """The executor of one model's batches: one RPC a batch."""

    def __init__(self, replicas: ReplicaSet, name: str, version: str, timeout_s: float) -> None:
        self._replicas = replicas
        self._name = name
        self._version = version
        self._timeout_s = timeout_s

    def execute(self, batch: InferRequest) -> asyncio.Future[BatchResult]:
        """Send one batch."""
        request = batch._replace(model_name=self._name, model_version=self._version)
        return asyncio.ensure_future(self._call(encode_request(request)))

    async def _call(self, message: Any) -> BatchResult:
        answer = await self._replicas.call("ModelInfer", message, self._timeout_s)
        try:
            response = decode_response(answer)
        except InvalidInputError as err:
            raise InternalError(f"a replica sent an answer that cannot be read: {err}") from err
        return BatchResult(response.outputs, response.model_version)


class RemoteCore:
    """Answers for models that replicas hold.

    Args:
        targets: gRPC addresses, see `parse_targets`.
        timeout_s: longest time for one call to a replica.
    """

    def __init__(self, targets: tuple[str, ...], timeout_s: float) -> None:
        self._replicas = ReplicaSet(targets)
        self._replica_count = len(targets)
        self._timeout_s = timeout_s
        self._routes: dict[tuple[str, str], _Route] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[_Route]] = {}

    async def start(self) -> None:
        """Find the replicas; they need not be ready yet."""
        await self._replicas.start()

    async def close(self) -> None:
        """Answer what was accepted, then close the channels."""
        await asyncio.gather(*(route.batcher.close() for route in self._routes.values()))
        await self._replicas.close()

    def infer(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """See `InferenceCore.infer`."""
        key = (request.model_name, request.model_version)
        route = self._routes.get(key)
        if route is None:
            return asyncio.ensure_future(self._infer_on_new_route(request))
        if time.monotonic() - route.asked_s > CONTRACT_TTL_S:
            self._ask(key)  # in the background; this request goes by what is known
        return route.batcher.submit(request, route.validator.check(request))

    async def ready(self) -> bool:
        """Whether any replica takes requests."""
        return bool(self._replicas.ready)

    async def model_ready(self, model_name: str, model_version: str = "") -> bool:
        """See `InferenceCore.model_ready`."""
        request = pb.ModelReadyRequest(name=model_name, version=model_version)
        return bool((await self._rpc("ModelReady", request)).ready)

    async def metadata(self, model_name: str, model_version: str = "") -> ModelMetadata:
        """See `InferenceCore.metadata`."""
        return (await self._route((model_name, model_version))).metadata

    async def config(self, model_name: str, model_version: str = "") -> ModelConfig:
        """See `InferenceCore.config`."""
        return (await self._route((model_name, model_version))).config

    async def index(self, *, ready_only: bool = False) -> list[ModelIndexEntry]:
        """See `InferenceCore.index`; as one replica tells it."""
        answer = await self._rpc("RepositoryIndex", pb.RepositoryIndexRequest(ready=ready_only))
        return [ModelIndexEntry(m.name, m.version, m.state, m.reason) for m in answer.models]

    async def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:
        """See `InferenceCore.stream`."""
        yield await self.infer(request)

    async def statistics(
        self,
        model_name: str = "",  # noqa: ARG002
        model_version: str = "",  # noqa: ARG002
    ) -> list[pb.ModelStatistics]:
        """See `InferenceCore.statistics`."""
        raise UnsupportedError("statistics are not implemented")

    async def load(self, model_name: str, options: LoadOptions = NO_LOAD_OPTIONS) -> None:  # noqa: ARG002
        """See `InferenceCore.load`."""
        raise UnsupportedError("model load is not implemented")

    async def unload(self, model_name: str, *, unload_dependents: bool = False) -> None:  # noqa: ARG002
        """See `InferenceCore.unload`."""
        raise UnsupportedError("model unload is not implemented")

    async def _rpc(self, method: str, request: Any) -> Any:
        return await self._replicas.call(method, request, self._timeout_s)

    async def _infer_on_new_route(self, request: InferRequest) -> InferResponse:
        route = await self._route((request.model_name, request.model_version))
        return await route.batcher.submit(request, route.validator.check(request))

    async def _route(self, key: tuple[str, str]) -> _Route:
        """What is known of a model, asked for anew if it is older than `CONTRACT_TTL_S`."""
        route = self._routes.get(key)
        if route is None or time.monotonic() - route.asked_s > CONTRACT_TTL_S:
            route = await asyncio.shield(self._ask(key))
        return route

    def _ask(self, key: tuple[str, str]) -> "asyncio.Task[_Route]":
        """Ask a replica for a model's contract, once however many requests wait for it."""
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._learn(key))
            task.add_done_callback(lambda done: self._asked(key, done))
        return task

    def _asked(self, key: tuple[str, str], done: "asyncio.Task[_Route]") -> None:
        del self._asking[key]
        if not done.cancelled() and isinstance(done.exception(), NotFoundError):
            # The model is gone: the next request asks again, and is told so.
            self._routes.pop(key, None)

    async def _learn(self, key: tuple[str, str]) -> _Route:
        name, version = key
        answer, config = await asyncio.gather(
            self._rpc("ModelMetadata", pb.ModelMetadataRequest(name=name, version=version)),
            self._rpc("ModelConfig", pb.ModelConfigRequest(name=name, version=version)),
        )
        metadata = ModelMetadata(
            answer.name,
            tuple(answer.versions),
            answer.platform,
            _specs(answer.inputs),
            _specs(answer.outputs),
        )
        known = self._routes.get(key)
        if known is not None and (known.metadata, known.config) == (metadata, config.config):
            route = known._replace(asked_s=time.monotonic())
        else:
            route = self._create_route(key, metadata, config.config)
        self._routes[key] = route
        return route

    def _create_route(
        self, key: tuple[str, str], metadata: ModelMetadata, config: ModelConfig
    ) -> _Route:
        calls = CALLS_PER_REPLICA if config.max_batch_size else _UNBATCHED_CALLS_PER_REPLICA
        policy = BatchPolicy(
            max_batch_size=config.max_batch_size,
            max_queue_delay_s=0.0,
            max_queue_size=MAX_QUEUE_SIZE,
            concurrency=calls * self._replica_count,
            same_options=True,
        )
        validator = RequestValidator(
            metadata.name,
            metadata.inputs,
            [spec.name for spec in metadata.outputs],
            config.max_batch_size,
        )
        model = _RemoteModel(self._replicas, *key, self._timeout_s)
        batcher = DynamicBatcher(metadata.name, model, policy, _Unobserved())
        return _Route(metadata, config, validator, batcher, time.monotonic())


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in tensors)
