"""The Open Inference Protocol over gRPC, for a grpcio thread-pool server.

The core lives on the event loop; a worker thread decodes, hands the request over and waits.
grpcio's own asyncio server does half as many requests a second (docs/decisions/0002).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer

from atril_common.core import InferenceCore, InferRequest, InferResponse
from atril_common.errors import (
    INTERNAL_ERROR,
    AtrilError,
    CancelledRequestError,
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
)
from atril_common.lifecycle import Lifecycle
from atril_common.oip.grpc_codec import decode_request, encode_response
from atril_common.oip.server import ServerMetadata, is_ready
from atril_common.status import STATUS
from atril_common.telemetry import Telemetry

logger = logging.getLogger(__name__)

METHOD = "grpc_infer"

_CONTROL_TIMEOUT_S = 30.0

AnswerT = TypeVar("AnswerT")


class _InferCall:
    """One ModelInfer between its worker thread and the event loop."""

    __slots__ = (
        "_core", "_future", "_loop", "_request", "_started_s", "_telemetry", "answered", "finished",
    )  # fmt: skip

    def __init__(self, front: "OipServicer", request: InferRequest, started_s: float) -> None:
        self._core = front.core
        self._loop = front.loop
        self._telemetry = front.telemetry
        self._request = request
        self._started_s = started_s
        self._future: asyncio.Future[InferResponse] | None = None
        self.answered: SimpleQueue[InferResponse | AtrilError] = SimpleQueue()
        self.finished = False

    def submit(self, remaining_s: float | None) -> None:
        """On the loop: hand the request to the core."""
        if self.finished:
            return
        request = self._request
        if remaining_s is not None:
            request = request._replace(deadline_s=self._loop.time() + remaining_s)
        try:
            self._future = self._core.infer(request)
        except Exception as err:  # noqa: BLE001  # logged in _as_atril_error, and answered
            self._answer(_as_atril_error(err, request.model_name))
            return
        self._future.add_done_callback(self._done)

    def cancel(self) -> None:
        """On the loop: the client went away, perhaps before `submit` had its turn."""
        if self._future is None:
            self._answer(CancelledRequestError("the request was cancelled"))
        else:
            self._future.cancel()

    def _done(self, future: asyncio.Future[InferResponse]) -> None:
        if future.cancelled():
            self._answer(CancelledRequestError("the request was cancelled"))
        elif (error := future.exception()) is not None:
            self._answer(_as_atril_error(error, self._request.model_name))
        else:
            self._answer(future.result())

    def _answer(self, answer: InferResponse | AtrilError) -> None:
        kind = answer.kind if isinstance(answer, AtrilError) else None
        duration_s = time.monotonic() - self._started_s
        self._telemetry.observe(METHOD, self._request.model_name, kind, duration_s)
        self.finished = True
        self.answered.put(answer)


class OipServicer(GRPCInferenceServiceServicer):  # type: ignore[misc]  # tritonclient is untyped
    """`inference.GRPCInferenceService` over a core; its methods run in worker threads."""

    def __init__(
        self,
        core: InferenceCore,
        lifecycle: Lifecycle,
        telemetry: Telemetry,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.core = core
        self.loop = loop
        self._lifecycle = lifecycle
        self.telemetry = telemetry

    def ServerLive(self, request: Any, context: Any) -> Any:
        """Live as long as the process answers."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:
        """Ready while every model is and the server is not draining."""
        ready = self._ask(context, lambda: is_ready(self.core, self._lifecycle))
        return pb.ServerReadyResponse(ready=ready)

    def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether a version answers requests; NOT_FOUND for an unknown model."""
        ready = self._ask(context, lambda: self.core.model_ready(request.name, request.version))
        return pb.ModelReadyResponse(ready=ready)

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(**ServerMetadata()._asdict())

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Names, datatypes and shapes."""
        metadata = self._ask(context, lambda: self.core.metadata(request.name, request.version))
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=metadata.name,
            versions=metadata.versions,
            platform=metadata.platform,
            inputs=[tensor(**spec._asdict()) for spec in metadata.inputs],
            outputs=[tensor(**spec._asdict()) for spec in metadata.outputs],
        )

    def ModelConfig(self, request: Any, context: Any) -> Any:
        """The model's configuration."""
        config = self._ask(context, lambda: self.core.config(request.name, request.version))
        return pb.ModelConfigResponse(config=config)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """Every model and version with its state."""
        entries = self._ask(context, lambda: self.core.index(ready_only=request.ready))
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(models=[index(**entry._asdict()) for entry in entries])

    def ModelInfer(self, request: Any, context: Any) -> Any:
        """Run one request."""
        started_s = time.monotonic()
        try:
            call = _InferCall(self, decode_request(request), started_s)
        except InvalidInputError as err:
            self.loop.call_soon_threadsafe(
                self.telemetry.observe, METHOD, request.model_name, err.kind, 0.0
            )
            abort(context, err)
        context.add_callback(lambda: self._ended(call))
        self.loop.call_soon_threadsafe(call.submit, context.time_remaining())
        answer = call.answered.get()
        if isinstance(answer, AtrilError):
            abort(context, answer)
        return encode_response(answer, request.id)

    def _ended(self, call: _InferCall) -> None:
        """The RPC is over; if it was not answered, its request must not run."""
        if not call.finished:
            self.loop.call_soon_threadsafe(call.cancel)

    def _ask(self, context: Any, question: Callable[[], Coroutine[Any, Any, AnswerT]]) -> AnswerT:
        """Await a coroutine of the core on the loop; answer its errors."""
        try:
            return asyncio.run_coroutine_threadsafe(question(), self.loop).result(
                _CONTROL_TIMEOUT_S
            )
        except Exception as err:  # noqa: BLE001  # mapped and logged
            abort(context, _as_atril_error(err, ""))


def abort(context: Any, error: AtrilError) -> NoReturn:
    """End an RPC with an error's status."""
    context.abort(STATUS[error.kind].grpc, str(error))
    raise AssertionError("abort raises")


def _as_atril_error(error: BaseException, model_name: str) -> AtrilError:
    if isinstance(error, AtrilError):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceededError(f"no answer within {_CONTROL_TIMEOUT_S:g} s")
    logger.error("rpc_failed", exc_info=error, extra={"model_name": model_name})
    return InternalError(INTERNAL_ERROR)
