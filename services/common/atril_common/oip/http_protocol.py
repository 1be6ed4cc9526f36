"""The fast way of an inference request: from the socket to the port without ASGI.

uvicorn spends about as long on one ASGI request as LeNet-5 does on one picture. This protocol is
uvicorn's own (httptools), except that a plain `POST …/infer` (content length known, no content
coding) is decoded, queued and answered right here. Every other request goes the usual way to the
ASGI app, where `atril_common.oip.http` answers the same route through the same codec.
"""

import asyncio
import re
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from atril_common.oip.http_codec import HEADER_LENGTH
from atril_common.oip.http_coding import INLINE_BYTES
from atril_common.oip.http_infer import Accepted, InferHandler, WireResponse

INFER_ROUTE = re.compile(rb"/v2/models/([A-Za-z0-9_.\-]+)(?:/versions/([0-9]+))?/infer")

MAX_HEADER_BYTES = 64 * 1024
"""All header lines of one request together; neither httptools nor uvicorn limits them."""

MAX_CHUNKS = 65536
"""Chunks of one body (case E21); each costs far more than the byte it may carry."""


class _Exchange:
    """One fast request on a connection, from its headers to its answer.

    It stands in uvicorn's `cycle` slot and has the attributes that uvicorn reads there, so that
    pipelined requests queue behind it and a shutdown waits for it.
    """

    __slots__ = (
        "accept_encoding", "accepted", "chunks", "disconnected", "header_length", "keep_alive",
        "model", "response_complete", "version",
    )  # fmt: skip

    def __init__(
        self,
        route: tuple[str, str],
        header_length: bytes | None,
        accept_encoding: bytes | None,
        keep_alive: bool,
    ) -> None:
        self.model, self.version = route
        self.header_length = header_length
        self.accept_encoding = accept_encoding
        self.keep_alive = keep_alive
        self.chunks: list[bytes] = []
        self.accepted: Accepted | None = None
        self.response_complete = False
        self.disconnected = False

    @property
    def message_event(self) -> "_Exchange":
        """Uvicorn wakes a waiting ASGI task through this event; here nobody waits."""
        return self

    def set(self) -> None:
        """See `message_event`."""


class InferProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with the inference route answered in place."""

    def __init__(self, *, handler: InferHandler, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._handler = handler
        self._header_bytes = 0
        self._head_bytes = 0
        self._in_head = False
        self._chunks = 0
        self._refused = ""
        self._waiting: _Exchange | None = None
        self._route_url = b""
        self._route: tuple[str, str] | None = None

    def on_message_begin(self) -> None:
        """Start a request; uvicorn's ASGI scope is only built if the request goes there."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._header_bytes = 0
        self._chunks = 0
        self._in_head = True

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless what it is fed is a head without an end."""
        was_in_head = self._in_head
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        if was_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES:
                self.send_400_response("request head over the limit")
        else:
            self._head_bytes = 0

    def send_400_response(self, msg: str) -> None:
        """Tell what is not HTTP as the protocol tells errors, and close."""
        body = orjson.dumps({"error": self._refused or msg})
        self.transport.write(
            b"".join(
                (
                    STATUS_LINE[400],
                    b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body),
                    b"connection: close\r\n\r\n",
                    body,
                )
            )
        )
        self.transport.close()

    def on_response_complete(self) -> None:
        """Start what waits behind; a client that does not read is still not read from."""
        super().on_response_complete()
        if self.flow.write_paused:
            self.flow.pause_reading()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header line, within the limit."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("header lines over the limit")  # httptools' error: uvicorn answers 400
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Choose the request's way."""
        self._in_head = False
        exchange = self._fast_exchange()
        if exchange is not None:
            self.cycle = exchange  # type: ignore[assignment]  # stands in for uvicorn's cycle
            return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers = headers
        self.scope["headers"] = headers
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Count the chunks of a body, within the limit."""
        self._chunks += 1
        if self._chunks > MAX_CHUNKS + 1:  # the last one is empty
            self._refused = f"request body has more than {MAX_CHUNKS} chunks"
            raise ValueError(self._refused)  # httptools' error: uvicorn answers 400 and closes

    def on_body(self, body: bytes) -> None:
        """Collect the body of a fast request; leave others to uvicorn."""
        exchange: object = self.cycle
        if isinstance(exchange, _Exchange):
            if exchange.accepted is None:
                exchange.chunks.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Submit a fast request; leave others to uvicorn."""
        exchange: object = self.cycle
        if not isinstance(exchange, _Exchange):
            super().on_message_complete()
            return
        if exchange.response_complete:
            return
        chunks = exchange.chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        begun = self._handler.begin(exchange.model, exchange.version, body, exchange.header_length)
        if isinstance(begun, WireResponse):
            self._answer(exchange, begun)
            return
        exchange.accepted = begun
        self._waiting = exchange
        begun.future.add_done_callback(lambda _: self._finish(exchange, begun))

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the request of a caller who went away, if it has not been run."""
        super().connection_lost(exc)
        exchange = self._waiting
        if exchange is not None and exchange.accepted is not None:
            exchange.disconnected = True
            exchange.accepted.future.cancel()

    def pause_writing(self) -> None:
        """Read no further requests from a client that does not read its answers."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self.flow.resume_reading()

    def _fast_exchange(self) -> _Exchange | None:
        """The exchange of a plain inference request, or None for any other."""
        if self.parser.get_method() != b"POST":
            return None
        url = self.url
        if url != self._route_url:
            match = INFER_ROUTE.fullmatch(url)
            self._route_url = url
            self._route = (match[1].decode(), (match[2] or b"").decode()) if match else None
        if self._route is None:
            return None
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.pipeline or self.parser.should_upgrade():
            return None
        headers = dict(self.headers)
        length = headers.get(b"content-length")
        if (
            length is None
            or self.expect_100_continue
            or b"content-encoding" in headers
            or int(length) > self._handler.max_body_bytes
        ):
            return None
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        return _Exchange(
            self._route, headers.get(HEADER_LENGTH), headers.get(b"accept-encoding"), keep_alive
        )

    def _finish(self, exchange: _Exchange, accepted: Accepted) -> None:
        if exchange.disconnected:
            self._waiting = None
            return
        response = self._handler.finish(accepted)
        if exchange.accept_encoding is not None:
            coding = response.coding_for(exchange.accept_encoding.decode("latin-1"))
            if coding is not None and len(response.body) > INLINE_BYTES:
                encoding = self.loop.run_in_executor(None, response.encoded, coding)
                encoding.add_done_callback(lambda done: self._finish_encoded(exchange, done))
                return
            if coding is not None:
                response = response.encoded(coding)
        self._waiting = None
        self._answer(exchange, response)

    def _finish_encoded(
        self, exchange: _Exchange, encoding: "asyncio.Future[WireResponse]"
    ) -> None:
        self._waiting = None
        if not exchange.disconnected:
            self._answer(exchange, encoding.result())

    def _answer(self, exchange: _Exchange, response: WireResponse) -> None:
        status, body, header_length, retry_after_s, extra = response
        if header_length is not None:
            head = (
                b"content-type: application/octet-stream\r\n"
                b"inference-header-content-length: %d\r\ncontent-length: %d\r\n"
                % (header_length, len(body))
            )
        else:
            head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        if retry_after_s is not None:
            head += b"retry-after: %d\r\n" % retry_after_s
        for name, value in extra:
            head += b"%b: %b\r\n" % (name, value)
        if not exchange.keep_alive:
            head += b"connection: close\r\n"
        self.transport.write(b"".join((STATUS_LINE[status], head, b"\r\n", body)))
        exchange.response_complete = True
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()
