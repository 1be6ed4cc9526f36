"""How each protocol tells each kind of error: one table, total over `ErrorKind`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import grpc

from atril_common.errors import ErrorKind

RETRY_AFTER_S = 1
"""Value of the Retry-After header on answers that invite a retry."""


class Status(NamedTuple):
    """One kind of error on the wire.

    `oip` is the HTTP status on the Open Inference Protocol's routes, which have no 413 or 415
    (protocol reference 2.3, 2.4); `task` is the HTTP status on the `/v1` routes.
    """

    oip: int
    task: int
    grpc: grpc.StatusCode
    retry: bool = False


STATUS: Mapping[ErrorKind, Status] = MappingProxyType(
    {
        ErrorKind.INVALID_INPUT: Status(400, 400, grpc.StatusCode.INVALID_ARGUMENT),
        ErrorKind.TOO_LARGE: Status(400, 413, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ErrorKind.UNSUPPORTED_MEDIA_TYPE: Status(501, 415, grpc.StatusCode.UNIMPLEMENTED),
        ErrorKind.NOT_FOUND: Status(404, 404, grpc.StatusCode.NOT_FOUND),
        ErrorKind.ALREADY_EXISTS: Status(400, 409, grpc.StatusCode.ALREADY_EXISTS),
        ErrorKind.LOAD_FAILED: Status(500, 500, grpc.StatusCode.INTERNAL),
        ErrorKind.NOT_READY: Status(503, 503, grpc.StatusCode.UNAVAILABLE, retry=True),
        ErrorKind.OVERLOADED: Status(503, 503, grpc.StatusCode.UNAVAILABLE, retry=True),
        ErrorKind.QUEUE_TIMEOUT: Status(503, 503, grpc.StatusCode.UNAVAILABLE, retry=True),
        ErrorKind.DEADLINE_EXCEEDED: Status(504, 504, grpc.StatusCode.DEADLINE_EXCEEDED),
        ErrorKind.CANCELLED: Status(400, 400, grpc.StatusCode.CANCELLED),
        ErrorKind.UNSUPPORTED: Status(501, 501, grpc.StatusCode.UNIMPLEMENTED),
        ErrorKind.UPSTREAM_UNAVAILABLE: Status(503, 503, grpc.StatusCode.UNAVAILABLE, retry=True),
        ErrorKind.REFUSED: Status(409, 409, grpc.StatusCode.FAILED_PRECONDITION),
        ErrorKind.INTERNAL: Status(500, 500, grpc.StatusCode.INTERNAL),
    }
)
