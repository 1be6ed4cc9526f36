"""gRPC over HTTP/2: messages in DATA frames, timeouts, status texts and metadata on the wire."""

import base64
import binascii
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import grpc

from atril_common.h2grpc.headers import (
    Field,
    MalformedRequestError,
    check_field,
    encode_headers,
)

PREFIX_BYTES: Final = 5

ACCEPTED_ENCODINGS: Final = "identity, deflate, gzip"

_CODES: Final = {str(code.value[0]).encode(): code for code in grpc.StatusCode}
_CODE_OF_HTTP: Final = {
    b"400": grpc.StatusCode.INTERNAL,
    b"401": grpc.StatusCode.UNAUTHENTICATED,
    b"403": grpc.StatusCode.PERMISSION_DENIED,
    b"404": grpc.StatusCode.UNIMPLEMENTED,
    b"429": grpc.StatusCode.UNAVAILABLE,
    b"502": grpc.StatusCode.UNAVAILABLE,
    b"503": grpc.StatusCode.UNAVAILABLE,
    b"504": grpc.StatusCode.UNAVAILABLE,
}
"""What gRPC makes of the HTTP status of something between a client and its server."""

Metadata = Mapping[str, str | bytes]
"""Request metadata by name in lower case; the values of `-bin` names are bytes."""

_WINDOW_BITS: Final = {"gzip": 31, "deflate": 15}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_UNESCAPED: Final = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}~"
"""Printable ASCII but the percent sign; letters, digits and `-._~` are never escaped."""


class RpcStatusError(Exception):
    """An RPC ends with this status; a handler may raise it where no `AtrilError` fits."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class ResponseHead(NamedTuple):
    """What a client must know of the fields that begin an answer, or end it.

    `code` is None as long as the RPC has not ended.
    """

    code: grpc.StatusCode | None
    details: str = ""
    content_length: int | None = None


class MessageReader:
    """Takes the body of one stream apart into messages.

    Args:
        max_bytes: of one message, as it came and decompressed.
        encoding: the request's `grpc-encoding`.
    """

    def __init__(self, max_bytes: int, encoding: str) -> None:
        self._max_bytes = max_bytes
        self._encoding = encoding
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """What has come of a message that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes.

        Raises:
            RpcStatusError: a message is too large, or compressed in a way we do not read.
        """
        buffer = self._buffer
        buffer += data
        messages = []
        while len(buffer) >= PREFIX_BYTES:
            flag, length = buffer[0], int.from_bytes(buffer[1:PREFIX_BYTES], "big")
            check_size(length, self._max_bytes)
            end = PREFIX_BYTES + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                message = bytes(view[PREFIX_BYTES:end])
            del buffer[:end]
            messages.append(self._plain(message, flag) if flag else message)
        return messages

    def _plain(self, message: bytes, flag: int) -> bytes:
        if flag != 1:
            raise RpcStatusError(grpc.StatusCode.INTERNAL, f"invalid compressed flag {flag}")
        bits = _WINDOW_BITS.get(self._encoding)
        if bits is None:
            raise RpcStatusError(
                grpc.StatusCode.INTERNAL, "a compressed message without a grpc-encoding"
            )
        inflater = zlib.decompressobj(bits)
        try:
            plain = inflater.decompress(message, self._max_bytes + 1)
        except zlib.error as err:
            raise RpcStatusError(grpc.StatusCode.INTERNAL, f"broken {self._encoding} data") from err
        check_size(len(plain), self._max_bytes)
        if not inflater.eof or inflater.unused_data:
            raise RpcStatusError(grpc.StatusCode.INTERNAL, f"broken {self._encoding} data")
        return plain


def check_size(size: int, max_bytes: int) -> None:
    """Refuse a message over the limit, in grpcio's words.

    Raises:
        RpcStatusError: RESOURCE_EXHAUSTED; the text names both sizes.
    """
    if size > max_bytes:
        raise RpcStatusError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"Received message larger than max ({size} vs. {max_bytes})",
        )


def frame_message(message: bytes) -> bytes:
    """A message with its prefix, not compressed."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


def timeout_s(value: bytes) -> float:
    """A `grpc-timeout` in seconds.

    Raises:
        RpcStatusError: it is none.
    """
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise RpcStatusError(
            grpc.StatusCode.INTERNAL, f"malformed grpc-timeout {value.decode('latin-1')!r}"
        )
    return int(match[1]) * _UNIT_S[match[2]]


def percent_encode(text: str) -> bytes:
    """A `grpc-message`: UTF-8 with everything but printable ASCII escaped."""
    return quote_from_bytes(text.encode("utf-8", "replace"), safe=_UNESCAPED).encode()


def metadata_from_fields(fields: Iterable[Field]) -> Metadata:
    """The metadata of a request: its regular fields; repeated text is joined with a comma.

    Raises:
        MalformedRequestError: a binary value is not base64.
    """
    metadata: dict[str, str | bytes] = {}
    for name_bytes, value in fields:
        name = name_bytes.decode("latin-1")
        if name.startswith(":"):
            continue
        if name.endswith("-bin"):
            metadata[name] = _binary(value.split(b",")[-1])
            continue
        text = value.decode("latin-1")
        before = metadata.get(name)
        metadata[name] = text if before is None else f"{before!s},{text}"
    return MappingProxyType(metadata)


def response_head(fields: Iterable[Field]) -> ResponseHead:
    """What the fields of an answer say to a client."""
    values = dict(fields)
    status = values.get(b"grpc-status")
    if status is not None:
        text = unquote_to_bytes(values.get(b"grpc-message", b"")).decode("utf-8", "replace")
        return ResponseHead(_CODES.get(status, grpc.StatusCode.UNKNOWN), text)
    http = values.get(b":status", b"200")
    if http == b"200":
        return ResponseHead(None)
    code = _CODE_OF_HTTP.get(http, grpc.StatusCode.UNKNOWN)
    return ResponseHead(code, f"an answer with HTTP status {http.decode('latin-1')}, not of gRPC")


def timeout_value(seconds: float) -> bytes:
    """A `grpc-timeout`, rounded up: few values, so that a server sees the same fields again."""
    if seconds >= 10:
        return b"%dS" % min(math.ceil(seconds), 99_999_999)
    if seconds >= 1:
        return b"%dm" % (math.ceil(seconds * 10) * 100)
    return b"%dm" % max(1, math.ceil(seconds * 1000))


def fields_from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> list[Field]:
    """Metadata of an answer as header fields."""
    return [
        (
            name.lower().encode("ascii"),
            base64.b64encode(value).rstrip(b"=")
            if isinstance(value, bytes)
            else value.encode("latin-1"),
        )
        for name, value in metadata
    ]


def response_block(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """The header block that begins an answer with metadata.

    Raises:
        ValueError: a name or a value cannot be sent.
    """
    fields = fields_from_metadata(metadata)
    for name, value in fields:
        check_field(name, value)
    return encode_headers((*RESPONSE_FIELDS, *fields))


def status_fields(code: grpc.StatusCode, details: str) -> list[Field]:
    """The trailers of an answer."""
    fields = [(b"grpc-status", str(code.value[0]).encode())]
    if details:
        fields.append((b"grpc-message", percent_encode(details)))
    return fields


RESPONSE_FIELDS: Final = ((b":status", b"200"), (b"content-type", b"application/grpc"))

RESPONSE_BLOCK: Final = encode_headers(RESPONSE_FIELDS)

OK_BLOCK: Final = encode_headers([(b"grpc-status", b"0")])


def _binary(value: bytes) -> bytes:
    value = value.strip()
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as err:
        raise MalformedRequestError("a binary header that is not base64") from err
