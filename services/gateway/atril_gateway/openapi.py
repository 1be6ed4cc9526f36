"""What the API's documentation page says beyond the types: bodies, examples and errors."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel

from atril_common.errors import ErrorKind
from atril_common.status import STATUS
from atril_gateway.bodies import FILES, FORM, JSON

DIGIT = (
    (0, 0, 80, 207, 143, 16, 0, 0),
    (0, 0, 207, 239, 159, 239, 80, 0),
    (0, 48, 239, 32, 0, 175, 128, 0),
    (0, 64, 191, 0, 0, 128, 128, 0),
    (0, 80, 128, 0, 0, 143, 128, 0),
    (0, 64, 175, 0, 16, 191, 112, 0),
    (0, 32, 223, 80, 159, 191, 0, 0),
    (0, 0, 96, 207, 159, 0, 0, 0),
)
"""A handwritten 0, white on black: the first of scikit-learn's digits, scaled to 0 … 255."""


class ErrorBody(BaseModel):
    """What every error answers: what was wrong, where, and what was expected."""

    error: str


def _png(rows: tuple[tuple[int, ...], ...]) -> str:
    file = io.BytesIO()
    Image.fromarray(np.array(rows, dtype=np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _json_content() -> dict[str, Any]:
    array = {
        "type": "array",
        "description": "Pixel values 0 … 255: [H, W], [H, W, C] (C is 1 or 3), or a list of them.",
        "items": {},
    }
    encoded = {
        "type": "object",
        "required": ["b64"],
        "properties": {"b64": {"type": "string", "description": "Base64 of a PNG or JPEG file."}},
    }
    several = {
        "type": "object",
        "required": ["pictures"],
        "properties": {
            "pictures": {"type": "array", "items": {"anyOf": [array, encoded]}, "minItems": 1},
            "top_k": {"type": "integer", "minimum": 1},
        },
        "additionalProperties": False,
    }
    rows = [list(row) for row in DIGIT]
    file = {"b64": _png(DIGIT)}
    return {
        "schema": {"anyOf": [array, several]},
        "examples": {
            "array": {"summary": "One picture as pixel values", "value": rows},
            "file": {
                "summary": "One picture as a PNG file in base64",
                "value": {"pictures": [file], "top_k": 3},
            },
            "several": {
                "summary": "Two pictures, in either form",
                "value": {"pictures": [rows, file], "top_k": 1},
            },
        },
    }


def _classify_body() -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "properties": {
            "pictures": {"type": "array", "items": binary, "description": "PNG or JPEG files."},
            "top_k": {"type": "integer", "minimum": 1},
        },
    }
    content: dict[str, Any] = {JSON: _json_content(), FORM: {"schema": form}}
    content |= {media_type: {"schema": binary} for media_type in FILES}
    description = (
        "One or many pictures. Files are PNG or JPEG in any colour mode; they are turned upright "
        "as their EXIF data says, put on black where they are transparent, converted to the "
        "model's colours and scaled to its size. Arrays hold values 0 … 255, are rounded to whole "
        "numbers and treated exactly as a file with the same pixels."
    )
    return {"requestBody": {"required": True, "description": description, "content": content}}


def _errors(descriptions: dict[ErrorKind, str]) -> dict[int | str, dict[str, Any]]:
    errors: dict[int | str, dict[str, Any]] = {
        STATUS[kind].task: {"model": ErrorBody, "description": text}
        for kind, text in descriptions.items()
    }
    errors["default"] = {"model": ErrorBody, "description": "Any other error."}
    return errors


_UNAVAILABLE = {
    ErrorKind.NOT_READY: "The model is not ready or a queue is full; see `Retry-After`.",
    ErrorKind.DEADLINE_EXCEEDED: "The model did not answer in time.",
}

CLASSIFY_BODY = _classify_body()

CLASSIFY_ERRORS = _errors(
    {
        ErrorKind.INVALID_INPUT: "A picture or a field is wrong, or the model is no classifier.",
        ErrorKind.NOT_FOUND: "There is no such model or version.",
        ErrorKind.TOO_LARGE: "The body, a picture or the number of pictures is over its limit.",
        ErrorKind.UNSUPPORTED_MEDIA_TYPE: "The content type is none of those listed.",
    }
    | _UNAVAILABLE
)

LIST_ERRORS = _errors(_UNAVAILABLE)
