"""Requests and answers on the wire, for both clients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from atril_client.errors import (
    ERRORS,
    AtrilClientError,
    ConnectionFailedError,
    DeadlineExceededError,
    ServerError,
    UnavailableError,
    UnexpectedAnswerError,
)
from atril_client.types import Classification, Classified, LabelScore, Model, Pictures, Timing

_PICTURES = "bytes or pathlib.Path of a PNG or JPEG file, or an array of pixel values 0 … 255"


class WireRequest(NamedTuple):
    """A request, independent of who sends it; `body` is one of httpx's own body arguments."""

    method: str
    path: str
    params: dict[str, Any]
    body: dict[str, Any]


MODELS = WireRequest("GET", "/v1/models", {}, {})
READY = WireRequest("GET", "/v2/health/ready", {}, {})


def classify_request(
    model: str, pictures: Pictures, top_k: int, version: str | int | None
) -> WireRequest:
    """The request that classifies pictures.

    Raises:
        TypeError: the pictures are neither files nor arrays, or a mixture of both.
        ValueError: there is no picture.
        OSError: a file cannot be read.
    """
    path = f"/v1/models/{quote(model, safe='')}"
    if version is not None:
        path += f"/versions/{quote(str(version), safe='')}"
    return WireRequest("POST", f"{path}:classify", {"top_k": top_k}, _body(pictures))


def classification_from(response: httpx.Response) -> Classification:
    """The answer to `classify_request`.

    Raises:
        AtrilClientError: the answer is an error or not understood.
    """
    answer = _json(response)
    try:
        return Classification(
            model_name=answer["model_name"],
            model_version=answer["model_version"],
            results=tuple(
                Classified(tuple(LabelScore(**score) for score in result["top"]))
                for result in answer["results"]
            ),
            timing=Timing(**answer["timing"]),
        )
    except (KeyError, TypeError) as err:
        raise _unexpected(response, err) from err


def models_from(response: httpx.Response) -> list[Model]:
    """The answer to `MODELS`.

    Raises:
        AtrilClientError: the answer is an error or not understood.
    """
    answer = _json(response)
    try:
        return [Model(**m | {"versions": tuple(m["versions"])}) for m in answer["models"]]
    except (KeyError, TypeError) as err:
        raise _unexpected(response, err) from err


def error_from(err: httpx.RequestError) -> AtrilClientError:
    """The SDK's error for one of httpx's."""
    text = f"{err.request.method} {err.request.url}: {str(err) or type(err).__name__}"
    if isinstance(err, httpx.TimeoutException) and not isinstance(err, httpx.ConnectTimeout):
        return DeadlineExceededError(text)
    return ConnectionFailedError(text)


def _body(pictures: object) -> dict[str, Any]:
    if isinstance(pictures, bytes | Path):
        return {"content": _file(pictures), "headers": {"content-type": "application/octet-stream"}}
    if hasattr(pictures, "tolist"):
        return {"json": pictures.tolist()}
    if not isinstance(pictures, Sequence) or isinstance(pictures, str):
        raise TypeError(f"pictures of type {type(pictures).__name__}: expected {_PICTURES}")
    if not pictures:
        raise ValueError("no pictures: expected at least one")
    if all(isinstance(picture, bytes | Path) for picture in pictures):
        files = [("pictures", (f"{i}", _file(picture))) for i, picture in enumerate(pictures)]
        return {"files": files}
    if any(isinstance(picture, bytes | str | Path) for picture in pictures):
        raise TypeError(f"pictures of several types: expected only {_PICTURES}")
    if any(hasattr(picture, "tolist") for picture in pictures):
        arrays = [p.tolist() if hasattr(p, "tolist") else p for p in pictures]
        return {"json": {"pictures": arrays}}
    return {"json": pictures}


def _file(picture: bytes | Path) -> bytes:
    return picture.read_bytes() if isinstance(picture, Path) else picture


def _json(response: httpx.Response) -> Any:
    """The body of a good answer.

    Raises:
        AtrilClientError: the answer is an error.
    """
    if response.is_success:
        try:
            return response.json()
        except ValueError as err:
            raise _unexpected(response, err) from err
    error = ERRORS.get(response.status_code, ServerError)(_text(response), response.status_code)
    if isinstance(error, UnavailableError):
        retry_after = response.headers.get("retry-after", "")
        error.retry_after_s = float(retry_after) if retry_after.isdecimal() else None
    raise error


def _text(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"


def _unexpected(response: httpx.Response, err: Exception) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(
        f"{response.request.url}: not an answer of this API: {err!r}", response.status_code
    )
