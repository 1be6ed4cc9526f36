"""Looking at the files of a version before ONNX Runtime does.

A model may keep its weights in files of its own, which ONNX names by a path. This walks the
protobuf of `model.onnx` for those paths without reading a weight, and refuses what leads out of the
version's folder. The walk knows only the messages that can hold a tensor, and is bounded.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from atril_common.errors import InvalidInputError, NotReadyError
from atril_common.repository import is_model_name
from atril_inference.repository import ModelFolder, fingerprint, require_inside

_MAX_FIELDS = 20_000_000
_MAX_DEPTH = 64
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# For each message that can hold a tensor: its fields that do, and their messages.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}  # fmt: skip


class _Message(NamedTuple):
    kind: str
    begin: int
    end: int
    depth: int


def check_version(folder: ModelFolder, version: int, file_name: str, max_bytes: int) -> None:
    """See that a version's files are small enough and that none leads elsewhere.

    Args:
        folder: the model's folder.
        version: which of its versions.
        file_name: the model's file in it.
        max_bytes: most that the version's files may hold.

    Raises:
        NotReadyError: they are not to be opened; the text says why.
        OSError: they cannot be read.
    """
    if not is_model_name(file_name) or file_name.endswith(".ort"):
        raise NotReadyError(
            f"default_model_filename must be the plain name of an ONNX file, got '{file_name}'"
        )
    place = folder.path / str(version)
    files = fingerprint(place)
    size = sum(int(file[1]) for file in files)
    if size > max_bytes:
        raise NotReadyError(
            f"version {version} holds {size} bytes, at most {max_bytes} are loaded here"
        )
    try:
        for file in files:
            require_inside(place / str(file[0]), folder.boundary)
    except InvalidInputError as err:
        raise NotReadyError(str(err)) from err
    path = place / file_name
    if path.is_file():
        for location in external_locations(path):
            _check_location(location, place, folder.boundary)


def external_locations(path: Path) -> list[str]:
    """The paths of the files in which a model keeps tensors.

    Raises:
        NotReadyError: the file is not a protobuf message, or too deep or too long a one.
        OSError: it cannot be read.
    """
    if not path.stat().st_size:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return sorted(set(_locations(data)))
        except (_MalformedError, IndexError) as err:
            raise NotReadyError(f"{path.name} is not an ONNX model: {err}") from None


class _MalformedError(Exception):
    """The bytes are not a protobuf message that the walk can follow."""


def _check_location(location: str, place: Path, boundary: Path) -> None:
    path = PurePosixPath(location)
    outside = path.is_absolute() or ".." in path.parts or "\\" in location or "\0" in location
    if outside or not (place / path).resolve().is_relative_to(boundary.resolve()):
        raise NotReadyError(
            f"the model names the file {location!r} for its weights, which is not in its folder"
        )


def _locations(data: mmap.mmap) -> Iterator[str]:
    """Walk the messages; every `location` of a tensor's external data."""
    waiting = [_Message("Model", 0, len(data), 0)]
    seen = 0
    while waiting:
        message = waiting.pop()
        if message.depth > _MAX_DEPTH:
            raise _MalformedError(f"its messages nest deeper than {_MAX_DEPTH}")
        inner = _FIELDS[message.kind]
        entry: dict[int, bytes] = {}
        for field, begin, end in _fields(data, message.begin, message.end):
            seen += 1
            if seen > _MAX_FIELDS:
                raise _MalformedError(f"it has more than {_MAX_FIELDS} fields")
            if field in inner:
                waiting.append(_Message(inner[field], begin, end, message.depth + 1))
            elif message.kind == "Entry":
                entry[field] = data[begin : min(end, begin + 4096)]
        if entry.get(1) == b"location":
            yield entry.get(2, b"").decode("utf-8", "replace")


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The length-delimited fields of a message: number, begin and end of the content."""
    while position < end:
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == _LENGTH:
            size, position = _varint(data, position)
            if size > end - position:
                raise _MalformedError(f"a field at byte {position} is longer than what is left")
            yield tag >> 3, position, position + size
            position += size
        elif wire == _VARINT:
            _, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        else:
            raise _MalformedError(f"byte {position} begins a field of no known kind")
    if position != end:
        raise _MalformedError("it ends in the middle of a field")


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _MalformedError(f"a number at byte {position} does not end")
