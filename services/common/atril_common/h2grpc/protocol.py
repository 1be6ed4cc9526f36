"""One client's connection on the event loop: bytes between its transport and `Connection`."""

import asyncio
from dataclasses import dataclass
from typing import Protocol, cast

import grpc

from atril_common.h2grpc.calls import Call, UnaryCall
from atril_common.h2grpc.connection import Connection
from atril_common.h2grpc.events import ConnectionEnded, DataReceived, Event, RequestReceived
from atril_common.h2grpc.frames import ErrorCode
from atril_common.h2grpc.head import RefusedHead, RequestHead
from atril_common.h2grpc.messages import RpcStatusError
from atril_common.h2grpc.outgoing import OUTPUT_BYTES
from atril_common.h2grpc.rpc import UnaryMethod
from atril_common.h2grpc.stream_calls import StreamCall

REFILL_PER_S = 1000
"""What a second adds to a peer's budget: 100 cancelled requests, or 1000 PINGs."""

_LINGER_S = 2.0
_JOIN_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a connection may take for what.

    Attributes:
        max_message_bytes: of one request message.
        max_buffered_bytes: of all incomplete requests of a connection.
        handshake_s: for the preface, and for each header block.
        keepalive_idle_s: silence after which the peer is asked for a sign of life.
        keepalive_timeout_s: silence after that ends the connection.
        drain_ping_s: how long an announced end waits for the peer to have seen it.
    """

    max_message_bytes: int
    max_buffered_bytes: int
    keepalive_idle_s: float | None
    handshake_s: float = 10.0
    keepalive_timeout_s: float = 20.0
    drain_ping_s: float = 2.0


class Owner(Protocol):
    """Who keeps the connections."""

    def opened(self, link: "GrpcProtocol") -> None:
        """A connection was made."""

    def lost(self, link: "GrpcProtocol") -> None:
        """A connection is gone."""


class GrpcProtocol(asyncio.Protocol):
    """One connection; `tick` must be called about once a second."""

    def __init__(
        self, connection: Connection[RequestHead], limits: Limits, owner: Owner, age_s: float | None
    ) -> None:
        self.connection = connection
        self.loop = asyncio.get_running_loop()
        self.peer = ""
        self.max_message_bytes = limits.max_message_bytes
        self.max_buffered_bytes = limits.max_buffered_bytes
        self.buffered_bytes = 0
        self.calls: dict[int, Call] = {}
        self._limits = limits
        self._owner = owner
        self._flushing = False
        self._heard = False
        now_s = self.loop.time()
        self._heard_s = self._ticked_s = now_s
        self._ends_s = None if age_s is None else now_s + age_s
        self._block_since_s = now_s
        self._block_awaited: int | None = 0
        self._asked = False
        self._drained_s: float | None = None
        self._closed_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client with our SETTINGS."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop does not subclass it
        self._transport.set_write_buffer_limits(OUTPUT_BYTES)
        self.peer = _address(transport.get_extra_info("peername"))
        self._owner.opened(self)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take what came, answer what can be answered at once, in one write."""
        self._heard = True
        if self._closed_s is not None:
            return
        self._flushing = True
        for event in self.connection.receive(data):
            self._on_event(event)
        self._resume_streams()
        self._flush()

    def pause_writing(self) -> None:
        """Read nothing from a client that does not read; let its streams wait."""
        self.connection.held = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.connection.held = False
        self._transport.resume_reading()
        self.connection.pump()
        self._resume_streams()
        self.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what the client will not see."""
        del exc
        self._closed_s = self.loop.time()
        self.connection.closed = True
        self._cancel_calls()
        self._owner.lost(self)

    def wake(self) -> None:
        """Write what the connection has to send, at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def drain(self) -> None:
        """Announce the end, answer what is under way, close."""
        if self._drained_s is None and not self.connection.closed:
            self._drained_s = self._ticked_s
            self.connection.drain()
            self.wake()

    def abandon(self) -> None:
        """End without waiting: what is under way is cancelled."""
        for call in list(self.calls.values()):
            call.fail(RpcStatusError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down"))
        self.connection.finish()
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Drop the connection with what the client has not read."""
        self._transport.abort()

    def tick(self, now_s: float) -> None:
        """Look after time limits."""
        self.connection.refill(int(REFILL_PER_S * (now_s - self._ticked_s)))
        self._ticked_s = now_s
        if self._closed_s is not None:
            if now_s - self._closed_s > _LINGER_S:
                self._transport.abort()
            return
        self._limit_header_block(now_s)
        self._keep_alive(now_s)
        if self._ends_s is not None and now_s >= self._ends_s:
            self.drain()
        if self._drained_s is not None and now_s - self._drained_s > self._limits.drain_ping_s:
            self.connection.finish()
        self._flush()

    def _limit_header_block(self, now_s: float) -> None:
        awaited = self.connection.header_block_awaited
        if awaited is None or awaited != self._block_awaited:
            self._block_awaited, self._block_since_s = awaited, now_s
        elif now_s - self._block_since_s > self._limits.handshake_s:
            self.connection.fail(ErrorCode.ENHANCE_YOUR_CALM, "a header block took too long")
            self._cancel_calls()

    def _keep_alive(self, now_s: float) -> None:
        idle_s = self._limits.keepalive_idle_s
        if self._heard or idle_s is None:
            self._heard, self._asked, self._heard_s = False, False, now_s
        elif self._asked and now_s - self._heard_s > idle_s + self._limits.keepalive_timeout_s:
            self._cancel_calls()
            self._transport.abort()
        elif not self._asked and now_s - self._heard_s > idle_s:
            self._asked = True
            self.connection.ping()

    def _on_event(self, event: Event[RequestHead]) -> None:
        kind = type(event)
        if kind is DataReceived:
            stream_id, data, cost, ended = event  # type: ignore[misc]  # a named tuple of this kind
            call = self.calls.get(stream_id)
            if call is not None:
                call.feed(data, cost, ended=ended)
        elif isinstance(event, RequestReceived):
            self._on_request(event)
        elif isinstance(event, ConnectionEnded):
            self._cancel_calls()
        else:
            call = self.calls.get(event.stream_id)
            if call is not None:
                call.cancel()

    def _on_request(self, event: RequestReceived[RequestHead]) -> None:
        stream_id, head, ended = event
        if isinstance(head, RefusedHead):
            self.connection.end(stream_id, head.block)
            return
        if type(head.method) is UnaryMethod:
            call: Call = UnaryCall(self, stream_id, head)
            self.calls[stream_id] = call
        else:
            stream_call = StreamCall(self, stream_id, head)
            call = self.calls[stream_id] = stream_call
            stream_call.start()
        if ended:
            call.feed(b"", 0, ended=True)

    def _resume_streams(self) -> None:
        drained = self.connection.drained
        if drained:
            for stream_id in drained:
                call = self.calls.get(stream_id)
                if call is not None:
                    call.drained()
            drained.clear()

    def _cancel_calls(self) -> None:
        for call in list(self.calls.values()):
            call.cancel()

    def _flush(self) -> None:
        self._flushing = False
        connection = self.connection
        if self._closed_s is not None:
            return
        while True:
            out = connection.take_output()
            if not out:
                break
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            connection.pump()
        if connection.drained:
            self._resume_streams()
        finished = connection.final_stream_id is not None and not connection.open_streams
        if connection.closed or finished:
            self._finish_writing()

    def _finish_writing(self) -> None:
        """Close our side; the client closes the other, or `tick` does.

        Closing the socket while the client still sends would make the kernel reset the connection,
        and the client could lose the answers that it has not read.
        """
        self._closed_s = self.loop.time()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()


def _address(name: object) -> str:
    """A socket's name as text: "1.2.3.4:5", "[::1]:5", or the path of a Unix socket."""
    if not isinstance(name, tuple):
        return str(name)
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
