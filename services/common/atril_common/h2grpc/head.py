"""What the header block of a request says: which method, until when, in which coding.

A head is made once for equal header blocks (`headers.HeaderDecoder`), so everything that follows
from the headers alone is decided here, refusals included.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc

from atril_common.h2grpc.headers import (
    Field,
    MalformedRequestError,
    check_request,
    encode_headers,
)
from atril_common.h2grpc.messages import (
    ACCEPTED_ENCODINGS,
    RESPONSE_FIELDS,
    Metadata,
    RpcStatusError,
    metadata_from_fields,
    status_fields,
    timeout_s,
)
from atril_common.h2grpc.rpc import Method

_MAX_LENGTH_DIGITS = 15
_PATH_SHOWN = 200


@dataclass(frozen=True, slots=True)
class CallHead:
    """The head of a request that names a method."""

    method: Method
    metadata: Metadata
    timeout_s: float | None
    encoding: str
    content_length: int | None


@dataclass(frozen=True, slots=True)
class RefusedHead:
    """The head of a request that is answered at once, with this header block."""

    block: bytes
    content_length: int | None


RequestHead = CallHead | RefusedHead


def head_parser(methods: Mapping[str, Method]) -> Callable[[list[Field]], RequestHead]:
    """The function that reads heads of requests for these methods, by path."""

    def parse(fields: list[Field]) -> RequestHead:
        pseudo = check_request(fields)
        metadata = metadata_from_fields(fields)
        length = _content_length(metadata)
        if pseudo[b":method"] != b"POST":
            return RefusedHead(encode_headers([(b":status", b"405"), (b"allow", b"POST")]), length)
        if not _is_grpc(str(metadata.get("content-type", ""))):
            return RefusedHead(
                encode_headers([(b":status", b"415"), (b"accept-post", b"application/grpc")]),
                length,
            )
        try:
            method = _method(methods, pseudo[b":path"].decode("latin-1"))
            return CallHead(method, metadata, _timeout_s(fields), _encoding(metadata), length)
        except RpcStatusError as err:
            accepts = (b"grpc-accept-encoding", ACCEPTED_ENCODINGS.encode())
            status = status_fields(err.code, err.details)
            return RefusedHead(encode_headers((*RESPONSE_FIELDS, accepts, *status)), length)

    return parse


def _is_grpc(content_type: str) -> bool:
    kind = content_type.split(";", 1)[0].strip().lower()
    return kind in ("application/grpc", "application/grpc+proto")


def _method(methods: Mapping[str, Method], path: str) -> Method:
    method = methods.get(path)
    if method is None:
        raise RpcStatusError(
            grpc.StatusCode.UNIMPLEMENTED, f"Method not found: {path[:_PATH_SHOWN]}"
        )
    return method


def _timeout_s(fields: list[Field]) -> float | None:
    value = dict(fields).get(b"grpc-timeout")
    if value is None:
        return None
    timeout = timeout_s(value)
    if not timeout:
        raise RpcStatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    return timeout


def _encoding(metadata: Metadata) -> str:
    encoding = str(metadata.get("grpc-encoding", "identity"))
    if encoding not in ("identity", "gzip", "deflate"):
        raise RpcStatusError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"grpc-encoding {encoding!r} is not supported; {ACCEPTED_ENCODINGS} are",
        )
    return encoding


def _content_length(metadata: Metadata) -> int | None:
    value = metadata.get("content-length")
    if value is None:
        return None
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_LENGTH_DIGITS):
        raise MalformedRequestError(f"content-length {text!r}")
    return int(text)
