"""What the gateway knows of each model, and the queue before it.

Concurrent requests for one model are coalesced: while calls are under way, what arrives waits in
the same batcher that the engine uses, and travels as one call. The hop is paid per batch, not per
request.
"""

import asyncio
from typing import Any, NamedTuple

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.batching import (
    BatchPolicy,
    BatchResult,
    Departure,
    DynamicBatcher,
    ExecutionTimes,
)
from atril_common.core import InferRequest, InferResponse, ModelMetadata
from atril_common.errors import AtrilError, InternalError, InvalidInputError, NotFoundError
from atril_common.oip.grpc_codec import decode_response, encode_request
from atril_common.tensors import TensorSpec
from atril_common.validation import RequestValidator
from atril_gateway.remote.replicas import ReplicaSet

CONTRACT_TTL_S = 2.0
"""How long a model's metadata and configuration are trusted before they are asked for again."""

CALLS_PER_REPLICA = 2
"""Batches under way to each replica: one runs while the next travels."""

_UNBATCHED_CALLS_PER_REPLICA = 64

Key = tuple[str, str]
"""A model's name and the version that was asked for, empty for the highest."""


class Route(NamedTuple):
    """One model: its contract, and the queue before it."""

    metadata: ModelMetadata
    config: ModelConfig
    validator: RequestValidator
    batcher: DynamicBatcher
    asked_s: float
    stateful: bool
    decoupled: bool


class _Unobserved:
    """The replicas keep the models' statistics; the gateway has its own of requests."""

    def departed(self, reason: Departure) -> None:
        """Count nothing."""

    def executed(self, batch_size: int, enqueued_ns: list[int], times: ExecutionTimes) -> None:
        """Count nothing."""

    def failed(self, requests: int, error: AtrilError, spent_ns: int = 0) -> None:
        """Count nothing."""

    def cancelled(self, requests: int) -> None:
        """Count nothing."""


class _RemoteModel:
    """The executor of one model's batches: one RPC a batch."""

    def __init__(self, replicas: ReplicaSet, key: Key) -> None:
        self._replicas = replicas
        self._name, self._version = key

    def execute(self, batch: InferRequest) -> asyncio.Future[BatchResult]:
        """Send one batch; its deadline is the latest of its requests'."""
        request = batch._replace(model_name=self._name, model_version=self._version)
        assert request.deadline_s is not None  # `RemoteCore.infer` gives every request one
        return asyncio.ensure_future(self._call(encode_request(request), request.deadline_s))

    async def _call(self, message: Any, deadline_s: float) -> BatchResult:
        response = read_response(await self._replicas.call("ModelInfer", message, deadline_s))
        return BatchResult(response.outputs, response.model_version)


class Routes:
    """The models that somebody has asked for.

    Args:
        replicas: whom to ask.
        timeout_s: longest time for an answer to what a model is.
        max_queue_size: most requests that wait for one model whose configuration sets no limit.
    """

    def __init__(self, replicas: ReplicaSet, timeout_s: float, max_queue_size: int) -> None:
        self._replicas = replicas
        self._timeout_s = timeout_s
        self._max_queue_size = max_queue_size
        self._loop = asyncio.get_running_loop()
        self._routes: dict[Key, Route] = {}
        self._asking: dict[Key, asyncio.Task[Route]] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def known(self, key: Key) -> Route | None:
        """What is known of a model, even if it is asked for anew in the background meanwhile."""
        route = self._routes.get(key)
        if route is not None and self._loop.time() - route.asked_s > CONTRACT_TTL_S:
            self._ask(key)
        return route

    async def get(self, key: Key) -> Route:
        """What is known of a model, asked for anew if it is older than `CONTRACT_TTL_S`.

        Raises:
            AtrilError: what a replica said.
        """
        route = self._routes.get(key)
        if route is None or self._loop.time() - route.asked_s > CONTRACT_TTL_S:
            route = await asyncio.shield(self._ask(key))
        return route

    def forget(self, model_name: str) -> None:
        """Trust nothing any more that is known of a model, or is being asked."""
        for key in [key for key in self._asking if key[0] == model_name]:
            del self._asking[key]
        for key in [key for key in self._routes if key[0] == model_name]:
            self._retire(self._routes.pop(key))

    def replicas_changed(self) -> None:
        """There are more or fewer replicas: let the calls under way follow their number."""
        for key, route in self._routes.items():
            batcher = self._batcher(key, route.config)
            self._routes[key] = route._replace(batcher=batcher)
            self._retire(route)

    async def close(self) -> None:
        """Answer what was accepted."""
        for route in self._routes.values():
            self._retire(route)
        await asyncio.gather(*self._retiring)

    def _retire(self, route: Route) -> None:
        task = self._loop.create_task(route.batcher.close())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _ask(self, key: Key) -> asyncio.Task[Route]:
        """Ask a replica for a model's contract, once however many requests wait for it."""
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = self._loop.create_task(self._learn(key))
            task.add_done_callback(lambda done: self._asked(key, done))
        return task

    def _asked(self, key: Key, done: asyncio.Task[Route]) -> None:
        if self._asking.get(key) is done:
            del self._asking[key]
            if not done.cancelled() and isinstance(done.exception(), NotFoundError):
                # The model is gone: the next request asks again, and is told so.
                route = self._routes.pop(key, None)
                if route is not None:
                    self._retire(route)

    async def _learn(self, key: Key) -> Route:
        name, version = key
        deadline_s = self._loop.time() + self._timeout_s
        call = self._replicas.call
        answer, config = await asyncio.gather(
            call("ModelMetadata", pb.ModelMetadataRequest(name=name, version=version), deadline_s),
            call("ModelConfig", pb.ModelConfigRequest(name=name, version=version), deadline_s),
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
            route = known._replace(asked_s=self._loop.time())
        else:
            route = self._create(key, metadata, config.config)
        if self._asking.get(key) is asyncio.current_task():  # else it was forgotten meanwhile
            self._routes[key] = route
            if known is not None and known.batcher is not route.batcher:
                self._retire(known)
        return route

    def _create(self, key: Key, metadata: ModelMetadata, config: ModelConfig) -> Route:
        validator = RequestValidator(
            metadata.name,
            metadata.inputs,
            [spec.name for spec in metadata.outputs],
            config.max_batch_size,
        )
        return Route(
            metadata,
            config,
            validator,
            self._batcher(key, config),
            self._loop.time(),
            stateful=config.HasField("sequence_batching"),
            decoupled=config.model_transaction_policy.decoupled,
        )

    def _batcher(self, key: Key, config: ModelConfig) -> DynamicBatcher:
        calls = CALLS_PER_REPLICA if config.max_batch_size else _UNBATCHED_CALLS_PER_REPLICA
        replicas = max(1, len(self._replicas.all))
        own_limit = config.dynamic_batching.default_queue_policy.max_queue_size
        policy = BatchPolicy(
            max_batch_size=config.max_batch_size,
            max_queue_delay_s=0.0,
            max_queue_size=own_limit * replicas or self._max_queue_size,
            concurrency=calls * replicas,
            same_options=True,
        )
        model = _RemoteModel(self._replicas, key)
        return DynamicBatcher(key[0], model, policy, _Unobserved())


def read_response(message: Any) -> InferResponse:
    """A replica's `ModelInferResponse`.

    Raises:
        InternalError: it cannot be read.
    """
    try:
        return decode_response(message)
    except InvalidInputError as err:
        raise InternalError(f"a replica sent an answer that cannot be read: {err}") from err


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in tensors)
