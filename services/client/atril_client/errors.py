"""The errors of the SDK, one class a status.

AtrilClientError
├── InvalidRequestError        400  the request is wrong and will stay wrong
├── NotFoundError              404  no such model, version or route
├── TooLargeError              413  a body, a picture or their number over its limit
├── UnsupportedMediaTypeError  415  a content type that the server does not read
├── UnavailableError           503  not ready or overloaded; may be retried
├── DeadlineExceededError      504  the answer took too long, there or on the way
├── ServerError                     any other status of an error
├── UnexpectedAnswerError           an answer that is not Atril's
└── ConnectionFailedError           no answer: the server could not be reached, or hung up
"""

from collections.abc import Mapping
from types import MappingProxyType


class AtrilClientError(Exception):
    """Base of every error of the SDK; its text is the server's own where there is one.

    `status` is the HTTP status, or None where no answer came.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class InvalidRequestError(AtrilClientError):
    """The request is malformed or does not fit the model."""


class NotFoundError(AtrilClientError):
    """There is no such model, version or route."""


class TooLargeError(AtrilClientError):
    """A body, a picture or the number of pictures is over the server's limit."""


class UnsupportedMediaTypeError(AtrilClientError):
    """The server does not read this content type."""


class UnavailableError(AtrilClientError):
    """The model is not ready or a queue is full; nothing was run, so the request may be retried."""

    retry_after_s: float | None = None
    """How long the server asks to wait."""


class DeadlineExceededError(AtrilClientError):
    """The answer did not come within the server's or the client's time."""


class ServerError(AtrilClientError):
    """The server failed."""


class UnexpectedAnswerError(AtrilClientError):
    """The answer does not come from an Atril server, or from one of another version."""


class ConnectionFailedError(AtrilClientError):
    """The server could not be reached, or hung up before it had answered."""


ERRORS: Mapping[int, type[AtrilClientError]] = MappingProxyType(
    {
        400: InvalidRequestError,
        404: NotFoundError,
        413: TooLargeError,
        415: UnsupportedMediaTypeError,
        503: UnavailableError,
        504: DeadlineExceededError,
    }
)
"""Status to class; any other status is a `ServerError`."""
