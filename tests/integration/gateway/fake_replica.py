"""A replica that does what a test tells it to, behind a real gRPC server: not one of ours."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

Failure = tuple[grpc.StatusCode, str]


def model_config(name: str = "model", *, max_batch_size: int = 8) -> ModelConfig:
    """A stateless model."""
    return ModelConfig(name=name, max_batch_size=max_batch_size)


class FakeReplica(GRPCInferenceServiceServicer):
    """Answers `y = x + number` for one model, FP32 `[batch, 1]`.

    Attributes:
        seen: requests of every method but `ServerReady`, in order of arrival.
        failures: by method, the statuses to answer with, one a call; then it works again.
        gates: by method, an event that calls wait for.
        under_way: calls that wait at a gate.
        cancelled: calls that ended there because their caller left or lost the connection.
        loaded: whether the model is known.
        chunks: responses to one request of a stream.
    """

    def __init__(self, number: int, config: ModelConfig) -> None:
        self.number = number
        self.config = config
        self.ready = True
        self.loaded = True
        self.chunks = 3
        self.seen: list[tuple[str, Any]] = []
        self.timeouts_s: list[float] = []
        self.metadata: list[dict[str, str]] = []
        self.failures: dict[str, list[Failure]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.under_way = 0
        self.cancelled = 0
        self.entries: list[tuple[str, str, str, str]] = [(config.name, "1", "READY", "")]
        self.statistics = pb.ModelStatistics(name=config.name, version="1")
        self.address = ""

    async def start(self, port: int = 0) -> None:
        """Listen, on a port of before if one is given."""
        self._server = grpc.aio.server()
        add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        await self._server.start()

    async def die(self) -> None:
        """End at once, with calls under way."""
        self.ready = False
        await self._server.stop(0)

    def inferred(self) -> list[Any]:
        """The inference requests that arrived."""
        return [request for method, request in self.seen if method == "ModelInfer"]

    async def _arrive(self, method: str, request: Any, context: Any) -> None:
        self.seen.append((method, request))
        self.timeouts_s.append(context.time_remaining() or float("inf"))
        self.metadata.append({str(k): str(v) for k, v in context.invocation_metadata()})
        if self.failures.get(method):
            await context.abort(*self.failures[method].pop(0))
        gate = self.gates.get(method)
        if gate is not None:
            self.under_way += 1
            try:
                await gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.under_way -= 1

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Whether the test wants it ready."""
        return pb.ServerReadyResponse(ready=self.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Whether the model is loaded."""
        await self._arrive("ModelReady", request, context)
        return pb.ModelReadyResponse(ready=self.loaded)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The one model's."""
        await self._arrive("ModelMetadata", request, context)
        if request.name != self.config.name or not self.loaded:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}' is not found"
            )
        tensor = pb.ModelMetadataResponse.TensorMetadata
        shape = [-1, 1] if self.config.max_batch_size else [1]
        return pb.ModelMetadataResponse(
            name=self.config.name,
            versions=["1"],
            platform="onnxruntime_onnx",
            inputs=[tensor(name="x", datatype="FP32", shape=shape)],
            outputs=[tensor(name="y", datatype="FP32", shape=shape)],
        )

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The one model's."""
        return pb.ModelConfigResponse(config=self.config)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        """What the test has set."""
        await self._arrive("ModelStatistics", request, context)
        return pb.ModelStatisticsResponse(model_stats=[self.statistics])

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        """What the test has set."""
        await self._arrive("RepositoryIndex", request, context)
        model = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[model(name=n, version=v, state=s, reason=r) for n, v, s, r in self.entries]
        )

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Load the one model."""
        await self._arrive("RepositoryModelLoad", request, context)
        self.loaded = True
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Forget the one model."""
        await self._arrive("RepositoryModelUnload", request, context)
        self.loaded = False
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """`y = x + number`."""
        await self._arrive("ModelInfer", request, context)
        return self._answer(request, 0)

    async def ModelStreamInfer(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """`y = x + number + i` for each chunk i, then an empty message that it was the last."""
        async for message in request:
            for i in range(self.chunks):
                yield pb.ModelStreamInferResponse(infer_response=self._answer(message, i))
                if i == 0:
                    await self._arrive("ModelStreamInfer", message, context)
            final = pb.ModelInferResponse(model_name=message.model_name)
            final.parameters["triton_final_response"].bool_param = True
            yield pb.ModelStreamInferResponse(infer_response=final)

    def _answer(self, request: Any, more: int) -> Any:
        x = np.frombuffer(request.raw_input_contents[0], np.float32)
        answer = pb.ModelInferResponse(model_name=request.model_name, model_version="1")
        answer.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
        answer.raw_output_contents.append((x + self.number + more).astype(np.float32).tobytes())
        return answer


@asynccontextmanager
async def replicas(config: ModelConfig, count: int = 2) -> AsyncIterator[list[FakeReplica]]:
    """Some that listen; they add 100, 200 … to what they are sent."""
    fakes = [FakeReplica(100 * (i + 1), config) for i in range(count)]
    for fake in fakes:
        await fake.start()
    try:
        yield fakes
    finally:
        for fake in fakes:
            await fake.die()


async def until(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    """Let the loop run until something holds.

    Raises:
        TimeoutError: it did not within the deadline.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + deadline_s
    while not condition():
        if loop.time() > end_s:
            raise TimeoutError(f"waited {deadline_s:g} s for {what}")
        await asyncio.sleep(0.005)
