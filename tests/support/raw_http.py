"""HTTP/1.1 over a bare socket: for what no well-behaved client would send."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

TIMEOUT_S = 20.0


class RawResponse(NamedTuple):
    """A response as it was read from the socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class RawConnection:
    """A connection that sends exactly the bytes it is given."""

    def __init__(self, http_url: str) -> None:
        parts = urlsplit(http_url)
        assert parts.hostname
        assert parts.port
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def send(self, *parts: bytes) -> None:
        """Send the parts in one piece."""
        self.socket.sendall(b"".join(parts))

    def read_response(self) -> RawResponse:
        """Read one response with a content length."""
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        status = int(status_line.split(" ")[1])
        length = 0 if status < 200 else int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            self._fill()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return RawResponse(status, headers, body)

    def is_closed(self) -> bool:
        """Whether the server has closed the connection and sent nothing more; waits for it."""
        try:
            return not self._buffer and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def _fill(self) -> None:
        chunk = self.socket.recv(65536)
        if not chunk:
            raise ConnectionError(f"closed after {self._buffer!r}")
        self._buffer += chunk


@contextmanager
def raw_connection(http_url: str) -> Iterator[RawConnection]:
    """A bare connection to a server."""
    connection = RawConnection(http_url)
    try:
        yield connection
    finally:
        connection.close()


def request_bytes(
    method: str, path: str, body: bytes = b"", *headers: str, version: str = "1.1"
) -> bytes:
    """A request with its content length; further headers as `Name: value`."""
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *headers]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def infer_bytes(model_name: str, message: dict[str, Any], *headers: str) -> bytes:
    """A whole inference request in JSON."""
    body = json.dumps(message).encode()
    return request_bytes("POST", f"/v2/models/{model_name}/infer", body, *headers)
