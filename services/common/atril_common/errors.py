"""The errors that cross a boundary, by kind.

    AtrilError
    ├── InvalidInputError          the request is wrong and will stay wrong
    ├── TooLargeError              a body, picture or batch over its limit
    ├── UnsupportedMediaTypeError  a content type or encoding we do not read
    ├── NotFoundError              no such model, version or route
    ├── AlreadyExistsError         the name is taken
    ├── NotReadyError              known, but loading, unloading or broken
    ├── LoadFailedError            a model that was to be loaded cannot be
    ├── OverloadedError            a bounded queue is full
    ├── QueueTimeoutError          waited too long to be run
    ├── DeadlineExceededError      the caller's own deadline passed
    ├── CancelledRequestError      the caller went away
    ├── UnsupportedError           part of the protocol that is not implemented
    ├── UpstreamUnavailableError   no inference replica could be reached
    ├── RefusedError               a quality bar or an invariant was not met
    └── InternalError              our fault; the details are in the log

A kind says what happened; `atril_common.status` says how each protocol tells it. The text of an
error is written for the person who sent the request: what was wrong, where, what came, what was
expected.
"""

from enum import Enum
from typing import ClassVar


class ErrorKind(Enum):
    """What went wrong, independent of any protocol."""

    INVALID_INPUT = "invalid_input"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    NOT_READY = "not_ready"
    LOAD_FAILED = "load_failed"
    OVERLOADED = "overloaded"
    QUEUE_TIMEOUT = "queue_timeout"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    UNSUPPORTED = "unsupported"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    REFUSED = "refused"
    INTERNAL = "internal"


class AtrilError(Exception):
    """Base of every error that a service reports to a caller; raise a subclass."""

    kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL


class InvalidInputError(AtrilError):
    """The request is malformed or does not fit the model."""

    kind = ErrorKind.INVALID_INPUT


class TooLargeError(AtrilError):
    """A body, a picture or a message is larger than the limit that the text names."""

    kind = ErrorKind.TOO_LARGE


class UnsupportedMediaTypeError(AtrilError):
    """The content type or content encoding is not one that the route reads."""

    kind = ErrorKind.UNSUPPORTED_MEDIA_TYPE


class NotFoundError(AtrilError):
    """The model, the version or the route does not exist."""

    kind = ErrorKind.NOT_FOUND


class AlreadyExistsError(AtrilError):
    """What was to be made is there already."""

    kind = ErrorKind.ALREADY_EXISTS


class NotReadyError(AtrilError):
    """The model is known but cannot answer now; the text gives the reason."""

    kind = ErrorKind.NOT_READY


class LoadFailedError(AtrilError):
    """A model that was to be loaded cannot be; the text gives the reason."""

    kind = ErrorKind.LOAD_FAILED


class OverloadedError(AtrilError):
    """A bounded queue is full; nothing was run, so the request may be retried."""

    kind = ErrorKind.OVERLOADED


class QueueTimeoutError(AtrilError):
    """The request waited longer in the queue than its policy allows and was not run."""

    kind = ErrorKind.QUEUE_TIMEOUT


class DeadlineExceededError(AtrilError):
    """The caller's deadline passed before the answer was there."""

    kind = ErrorKind.DEADLINE_EXCEEDED


class CancelledRequestError(AtrilError):
    """The caller cancelled the request."""

    kind = ErrorKind.CANCELLED


class UnsupportedError(AtrilError):
    """A part of the protocol that this server does not implement."""

    kind = ErrorKind.UNSUPPORTED


class UpstreamUnavailableError(AtrilError):
    """No inference replica answered."""

    kind = ErrorKind.UPSTREAM_UNAVAILABLE


class RefusedError(AtrilError):
    """A quality bar, a parity proof or an invariant of the repository was not met."""

    kind = ErrorKind.REFUSED


INTERNAL_ERROR = "internal error; the reason is in the server's log"
"""All that a caller is told of an error that nobody foresaw."""


class InternalError(AtrilError):
    """A fault of the service; its text carries no internals."""

    kind = ErrorKind.INTERNAL


def sample(value: object) -> str:
    """A short look at a value, for an error's text."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
