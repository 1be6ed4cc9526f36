"""What the engine serves: a version of a model, whatever runs it."""

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import InferRequest, InferResponse, ModelMetadata
from atril_inference.decoding.statistics import DecodingStatistics
from atril_inference.memory import SessionMemory
from atril_inference.providers import Placement
from atril_inference.response_cache import ResponseCache
from atril_inference.session import WarmUpTime
from atril_inference.statistics import ModelStatistics


class LoadRecord(NamedTuple):
    """What loading a version took."""

    duration_s: float
    warm_up_times: tuple[WarmUpTime, ...]
    memory: SessionMemory


class Served(Protocol):
    """A version that answers requests, on the event loop.

    Attributes:
        decoupled: a request has any number of responses, so that only streams reach it.
        decoding: what its decoder did, None for a model that runs once a request.
    """

    config: ModelConfig
    version: str
    metadata: ModelMetadata
    decoupled: bool
    placement: Placement
    load_record: LoadRecord
    statistics: ModelStatistics

    @property
    def decoding(self) -> DecodingStatistics | None:
        """See above."""
        ...

    @property
    def pending(self) -> int:
        """Requests that wait to be run."""
        ...

    def submit(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """Accept a request that has one response.

        Raises:
            AtrilError: it is not acceptable as it stands.
        """
        ...

    def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """Answer a request with all its responses."""
        ...

    async def close(self) -> None:
        """Answer what was accepted, then let the sessions go."""
        ...


def statistics_message(model: Served) -> pb.ModelStatistics:
    """What a version has done and the memory it takes (protocol reference 2.8)."""
    message = model.statistics.message(model.config.name, model.version)
    memory = model.load_record.memory
    message.memory_usage.add(type=memory.kind, id=memory.device_id, byte_size=memory.total_bytes)
    return message


class Serving(NamedTuple):
    """What all versions of a server share: the bound of their queues, and the cache if any."""

    max_queue_size: int
    response_cache: ResponseCache | None = None


class Loaded(Protocol):
    """A version that has been loaded off the event loop."""

    def serve(self, serving: Serving) -> Served:
        """Put it behind its queue, on the event loop."""
        ...

    def close(self) -> None:
        """Let its sessions go, if it is not to be served."""
        ...
