"""Server reflection (v1alpha), answered by grpcio-reflection's own servicer."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as pb

from atril_common.h2grpc.rpc import Method, RpcContext, StreamMethod

SERVICE_NAME: str = reflection.SERVICE_NAME


def reflection_method(services: Iterable[str]) -> Method:
    """The method that describes these services, and itself."""
    servicer = reflection.ReflectionServicer((*services, SERVICE_NAME))

    async def info(requests: AsyncIterator[Any], context: RpcContext) -> AsyncIterator[bytes]:
        del context
        async for request in requests:
            for response in servicer.ServerReflectionInfo((request,), None):
                yield response.SerializeToString()

    return StreamMethod(
        f"/{SERVICE_NAME}/ServerReflectionInfo", pb.ServerReflectionRequest.FromString, info
    )
