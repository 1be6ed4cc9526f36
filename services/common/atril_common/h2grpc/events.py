"""What a connection reports of its peer."""

from typing import Generic, NamedTuple, Protocol, TypeVar

from atril_common.h2grpc.frames import ErrorCode


class Head(Protocol):
    """What the connection must know of a request."""

    @property
    def content_length(self) -> int | None:
        """Length of the body, where it was announced."""


HeadT = TypeVar("HeadT", bound=Head)


class RequestReceived(NamedTuple, Generic[HeadT]):
    """A stream was opened."""

    stream_id: int
    head: HeadT
    ended: bool


class ResponseReceived(NamedTuple, Generic[HeadT]):
    """The fields that begin an answer to a client, or those that end it."""

    stream_id: int
    head: HeadT
    ended: bool


class DataReceived(NamedTuple):
    """A part of a body, or its end; `cost` is what it took of the stream's window."""

    stream_id: int
    data: bytes
    cost: int
    ended: bool


class StreamEnded(NamedTuple):
    """The peer gave up a stream, or broke a rule in it; no answer can be sent."""

    stream_id: int
    code: int


class ConnectionEnded(NamedTuple):
    """The connection is over: the GOAWAY is in the output, every stream is gone."""

    code: ErrorCode
    text: str


Event = (
    RequestReceived[HeadT] | ResponseReceived[HeadT] | DataReceived | StreamEnded | ConnectionEnded
)
