"""What a gRPC service is to this server: its methods, and what a handler knows of an RPC."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc
from google.protobuf.message import DecodeError

from atril_common.errors import INTERNAL_ERROR, AtrilError
from atril_common.h2grpc.messages import Metadata, RpcStatusError
from atril_common.status import STATUS

logger = logging.getLogger(__name__)


class RpcContext:
    """One RPC, as its handler sees it.

    Attributes:
        metadata: the request's header fields.
        deadline_s: when the caller stops waiting, on the loop's clock; None without a deadline.
        peer: the caller's address.
        initial_metadata: header fields of the answer; a handler adds to it before it answers.
    """

    __slots__ = ("deadline_s", "initial_metadata", "metadata", "peer")

    def __init__(self, metadata: Metadata, deadline_s: float | None, peer: str) -> None:
        self.metadata = metadata
        self.deadline_s = deadline_s
        self.peer = peer
        self.initial_metadata: list[tuple[str, str | bytes]] | None = None


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """One message in, one out.

    Attributes:
        path: "/package.Service/Method".
        parse: makes the request of its bytes.
        handle: answers with the serialized response; a coroutine function is run in a task, a plain
            function may return a future and then costs no task.
        max_message_bytes: largest request, where it is not the server's limit.
    """

    path: str
    parse: Callable[[bytes], Any]
    handle: Callable[[Any, RpcContext], Awaitable[bytes]]
    max_message_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """Any number of messages in, any number out.

    Attributes:
        path: "/package.Service/Method".
        parse: makes a request of its bytes.
        handle: an asynchronous generator of serialized responses over the requests.
    """

    path: str
    parse: Callable[[bytes], Any]
    handle: Callable[[AsyncIterator[Any], RpcContext], AsyncIterator[bytes]]
    max_message_bytes: ClassVar[None] = None


Method = UnaryMethod | StreamMethod


def status_of(error: BaseException, path: str) -> RpcStatusError:
    """The status that tells a caller of an error; one that nobody foresaw goes to the log."""
    if isinstance(error, RpcStatusError):
        return error
    if isinstance(error, AtrilError):
        return RpcStatusError(STATUS[error.kind].grpc, str(error))
    if isinstance(error, asyncio.CancelledError):
        return RpcStatusError(grpc.StatusCode.CANCELLED, "the request was cancelled")
    logger.error("rpc_failed", exc_info=error, extra={"path": path})
    return RpcStatusError(grpc.StatusCode.INTERNAL, INTERNAL_ERROR)


def parse_message(method: Method, message: bytes) -> Any:
    """A method's request.

    Raises:
        RpcStatusError: the bytes are no such message.
    """
    try:
        return method.parse(message)
    except DecodeError as err:
        raise RpcStatusError(
            grpc.StatusCode.INTERNAL, f"{method.path}: the request message cannot be parsed"
        ) from err
