"""Shared memory over gRPC (2.8, 2.10)."""

from collections.abc import Awaitable, Callable
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from atril_common.errors import UnsupportedError
from atril_common.h2grpc.rpc import Method, RpcContext, UnaryMethod
from atril_common.oip.grpc_control import SERVICE, to_bytes
from atril_common.oip.http_shared_memory import NO_CUDA
from atril_common.oip.shared_memory import SharedMemory, region_from_fields

_Handler = Callable[[Any, RpcContext], Awaitable[bytes]]


def shared_memory_methods(memory: SharedMemory) -> tuple[Method, ...]:
    """The methods."""
    front = _SharedMemoryFront(memory)
    handlers: dict[str, tuple[Any, _Handler]] = {
        "SystemSharedMemoryStatus": (pb.SystemSharedMemoryStatusRequest, front.status),
        "SystemSharedMemoryRegister": (pb.SystemSharedMemoryRegisterRequest, front.register),
        "SystemSharedMemoryUnregister": (pb.SystemSharedMemoryUnregisterRequest, front.unregister),
        "CudaSharedMemoryStatus": (pb.CudaSharedMemoryStatusRequest, front.no_cuda),
        "CudaSharedMemoryRegister": (pb.CudaSharedMemoryRegisterRequest, front.no_cuda),
        "CudaSharedMemoryUnregister": (pb.CudaSharedMemoryUnregisterRequest, front.no_cuda),
    }
    return tuple(
        UnaryMethod(f"/{SERVICE}/{name}", request.FromString, handle)
        for name, (request, handle) in handlers.items()
    )


class _SharedMemoryFront:
    """The handlers."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory

    async def status(self, request: Any, _context: RpcContext) -> bytes:
        status = pb.SystemSharedMemoryStatusResponse.RegionStatus
        regions = self._memory.status(request.name)
        return to_bytes(
            pb.SystemSharedMemoryStatusResponse(
                regions={region.name: status(**region._asdict()) for region in regions}
            )
        )

    async def register(self, request: Any, _context: RpcContext) -> bytes:
        self._memory.register(
            region_from_fields(request.name, request.key, request.offset, request.byte_size)
        )
        return to_bytes(pb.SystemSharedMemoryRegisterResponse())

    async def unregister(self, request: Any, _context: RpcContext) -> bytes:
        self._memory.unregister(request.name)
        return to_bytes(pb.SystemSharedMemoryUnregisterResponse())

    async def no_cuda(self, _request: Any, _context: RpcContext) -> bytes:
        raise UnsupportedError(NO_CUDA)
