"""The Python SDK.

from atril_client import Client

with Client("http://127.0.0.1:8000") as client:
    answer = client.classify("lenet5", Path("seven.png"))
    print(answer.results[0].top[0].label)
"""

from atril_client.client import AsyncClient, Client
from atril_client.errors import (
    AtrilClientError,
    ConnectionFailedError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    ServerError,
    TooLargeError,
    UnavailableError,
    UnexpectedAnswerError,
    UnsupportedMediaTypeError,
)
from atril_client.types import (
    Classification,
    Classified,
    LabelScore,
    Model,
    Picture,
    Pictures,
    Timing,
)

__all__ = [
    "AsyncClient",
    "AtrilClientError",
    "Classification",
    "Classified",
    "Client",
    "ConnectionFailedError",
    "DeadlineExceededError",
    "InvalidRequestError",
    "LabelScore",
    "Model",
    "NotFoundError",
    "Picture",
    "Pictures",
    "ServerError",
    "Timing",
    "TooLargeError",
    "UnavailableError",
    "UnexpectedAnswerError",
    "UnsupportedMediaTypeError",
]
