"""A core without models: what the control plane asks of it, and answers that can be foretold."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
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
from atril_common.errors import InvalidInputError, NotFoundError
from atril_common.tensors import TensorSpec


class FakeCore:
    """One model `twice` (FP32 `x` of shape `[-1, 2]` to `y` = 2x), which also counts as decoupled.

    Attributes:
        responses: how many responses `stream` gives.
        error: raised by `infer`, and by `stream` after `responses` responses.
        error_of_control: raised by `load` and `unload`.
        closed: whether the stream was left before its end.
    """

    def __init__(self) -> None:
        self.requests: list[InferRequest] = []
        self.loads: list[tuple[str, LoadOptions]] = []
        self.unloads: list[tuple[str, bool]] = []
        self.responses = 1
        self.error: Exception | None = None
        self.error_of_control: Exception | None = None
        self.closed = asyncio.Event()
        self.hold = False

    def infer(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """Answer at once."""
        self._require(request.model_name)
        self.requests.append(request)
        future: asyncio.Future[InferResponse] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self._answer(request))
        return future

    async def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:
        """Answer as often as `responses` says, then fail, wait for ever or end."""
        self._require(request.model_name)
        self.requests.append(request)
        try:
            for _ in range(self.responses):
                yield self._answer(request)
            if self.error is not None:
                raise self.error
            if self.hold:
                await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def ready(self) -> bool:
        """Always."""
        return True

    async def model_ready(self, model_name: str, model_version: str = "") -> bool:
        """The one model is ready."""
        self._require(model_name)
        return True

    async def metadata(self, model_name: str, model_version: str = "") -> ModelMetadata:
        """The one model's."""
        self._require(model_name)
        return ModelMetadata(
            "twice",
            ("1",),
            "none",
            (TensorSpec("x", "FP32", (-1, 2)),),
            (TensorSpec("y", "FP32", (-1, 2)),),
        )

    async def config(self, model_name: str, model_version: str = "") -> ModelConfig:
        """The one model's."""
        self._require(model_name)
        return ModelConfig(name="twice", max_batch_size=8)

    async def index(self, *, ready_only: bool = False) -> list[ModelIndexEntry]:
        """One entry that is ready, one that is not."""
        entries = [
            ModelIndexEntry("broken", "1", "UNAVAILABLE", "no reason"),
            ModelIndexEntry("twice", "1", "READY"),
        ]
        return entries[1:] if ready_only else entries

    async def statistics(
        self, model_name: str = "", model_version: str = ""
    ) -> list[pb.ModelStatistics]:
        """Three inferences in two executions."""
        if model_name not in ("", "twice"):
            raise InvalidInputError(f"requested model '{model_name}' is not available")
        return [pb.ModelStatistics(name="twice", version="1", inference_count=3, execution_count=2)]

    async def load(self, model_name: str, options: LoadOptions = NO_LOAD_OPTIONS) -> None:
        """Remember it."""
        if self.error_of_control is not None:
            raise self.error_of_control
        self.loads.append((model_name, options))

    async def unload(self, model_name: str, *, unload_dependents: bool = False) -> None:
        """Remember it."""
        if self.error_of_control is not None:
            raise self.error_of_control
        self.unloads.append((model_name, unload_dependents))

    def _require(self, model_name: str) -> None:
        if model_name != "twice":
            raise NotFoundError(f"Request for unknown model: '{model_name}' is not found")

    def _answer(self, request: InferRequest) -> InferResponse:
        (x,) = request.inputs.values()
        return InferResponse("twice", "1", {"y": np.multiply(x, 2)})
