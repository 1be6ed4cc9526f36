"""The Open Inference Protocol over gRPC: the methods, for any server on the core's event loop."""

import asyncio
import time
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from atril_common.core import InferenceCore, InferResponse, RequestOptions
from atril_common.errors import AtrilError, ErrorKind
from atril_common.h2grpc.rpc import Method, RpcContext, StreamMethod, UnaryMethod
from atril_common.lifecycle import Lifecycle
from atril_common.oip.grpc_codec import decode_request, encode_response
from atril_common.oip.grpc_stream import StreamInfer
from atril_common.oip.server import ServerMetadata, is_ready
from atril_common.telemetry import Telemetry

SERVICE = "inference.GRPCInferenceService"
METHOD = "grpc_infer"


def oip_methods(
    core: InferenceCore, lifecycle: Lifecycle, telemetry: Telemetry
) -> tuple[Method, ...]:
    """The protocol's methods over a core."""
    front = _GrpcFront(core, lifecycle)
    infer = _Infer(core, telemetry)
    handlers: dict[str, tuple[Any, Any]] = {
        "ServerLive": (pb.ServerLiveRequest, front.server_live),
        "ServerReady": (pb.ServerReadyRequest, front.server_ready),
        "ModelReady": (pb.ModelReadyRequest, front.model_ready),
        "ServerMetadata": (pb.ServerMetadataRequest, front.server_metadata),
        "ModelMetadata": (pb.ModelMetadataRequest, front.model_metadata),
        "ModelConfig": (pb.ModelConfigRequest, front.model_config),
        "RepositoryIndex": (pb.RepositoryIndexRequest, front.repository_index),
        "ModelInfer": (pb.ModelInferRequest, infer.handle),
    }
    stream = StreamMethod(
        f"/{SERVICE}/ModelStreamInfer",
        pb.ModelInferRequest.FromString,
        StreamInfer(core, telemetry).handle,
    )
    return (
        *(
            UnaryMethod(f"/{SERVICE}/{name}", request.FromString, handle)
            for name, (request, handle) in handlers.items()
        ),
        stream,
    )


class _GrpcFront:
    """Everything but inference."""

    def __init__(self, core: InferenceCore, lifecycle: Lifecycle) -> None:
        self._core = core
        self._lifecycle = lifecycle

    async def server_live(self, _request: Any, _context: RpcContext) -> bytes:
        return _bytes(pb.ServerLiveResponse(live=True))

    async def server_ready(self, _request: Any, _context: RpcContext) -> bytes:
        ready = await is_ready(self._core, self._lifecycle)
        return _bytes(pb.ServerReadyResponse(ready=ready))

    async def model_ready(self, request: Any, _context: RpcContext) -> bytes:
        ready = await self._core.model_ready(request.name, request.version)
        return _bytes(pb.ModelReadyResponse(ready=ready))

    async def server_metadata(self, _request: Any, _context: RpcContext) -> bytes:
        return _bytes(pb.ServerMetadataResponse(**ServerMetadata()._asdict()))

    async def model_metadata(self, request: Any, _context: RpcContext) -> bytes:
        metadata = await self._core.metadata(request.name, request.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return _bytes(
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
        return _bytes(pb.ModelConfigResponse(config=config))

    async def repository_index(self, request: Any, _context: RpcContext) -> bytes:
        entries = await self._core.index(ready_only=request.ready)
        model = pb.RepositoryIndexResponse.ModelIndex
        return _bytes(
            pb.RepositoryIndexResponse(models=[model(**entry._asdict()) for entry in entries])
        )


class _Infer:
    """ModelInfer, without a task of its own."""

    def __init__(self, core: InferenceCore, telemetry: Telemetry) -> None:
        self._core = core
        self._telemetry = telemetry

    def handle(self, message: Any, context: RpcContext) -> asyncio.Future[bytes]:
        """Submit a request; the future resolves to the encoded answer.

        Raises:
            AtrilError: the request is not acceptable as it stands.
        """
        started_s = time.monotonic()
        try:
            request = decode_request(message)
            if context.deadline_s is not None:
                request = request._replace(deadline_s=context.deadline_s)
            future = self._core.infer(request)
        except AtrilError as err:
            self._observe(message.model_name, err.kind, started_s)
            raise
        answer: asyncio.Future[bytes] = future.get_loop().create_future()
        options = request.options
        future.add_done_callback(
            lambda done: self._answer(answer, done, message, options, started_s)
        )
        answer.add_done_callback(lambda ended: future.cancel() if ended.cancelled() else None)
        return answer

    def _answer(
        self,
        answer: asyncio.Future[bytes],
        done: asyncio.Future[InferResponse],
        message: Any,
        options: RequestOptions,
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
            answer.set_result(_bytes(encode_response(done.result(), message.id, options)))
        self._observe(message.model_name, kind, started_s)

    def _observe(self, model_name: str, kind: ErrorKind | None, started_s: float) -> None:
        self._telemetry.observe(METHOD, model_name, kind, time.monotonic() - started_s)


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
