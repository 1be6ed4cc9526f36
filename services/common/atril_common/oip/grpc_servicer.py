"""The Open Inference Protocol over gRPC, for a grpcio thread-pool server.

The core lives on the event loop; a worker thread decodes, hands the request over and waits.
grpcio's own asyncio server does half as many requests a second (docs/decisions/0002).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any, TypeVar

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer

from atril_common.core import InferenceCore, InferRequest, InferResponse
from atril_common.errors import (
    AtrilError,
    CancelledRequestError,
    DeadlineExceededError,
    ErrorKind,
    InternalError,
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

    __slots__ = ("_front", "_future", "_request", "answered")

    def __init__(self, front: "OipServicer", request: InferRequest) -> None:
        self._front = front
        self._request = request
        self._future: asyncio.Future[InferResponse] | None = None
        self.answered: SimpleQueue[InferResponse | BaseException] = SimpleQueue()

    def submit(self, remaining_s: float | None) -> None:
        """On the loop: hand the request to the core."""
        request = self._request
        if remaining_s is not None:
            request = request._replace(deadline_s=self._front.loop.time() + remaining_s)
        try:
            self._future = self._front.core.infer(request)
        except Exception as err:  # noqa: BLE001  # the worker thread maps and logs it
            self.answered.put(err)
            return
        self._future.add_done_callback(self._done)

    def cancel(self) -> None:
        """On the loop: the client went away."""
        if self._future is not None:
            self._future.cancel()

    def _done(self, future: asyncio.Future[InferResponse]) -> None:
        if future.cancelled():
            self.answered.put(CancelledRequestError("the request was cancelled"))
        else:
            self.answered.put(future.exception() or future.result())


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
        self._telemetry = telemetry

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
        started_s = self.loop.time()
        try:
            call = _InferCall(self, decode_request(request))
            context.add_callback(lambda: self._ended(call))
            self.loop.call_soon_threadsafe(call.submit, context.time_remaining())
            answer = call.answered.get()
            if isinstance(answer, BaseException):
                raise answer
            response = encode_response(answer, request.id)
        except Exception as err:  # noqa: BLE001  # mapped and logged in _abort
            error = _as_atril_error(err, request.model_name)
            self._observe(request.model_name, error.kind, started_s)
            abort(context, error)
        self._observe(request.model_name, None, started_s)
        return response

    def _observe(self, model_name: str, kind: ErrorKind | None, started_s: float) -> None:
        duration_s = self.loop.time() - started_s
        self.loop.call_soon_threadsafe(
            self._telemetry.observe, METHOD, model_name, kind, duration_s
        )

    def _ended(self, call: _InferCall) -> None:
        """The RPC is over; if it was not answered, its request must not run."""
        if call.answered.empty():
            self.loop.call_soon_threadsafe(call.cancel)

    def _ask(self, context: Any, question: Callable[[], Coroutine[Any, Any, AnswerT]]) -> AnswerT:
        """Await a coroutine of the core on the loop; answer its errors."""
        try:
            return asyncio.run_coroutine_threadsafe(question(), self.loop).result(
                _CONTROL_TIMEOUT_S
            )
        except Exception as err:  # mapped and logged
            abort(context, _as_atril_error(err, ""))
            raise  # abort has raised already; for the type checker


def abort(context: Any, error: AtrilError) -> None:
    """End an RPC with an error's status; raises."""
    context.abort(STATUS[error.kind].grpc, str(error))


def _as_atril_error(error: Exception, model_name: str) -> AtrilError:
    if isinstance(error, AtrilError):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceededError(f"no answer within {_CONTROL_TIMEOUT_S:g} s")
    logger.error("rpc_failed", exc_info=error, extra={"model_name": model_name})
    return InternalError("internal error; the reason is in the server's log")
