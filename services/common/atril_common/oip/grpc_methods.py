"""The Open Inference Protocol over gRPC: the methods, for any server on the core's event loop."""

import asyncio
import time
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from atril_common.core import InferenceCore, InferResponse
from atril_common.errors import AtrilError, ErrorKind
from atril_common.h2grpc.rpc import Method, RpcContext, StreamMethod, UnaryMethod
from atril_common.lifecycle import Lifecycle
from atril_common.oip.controls import Controls
from atril_common.oip.grpc_codec import AnswerTarget, decode_request, encode_response
from atril_common.oip.grpc_control import SERVICE, control_methods, to_bytes
from atril_common.oip.grpc_shared_memory import shared_memory_methods
from atril_common.oip.grpc_stream import StreamInfer
from atril_common.oip.server import ServerMetadata, is_ready
from atril_common.telemetry import Telemetry

METHOD = "grpc_infer"


def oip_methods(
    core: InferenceCore, lifecycle: Lifecycle, telemetry: Telemetry, controls: Controls
) -> tuple[Method, ...]:
    """The protocol's methods over a core."""
    front = _GrpcFront(core, lifecycle, ServerMetadata.of(controls))
    infer = _Infer(core, telemetry, controls)
    handlers: dict[str, tuple[Any, Any]] = {
        "ServerLive": (pb.ServerLiveRequest, front.server_live),
        "ServerReady": (pb.ServerReadyRequest, front.server_ready),
        "ModelReady": (pb.ModelReadyRequest, front.model_ready),
        "ServerMetadata": (pb.ServerMetadataRequest, front.server_metadata),
        "ModelMetadata": (pb.ModelMetadataRequest, front.model_metadata),
        "ModelConfig": (pb.ModelConfigRequest, front.model_config),
        "ModelInfer": (pb.ModelInferRequest, infer.handle),
    }
    described = tuple(
        UnaryMethod(f"/{SERVICE}/{name}", request.FromString, handle)
        for name, (request, handle) in handlers.items()
    )
    stream = StreamMethod(
        f"/{SERVICE}/ModelStreamInfer",
        pb.ModelInferRequest.FromString,
        StreamInfer(core, telemetry, controls).handle,
    )
    return (
        *described,
        stream,
        *control_methods(core, controls),
        *shared_memory_methods(controls.memory),
    )


class _GrpcFront:
    """Health and descriptions."""

    def __init__(self, core: InferenceCore, lifecycle: Lifecycle, server: ServerMetadata) -> None:
        self._server = server
        self._core = core
        self._lifecycle = lifecycle

    async def server_live(self, _request: Any, _context: RpcContext) -> bytes:
        return to_bytes(pb.ServerLiveResponse(live=True))

    async def server_ready(self, _request: Any, _context: RpcContext) -> bytes:
        ready = await is_ready(self._core, self._lifecycle)
        return to_bytes(pb.ServerReadyResponse(ready=ready))

    async def model_ready(self, request: Any, _context: RpcContext) -> bytes:
        ready = await self._core.model_ready(request.name, request.version)
        return to_bytes(pb.ModelReadyResponse(ready=ready))

    async def server_metadata(self, _request: Any, _context: RpcContext) -> bytes:
        return to_bytes(pb.ServerMetadataResponse(**self._server._asdict()))

    async def model_metadata(self, request: Any, _context: RpcContext) -> bytes:
        metadata = await self._core.metadata(request.name, request.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return to_bytes(
            pb.ModelMetadataResponse(
                name=metadata.name,
                versions=metadata.versions,
                platform=metadata.platform,
                inputs=[tensor(**spec._asdict()) for spec in metadata.inputs],
                outputs=[tensor(**spec._asdict()) for spec in metadata.outputs],
            )
        )

    async def model_config(self, request: Any, _context: RpcContext) -> bytes:
        config = await self._core.config(request.name, request.version)
        return to_bytes(pb.ModelConfigResponse(config=config))


class _Infer:
    """ModelInfer, without a task of its own."""

    def __init__(self, core: InferenceCore, telemetry: Telemetry, controls: Controls) -> None:
        self._core = core
        self._telemetry = telemetry
        self._tracer = controls.tracer
        self._memory = controls.memory

    def handle(self, message: Any, context: RpcContext) -> asyncio.Future[bytes]:
        """Submit a request; the future resolves to the encoded answer.

        Raises:
            AtrilError: the request is not acceptable as it stands.
        """
        started_s = time.monotonic()
        try:
            request = decode_request(message, self._memory)
            target = AnswerTarget.of(message, request.options, self._memory)
            if context.deadline_s is not None:
                request = request._replace(deadline_s=context.deadline_s)
            if self._tracer.on:
                received = ("GRPC_WAITREAD_END", int(started_s * 1e9))
                future = self._tracer.infer(self._core, request, message.id, received)
            else:
                future = self._core.infer(request)
        except AtrilError as err:
            self._observe(message.model_name, err.kind, started_s)
            raise
        answer: asyncio.Future[bytes] = future.get_loop().create_future()
        future.add_done_callback(
            lambda done: self._answer(answer, done, message, target, started_s)
        )
        answer.add_done_callback(lambda ended: future.cancel() if ended.cancelled() else None)
        return answer

    def _answer(
        self,
        answer: asyncio.Future[bytes],
        done: asyncio.Future[InferResponse],
        message: Any,
        target: AnswerTarget,
        started_s: float,
    ) -> None:
        """Encode what the core answered, for a caller who may have gone."""
        kind: ErrorKind | None = None
        if done.cancelled():
            kind = ErrorKind.CANCELLED
            answer.cancel()
        elif (error := done.exception()) is not None:
            kind = error.kind if isinstance(error, AtrilError) else ErrorKind.INTERNAL
            if not answer.done():
                answer.set_exception(error)
        elif not answer.done():
            try:
                answer.set_result(to_bytes(encode_response(done.result(), target)))
            except AtrilError as err:
                kind = err.kind
                answer.set_exception(err)
        self._observe(message.model_name, kind, started_s)

    def _observe(self, model_name: str, kind: ErrorKind | None, started_s: float) -> None:
        self._telemetry.observe(METHOD, model_name, kind, time.monotonic() - started_s)
