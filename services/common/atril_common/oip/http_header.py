"""The JSON part of an inference request, parsed into typed values.

Clients that send binary tensors repeat the same JSON byte for byte, so small headers are
remembered.
"""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from atril_common.core import NO_OPTIONS, RequestOptions
from atril_common.errors import InvalidInputError, sample
from atril_common.oip.json_depth import check_depth
from atril_common.oip.json_message import read_message
from atril_common.oip.parameters import class_count, options_from_parameters
from atril_common.oip.shared_memory import RegionSlice, slice_from_parameters

_MAX_RANK = 32
_MAX_REMEMBERED_BYTES = 2048
_REMEMBERED = 512


_NO_REGIONS: Mapping[str, RegionSlice] = MappingProxyType({})


class InputHeader(NamedTuple):
    """One input: its tensor is `data`, the next `binary_size` bytes, or in shared memory."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: object
    binary_size: int | None
    region: RegionSlice | None


class RequestHeader(NamedTuple):
    """An inference request but for its binary tensors.

    `binary` says of each requested output whether it should travel as bytes; `binary_default` says
    it of all outputs when none is requested by name. `options` is what the parameters ask for,
    `regions` the places of outputs in shared memory.
    """

    request_id: str
    inputs: tuple[InputHeader, ...]
    outputs: tuple[str, ...]
    binary: dict[str, bool]
    binary_default: bool
    options: RequestOptions = NO_OPTIONS
    regions: Mapping[str, RegionSlice] = _NO_REGIONS


def parse_header(head: bytes) -> RequestHeader:
    """Parse the JSON part of a request.

    Raises:
        InvalidInputError: the text names the field, what came and what was expected.
    """
    return _parse_remembered(head) if len(head) <= _MAX_REMEMBERED_BYTES else _parse(head)


def _parse(head: bytes) -> RequestHeader:
    check_depth(head)
    try:
        message = read_message(head)
    except orjson.JSONDecodeError as err:
        raise InvalidInputError(f"Unable to parse the request body as JSON: {err}") from None
    if not isinstance(message, dict):
        raise InvalidInputError("Unable to parse the request body: expected a JSON object")
    request_id = message.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInputError(
            f"Unable to parse 'id': expected a string, got {sample(request_id)}"
        )
    entries = _list(message, "inputs")
    if entries is None:
        raise InvalidInputError("Unable to parse 'inputs': expected a list of input tensors")
    inputs = tuple([_input(entry) for entry in entries])
    names = {header.name for header in inputs}
    if len(names) < len(inputs):
        raise InvalidInputError(f"an input is given twice: {[header.name for header in inputs]}")
    parameters = _parameters(message, "the request")
    binary_default = _flag(parameters, "binary_data_output", "the request")
    outputs = _list(message, "outputs") or []
    binary = _outputs(outputs, binary_default)
    options = _options(parameters, outputs)
    regions = _regions(outputs)
    return RequestHeader(
        request_id, inputs, tuple(binary), binary, binary_default, options, regions
    )


_parse_remembered = lru_cache(_REMEMBERED)(_parse)


def _input(entry: dict[str, Any]) -> InputHeader:
    name, datatype = _text(entry, "name", "an input"), _text(entry, "datatype", "an input")
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > _MAX_RANK:
        raise InvalidInputError(
            f"Unable to parse 'shape' of input '{name}': expected a list of at most {_MAX_RANK} "
            f"integers"
        )
    for dim in shape:
        if type(dim) is not int or not 0 <= dim < 1 << 31:
            raise InvalidInputError(
                f"Unable to parse 'shape' of input '{name}': expected non-negative integers, got "
                f"{sample(dim)}"
            )
    parameters = _parameters(entry, f"input '{name}'")
    size = parameters.get("binary_data_size")
    region = _region(parameters, f"input '{name}'") if parameters else None
    if ("data" in entry) + (size is not None) + (region is not None) != 1:
        raise InvalidInputError(
            f"must set only one of 'data', parameter 'binary_data_size' and parameter "
            f"'shared_memory_region' for input '{name}', got "
            f"{'several' if 'data' in entry or region or size is not None else 'none'}"
        )
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidInputError(
            f"Unable to parse 'binary_data_size' of input '{name}': expected a non-negative "
            f"integer, got {sample(size)}"
        )
    return InputHeader(name, datatype, tuple(shape), entry.get("data"), size, region)


def _region(parameters: dict[str, Any], what: str) -> RegionSlice | None:
    """Where in shared memory a tensor is, if it is there."""
    if "shared_memory_region" not in parameters:
        return None
    return slice_from_parameters(
        parameters["shared_memory_region"],
        parameters.get("shared_memory_offset"),
        parameters.get("shared_memory_byte_size"),
        what=what,
    )


def _regions(outputs: list[dict[str, Any]]) -> Mapping[str, RegionSlice]:
    """The places of outputs in shared memory."""
    regions = {}
    for entry in outputs:
        name = entry["name"]
        region = _region(entry.get("parameters") or _NO_PARAMETERS, f"output '{name}'")
        if region is not None:
            regions[name] = region
    return regions or _NO_REGIONS


def _outputs(entries: list[dict[str, Any]], binary_default: bool) -> dict[str, bool]:
    binary: dict[str, bool] = {}
    for entry in entries:
        name = _text(entry, "name", "an output")
        if name in binary:
            raise InvalidInputError(f"output '{name}' is requested twice")
        parameters = _parameters(entry, f"output '{name}'")
        binary[name] = _flag(parameters, "binary_data", f"output '{name}'", binary_default)
    return binary


def _options(parameters: dict[str, Any], outputs: list[dict[str, Any]]) -> RequestOptions:
    """What the parameters of a request and of its outputs ask for."""
    asked = {k: v for k, v in parameters.items() if k != "binary_data_output"}
    counts = [
        (entry["name"], class_count(entry["parameters"]["classification"], entry["name"]))
        for entry in outputs
        if "classification" in (entry.get("parameters") or ())
    ]
    return options_from_parameters(asked, tuple(counts))


def _list(message: dict[str, Any], key: str) -> list[dict[str, Any]] | None:
    entries = message.get(key)
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidInputError(
            f"Unable to parse '{key}': expected a list of JSON objects, got {sample(entries)}"
        )
    return entries


def _text(entry: dict[str, Any], key: str, what: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise InvalidInputError(
            f"Unable to parse '{key}' of {what}: expected a string, got {sample(value)}"
        )
    return value


_NO_PARAMETERS: dict[str, Any] = {}


def _parameters(entry: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return _NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise InvalidInputError(f"Unable to parse 'parameters' of {what}: expected a JSON object")
    return parameters


def _flag(parameters: dict[str, Any], key: str, what: str, default: bool = False) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise InvalidInputError(
            f"Unable to parse parameter '{key}' of {what}: expected true or false, got "
            f"{sample(value)}"
        )
    return value
