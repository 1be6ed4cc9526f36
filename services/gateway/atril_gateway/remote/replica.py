"""One replica: its address, its connection, how it is doing, and RPCs to it."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from atril_common.errors import (
    AlreadyExistsError,
    AtrilError,
    CancelledRequestError,
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    RefusedError,
    TooLargeError,
    UnsupportedError,
    UpstreamUnavailableError,
)
from atril_common.h2grpc.client import ConnectionLostError, GrpcClient
from atril_common.h2grpc.messages import RpcStatusError

PROBE_TIMEOUT_S = 2.0

ERROR_OF_CODE: dict[grpc.StatusCode, type[AtrilError]] = {
    grpc.StatusCode.CANCELLED: CancelledRequestError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: InternalError,
    grpc.StatusCode.UNAUTHENTICATED: InternalError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLargeError,
    grpc.StatusCode.FAILED_PRECONDITION: RefusedError,
    grpc.StatusCode.ABORTED: InternalError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInputError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNAVAILABLE: NotReadyError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}
"""What a replica's status means to our callers; total over the codes but OK.

A replica that says UNAVAILABLE can be reached (a full queue, a model that loads); one that cannot
is an `UpstreamUnavailableError`.
"""

STREAM_STATUS = (("triton_grpc_error", "true"),)
"""Asks for a stream that fails to end with a status instead of a text in a message."""

_PATH = "/inference.GRPCInferenceService/"


class Replica:
    """One address.

    Attributes:
        ready: whether it takes requests, as far as is known.
        outstanding: calls under way.
        sequences: sequences whose state it holds.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.ready = False
        self.outstanding = 0
        self.sequences = 0
        host, _, port = address.rpartition(":")
        self._client = GrpcClient(host.strip("[]"), int(port))

    async def call(self, method: str, request: Any, deadline_s: float) -> Any:
        """One unary RPC of the protocol, answered by a point on the loop's clock.

        Raises:
            AtrilError: the replica's status, translated.
            UpstreamUnavailableError: it cannot be reached, or was lost before it answered.
            DeadlineExceededError: it did not answer in time.
        """
        message = request.SerializeToString()
        with self._calling(deadline_s) as timeout_s:
            answer = await self._client.unary(_PATH + method, message, timeout_s)
        return _parsed(f"{method}Response", answer)

    async def stream_infer(self, request: Any, deadline_s: float) -> AsyncGenerator[Any, None]:
        """`ModelStreamInfer` with one request: its responses; closing the iterator cancels it.

        Raises:
            AtrilError: as for `call`, at the first step or later.
        """
        message = request.SerializeToString()
        with self._calling(deadline_s) as timeout_s:
            answers = self._client.stream(
                _PATH + "ModelStreamInfer", message, timeout_s, STREAM_STATUS
            )
            async with aclosing(answers):
                async for data in answers:
                    answer = _parsed("ModelStreamInferResponse", data)
                    if answer.error_message:
                        raise InternalError(answer.error_message)
                    yield answer.infer_response

    async def probe(self) -> None:
        """Ask whether it is ready."""
        deadline_s = asyncio.get_running_loop().time() + PROBE_TIMEOUT_S
        try:
            answer = await self.call("ServerReady", pb.ServerReadyRequest(), deadline_s)
        except AtrilError:
            self.ready = False
        else:
            self.ready = answer.ready

    async def close(self) -> None:
        """Close the connection; calls under way are lost."""
        await self._client.close()

    @contextmanager
    def _calling(self, deadline_s: float) -> Iterator[float]:
        """Count a call and translate how it fails; yields the seconds left for it."""
        timeout_s = deadline_s - asyncio.get_running_loop().time()
        if timeout_s <= 0:
            raise DeadlineExceededError("the deadline passed before the request could be sent")
        self.outstanding += 1
        try:
            yield timeout_s
        except ConnectionLostError as err:
            self.ready = False  # until the next probe says otherwise
            raise UpstreamUnavailableError(f"replica {self.address}: {err}") from err
        except RpcStatusError as err:
            raise ERROR_OF_CODE[err.code](err.details or err.code.name) from err
        finally:
            self.outstanding -= 1


def _parsed(name: str, data: bytes) -> Any:
    try:
        return getattr(pb, name).FromString(data)
    except DecodeError as err:
        raise InternalError(f"a replica sent no {name}") from err
