"""HTTP bodies to pictures: raw files, forms and JSON, read within the limits."""

import binascii
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from atril_common.errors import (
    CancelledRequestError,
    InvalidInputError,
    TooLargeError,
    UnsupportedMediaTypeError,
)
from atril_gateway.offload import Offload
from atril_gateway.pictures import PictureLimits, read_pictures, split_arrays

JSON = "application/json"
FORM = "multipart/form-data"
OCTETS = "application/octet-stream"
FILES = ("image/png", "image/jpeg", OCTETS)
ACCEPTED = (*FILES, FORM, JSON)
"""The content types that are read; a body without one is taken as a file."""

INLINE_BYTES = 64 * 1024
"""A body of up to so many bytes is decoded on the event loop, a larger one in a thread."""

_JSON_SHAPE = 'an array or {"pictures": [...], "top_k": n}'
_ITEM_SHAPE = 'an array of pixel values or {"b64": "base64 of a PNG or JPEG file"}'


@dataclass(frozen=True, slots=True)
class ClassifyBody:
    """The pictures in a body, and its `top_k` if it has one."""

    pictures: list[Image.Image]
    top_k: int | None = None


class BodyReader:
    """Reads the bodies of requests.

    Args:
        max_body_bytes: how large a body may be.
        limits: how many pictures of what size it may hold.
        offload: decodes what is too long for the event loop.
    """

    def __init__(self, max_body_bytes: int, limits: PictureLimits, offload: Offload) -> None:
        self._max_body_bytes = max_body_bytes
        self._limits = limits
        self._offload = offload

    async def read(self, request: Request) -> ClassifyBody:
        """Read a body and open its pictures.

        Raises:
            UnsupportedMediaTypeError: a content type that is not `ACCEPTED`, or a content coding.
            TooLargeError: the body, a picture or their number is over its limit.
            InvalidInputError: the body is empty or not what its content type says.
            CancelledRequestError: the client went away before the end.
        """
        media_type = _media_type(request)
        self._check_length(request)
        if media_type == FORM:
            form, size = await self._form(request)
            return await self._decode(size, lambda: _from_form(form, self._limits))
        body = await self._body(request)
        if not body:
            raise InvalidInputError("the body is empty: expected a picture")
        from_body = _from_json if media_type == JSON else _from_file
        return await self._decode(len(body), lambda: from_body(body, self._limits))

    async def _decode(self, size: int, decode: Callable[[], ClassifyBody]) -> ClassifyBody:
        return decode() if size <= INLINE_BYTES else await self._offload.run(decode)

    def _check_length(self, request: Request) -> None:
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._max_body_bytes:
            raise TooLargeError(
                f"the body has {announced} bytes: expected at most {self._max_body_bytes}"
            )

    async def _stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        size = 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > self._max_body_bytes:
                    raise TooLargeError(
                        f"the body is too large: expected at most {self._max_body_bytes} bytes"
                    )
                yield chunk
        except ClientDisconnect as err:
            raise CancelledRequestError("the body ended before it was complete") from err

    async def _body(self, request: Request) -> bytes:
        return b"".join([chunk async for chunk in self._stream(request)])

    async def _form(self, request: Request) -> tuple[list[tuple[str, str | bytes]], int]:
        """The form's fields (text) and files (bytes) in their order, and the size of all."""
        parser = _FormParser(request, self._stream(request), self._limits.max_pictures)
        try:
            form = await parser.parse()
        except MultiPartException as err:
            raise InvalidInputError(f"the body is not a form ({FORM}): {err.message}") from err
        fields: list[tuple[str, str | bytes]] = []
        for name, value in form.multi_items():
            fields.append((name, await value.read() if isinstance(value, UploadFile) else value))
        await form.close()
        return fields, sum(len(value) for _, value in fields)


class _FormParser(MultiPartParser):
    """Starlette's parser, in memory, with a limit of parts that is told as other limits are."""

    def __init__(
        self, request: Request, stream: AsyncGenerator[bytes, None], max_pictures: int
    ) -> None:
        super().__init__(request.headers, stream, max_files=float("inf"), max_fields=float("inf"))
        self.spool_max_size = (
            0  # never: a body is within its limit, so its parts may stay in memory
        )
        self._max_pictures = max_pictures
        self._parts = 0
        self._ended = False
        self.stream = self._until_the_end(stream)

    async def _until_the_end(
        self, stream: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """The same, but a form that was cut off is an error: its last file would be missing."""
        async for chunk in stream:
            yield chunk
        if not self._ended:
            raise MultiPartException("it ends before its closing boundary")

    def on_end(self) -> None:
        self._ended = True

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._max_pictures + 1:
            raise TooLargeError(
                f"the form has too many parts: expected at most {self._max_pictures} pictures "
                f"and top_k"
            )
        super().on_part_begin()


def _media_type(request: Request) -> str:
    coding = request.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise UnsupportedMediaTypeError(f"content coding '{coding}': expected none")
    media_type = request.headers.get("content-type", OCTETS).partition(";")[0].strip().lower()
    if media_type not in ACCEPTED:
        raise UnsupportedMediaTypeError(
            f"content type '{media_type}': expected one of {', '.join(ACCEPTED)}"
        )
    return media_type


def _from_file(body: bytes, limits: PictureLimits) -> ClassifyBody:
    return ClassifyBody(read_pictures([body], limits))


def _from_form(fields: list[tuple[str, str | bytes]], limits: PictureLimits) -> ClassifyBody:
    files: list[bytes] = []
    top_k: int | None = None
    for name, value in fields:
        if isinstance(value, bytes):
            files.append(value)
        elif name == "top_k":
            top_k = _top_k(int(value) if value.isdecimal() and len(value) < 10 else value)
        else:
            raise InvalidInputError(
                f"the form's field '{name}' is text: expected files (parts with a file name) "
                f"and top_k"
            )
    return ClassifyBody(read_pictures(files, limits), top_k)


def _from_json(body: bytes, limits: PictureLimits) -> ClassifyBody:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as err:
        raise InvalidInputError(
            f"the body is not JSON, which has no NaN or Infinity either: {err}: "
            f"expected {_JSON_SHAPE}"
        ) from err
    if isinstance(value, list):
        return ClassifyBody(read_pictures(split_arrays(value), limits))
    if not isinstance(value, dict):
        raise InvalidInputError(f"the body is a JSON {_json_type(value)}: expected {_JSON_SHAPE}")
    unknown = sorted(value.keys() - {"pictures", "top_k"})
    if unknown or not isinstance(value.get("pictures"), list):
        problem = f"unknown {', '.join(unknown)}" if unknown else 'no list under "pictures"'
        raise InvalidInputError(f"{problem}: expected {_JSON_SHAPE}")
    top_k = _top_k(value["top_k"]) if "top_k" in value else None
    items = [_item(item, index) for index, item in enumerate(value["pictures"])]
    return ClassifyBody(read_pictures(items, limits), top_k)


def _item(item: Any, index: int) -> list[Any] | bytes:
    if isinstance(item, list):
        return item
    if not isinstance(item, dict) or item.keys() != {"b64"} or not isinstance(item["b64"], str):
        raise InvalidInputError(
            f"picture {index}: a JSON {_json_type(item)} that is no picture: expected {_ITEM_SHAPE}"
        )
    try:
        return binascii.a2b_base64(item["b64"], strict_mode=True)
    except ValueError as err:  # binascii.Error, or characters that are not ASCII
        raise InvalidInputError(
            f"picture {index}: not base64: {err}: expected {_ITEM_SHAPE}"
        ) from err


def _top_k(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidInputError(f"top_k is {str(value)[:20]!r}: expected a whole number")


def _json_type(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
