"""One replica: its address, its channel, how it is doing, and RPCs to it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

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

_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Replicas on one address must not share a connection through the process-wide pool.
    ("grpc.use_local_subchannel_pool", 1),
)


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
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._closed = False

    async def call(self, method: str, request: Any, deadline_s: float) -> Any:
        """One unary RPC of the protocol, answered by a point on the loop's clock.

        Raises:
            AtrilError: the replica's status, translated.
            UpstreamUnavailableError: it cannot be reached, or was lost before it answered.
            DeadlineExceededError: it did not answer in time.
        """
        with self._calling(deadline_s) as timeout_s:
            return await getattr(self._stub, method)(request, timeout=timeout_s)

    async def stream_infer(self, request: Any, deadline_s: float) -> AsyncGenerator[Any, None]:
        """`ModelStreamInfer` with one request: its responses; closing the iterator cancels it.

        Raises:
            AtrilError: as for `call`, at the first step or later.
        """
        with self._calling(deadline_s) as timeout_s:
            answers = self._stub.ModelStreamInfer(
                iter([request]), timeout=timeout_s, metadata=STREAM_STATUS
            )
            try:
                async for answer in answers:
                    if answer.error_message:
                        raise InternalError(answer.error_message)
                    yield answer.infer_response
            finally:
                answers.cancel()

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
        """Close the channel; calls under way end as cancelled."""
        self._closed = True
        await self._channel.close()

    @contextlib.contextmanager
    def _calling(self, deadline_s: float) -> Iterator[float]:
        """Count a call and translate how it fails; yields the seconds left for it."""
        if self._closed:
            raise UpstreamUnavailableError(f"replica {self.address} is gone")
        timeout_s = deadline_s - asyncio.get_running_loop().time()
        if timeout_s <= 0:
            raise DeadlineExceededError("the deadline passed before the request could be sent")
        self.outstanding += 1
        try:
            yield timeout_s
        except grpc.aio.AioRpcError as err:
            raise self._error_of(err) from err
        finally:
            self.outstanding -= 1

    def _error_of(self, err: grpc.aio.AioRpcError) -> AtrilError:
        code, text = err.code(), err.details() or err.code().name
        # A status that the replica sent leaves the channel as it is; only grpc's own do not.
        if code is grpc.StatusCode.UNAVAILABLE and not self._connected():
            self.ready = False  # until the next probe says otherwise
            return UpstreamUnavailableError(f"replica {self.address}: {text}")
        return ERROR_OF_CODE[code](text)

    def _connected(self) -> bool:
        return bool(self._channel.get_state() is grpc.ChannelConnectivity.READY)
