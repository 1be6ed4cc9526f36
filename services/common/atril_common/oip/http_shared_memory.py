"""Shared memory over HTTP (H15, H16, 2.10)."""

from starlette.requests import Request
from starlette.responses import Response

from atril_common.errors import InvalidInputError, UnsupportedError
from atril_common.oip.http_base import Endpoints, json_response, read_object
from atril_common.oip.shared_memory import SharedMemory, region_from_fields

_SYSTEM = "/v2/systemsharedmemory"
_CUDA = "/v2/cudasharedmemory"
_REGION = "/region/{region}"

NO_CUDA = "CUDA shared memory is not supported; use system shared memory or binary tensors"


def shared_memory_endpoints(memory: SharedMemory) -> Endpoints:
    """Register, look at and unregister regions."""
    front = _SharedMemoryFront(memory)
    endpoints: Endpoints = []
    for base, register, unregister, status in (
        (_SYSTEM, front.register, front.unregister, front.status),
        (_CUDA, front.no_cuda, front.no_cuda, front.no_cuda),
    ):
        endpoints += [
            (base + "/status", status, "GET"),
            (base + _REGION + "/status", status, "GET"),
            (base + _REGION + "/register", register, "POST"),
            (base + "/unregister", unregister, "POST"),
            (base + _REGION + "/unregister", unregister, "POST"),
        ]
    return endpoints


class _SharedMemoryFront:
    """The endpoints."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory

    async def register(self, request: Request) -> Response:
        fields = await read_object(request)
        unknown = fields.keys() - {"key", "offset", "byte_size"}
        if unknown:
            raise InvalidInputError(
                f"unknown field '{min(unknown)}': expected 'key', 'offset' and 'byte_size'"
            )
        self._memory.register(
            region_from_fields(
                request.path_params["region"],
                fields.get("key"),
                fields.get("offset"),
                fields.get("byte_size"),
            )
        )
        return Response()

    async def unregister(self, request: Request) -> Response:
        self._memory.unregister(request.path_params.get("region", ""))
        return Response()

    async def status(self, request: Request) -> Response:
        regions = self._memory.status(request.path_params.get("region", ""))
        return json_response([region._asdict() for region in regions])

    async def no_cuda(self, _: Request) -> Response:
        raise UnsupportedError(NO_CUDA)
