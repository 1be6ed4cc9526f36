"""Inference requests and responses as HTTP bodies: JSON, and the binary tensor extension.

Nothing here knows a socket or a framework; the route and the fast protocol share it. Bodies are
parsed with orjson, tensors are views of the body where the datatype allows it.
"""

from typing import Any, NamedTuple

import numpy as np
import orjson

from atril_common.core import InferRequest, InferResponse
from atril_common.errors import InvalidInputError
from atril_common.tensors import (
    DATATYPES,
    Tensor,
    dtype_of,
    element_count,
    tensor_from_bytes,
    tensor_to_bytes,
)

HEADER_LENGTH = b"inference-header-content-length"
"""Header whose value is the byte length of a body's JSON part."""

_MAX_RANK = 32


class ReplyPlan(NamedTuple):
    """How the caller wants the answer: the request's id, and which outputs travel as bytes."""

    request_id: str
    binary: dict[str, bool]
    binary_default: bool


class DecodedRequest(NamedTuple):
    """A request and the form of its reply."""

    request: InferRequest
    reply: ReplyPlan


class EncodedResponse(NamedTuple):
    """A response body; `header_length` is the length of its JSON part if it has binary parts."""

    body: bytes
    header_length: int | None


def decode_request(
    model_name: str, model_version: str, body: bytes, header_length: int | None
) -> DecodedRequest:
    """Read an inference request.

    Args:
        model_name: from the path.
        model_version: from the path; empty for the highest.
        body: JSON, followed by the binary tensors if `header_length` is given.
        header_length: value of `Inference-Header-Content-Length`.

    Raises:
        InvalidInputError: the text names the field, what came and what was expected.
    """
    head: bytes | memoryview = body
    rest = memoryview(b"")
    if header_length is not None:
        if not 0 < header_length <= len(body):
            raise InvalidInputError(
                f"inference header size should be in range (0, {len(body)}), got {header_length}"
            )
        view = memoryview(body)
        head, rest = view[:header_length], view[header_length:]
    try:
        message = orjson.loads(head)
    except orjson.JSONDecodeError as err:
        raise InvalidInputError(f"Unable to parse the request body as JSON: {err}") from None
    if not isinstance(message, dict):
        raise InvalidInputError("Unable to parse the request body: expected a JSON object")
    inputs = _decode_inputs(message, rest)
    request_id = message.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInputError(f"Unable to parse 'id': expected a string, got {request_id!r:.40}")
    parameters = _parameters(message, "request")
    binary_default = _flag(parameters, "binary_data_output", "request")
    outputs, binary = _decode_outputs(message, binary_default)
    return DecodedRequest(
        InferRequest(model_name, inputs, model_version, outputs),
        ReplyPlan(request_id, binary, binary_default),
    )


def encode_response(response: InferResponse, plan: ReplyPlan) -> EncodedResponse:
    """Write an inference response in the form that its request asked for.

    Raises:
        InvalidInputError: an output cannot be written as JSON (FP16, NaN, bytes that are not
        UTF-8); the
            text advises to ask for binary data.
    """
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, tensor in response.outputs.items():
        output: dict[str, Any] = {
            "name": name,
            "datatype": DATATYPES[tensor.dtype],
            "shape": tensor.shape,
        }
        if plan.binary.get(name, plan.binary_default):
            blob = tensor_to_bytes(tensor)
            output["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            output["data"] = _json_data(name, tensor)
        outputs.append(output)
    message: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        "outputs": outputs,
    }
    if plan.request_id:
        message["id"] = plan.request_id
    head = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return EncodedResponse(head, None)
    return EncodedResponse(b"".join([head, *blobs]), len(head))


def _decode_inputs(message: dict[str, Any], rest: memoryview) -> dict[str, Tensor]:
    entries = message.get("inputs")
    if not isinstance(entries, list):
        raise InvalidInputError("Unable to parse 'inputs': expected a list of input tensors")
    inputs: dict[str, Tensor] = {}
    offset = 0
    for entry in entries:
        if not isinstance(entry, dict):
            raise InvalidInputError("Unable to parse 'inputs': each must be a JSON object")
        name, datatype = _text(entry, "name", "input"), _text(entry, "datatype", "input")
        if name in inputs:
            raise InvalidInputError(f"input '{name}' is given twice")
        shape = _shape(entry, name)
        size = _parameters(entry, f"input '{name}'").get("binary_data_size")
        if (size is None) == ("data" not in entry):
            raise InvalidInputError(
                f"must set only one of 'data' and parameter 'binary_data_size' for input '{name}', "
                f"got {'neither' if size is None else 'both'}"
            )
        if size is None:
            inputs[name] = tensor_from_json(entry["data"], datatype, shape, name)
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - offset:
            raise InvalidInputError(
                f"unexpected size for input '{name}': binary_data_size is {size!r:.40}, "
                f"{len(rest) - offset} bytes are left after the JSON header"
            )
        inputs[name] = tensor_from_bytes(rest[offset : offset + size], datatype, shape, name=name)
        offset += size
    if offset != len(rest):
        raise InvalidInputError(
            f"unexpected additional input data: {len(rest) - offset} bytes beyond the inputs"
        )
    return inputs


def _decode_outputs(
    message: dict[str, Any], binary_default: bool
) -> tuple[tuple[str, ...], dict[str, bool]]:
    entries = message.get("outputs")
    if entries is None:
        return (), {}
    if not isinstance(entries, list):
        raise InvalidInputError("Unable to parse 'outputs': expected a list of outputs")
    binary: dict[str, bool] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise InvalidInputError("Unable to parse 'outputs': each must be a JSON object")
        name = _text(entry, "name", "output")
        if name in binary:
            raise InvalidInputError(f"output '{name}' is requested twice")
        parameters = _parameters(entry, f"output '{name}'")
        if "binary_data" in parameters:
            binary[name] = _flag(parameters, "binary_data", f"output '{name}'")
        else:
            binary[name] = binary_default
    return tuple(binary), binary


def tensor_from_json(data: object, datatype: str, shape: tuple[int, ...], name: str) -> Tensor:
    """Read a tensor from JSON `data`, nested by rows or flat.

    Raises:
        InvalidInputError: values of another kind than the datatype, out of its range, or not as
        many as the
            shape has elements.
    """
    if not isinstance(data, list):
        raise InvalidInputError(f"Unable to parse 'data' of input '{name}': expected a list")
    if datatype == "BYTES":
        tensor = _strings_from_json(data, name)
    elif datatype in ("FP16", "BF16"):
        raise InvalidInputError(
            f"input '{name}': {datatype} has no JSON form; send it as binary data"
        )
    else:
        tensor = _numbers_from_json(data, dtype_of(datatype, where=f"input '{name}'"), name)
    if tensor.size != element_count(shape):
        raise InvalidInputError(
            f"Shape does not match true shape of 'data' field of input '{name}': shape "
            f"{list(shape)} has {element_count(shape)} elements, 'data' has {tensor.size}"
        )
    return tensor.reshape(shape)


_ACCEPTED_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}


def _numbers_from_json(data: list[Any], dtype: np.dtype[Any], name: str) -> Tensor:
    try:
        values = np.array(data)
    except (ValueError, OverflowError):
        raise InvalidInputError(
            f"Unable to parse 'data' of input '{name}': rows of different lengths"
        ) from None
    if not values.size:
        return values.astype(dtype)
    if values.dtype.kind not in _ACCEPTED_KINDS[dtype.kind] or values.ndim > _MAX_RANK:
        raise InvalidInputError(
            f"Unable to parse 'data' of input '{name}': expected values of {DATATYPES[dtype]}, got "
            f"{_sample(data)}"
        )
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise InvalidInputError(
                f"Unable to parse 'data' of input '{name}': values must be {limits.min} … "
                f"{limits.max} for {DATATYPES[dtype]}"
            )
        return values.astype(dtype)
    with np.errstate(over="ignore"):
        tensor = values.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(tensor).all():
        raise InvalidInputError(
            f"Unable to parse 'data' of input '{name}': a value is beyond the range of "
            f"{DATATYPES[dtype]}"
        )
    return tensor


def _strings_from_json(data: list[Any], name: str) -> Tensor:
    elements: list[bytes] = []
    stack = [iter(data)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, str):
                elements.append(item.encode())
            elif isinstance(item, list) and len(stack) < _MAX_RANK:
                stack.append(iter(item))
                break
            else:
                raise InvalidInputError(
                    f"Unable to parse 'data' of input '{name}': expected strings for BYTES, got "
                    f"{_sample(item)}"
                )
        else:
            stack.pop()
    tensor = np.empty(len(elements), dtype=object)
    tensor[:] = elements
    return tensor


def _json_data(name: str, tensor: Tensor) -> object:
    kind = tensor.dtype.kind
    if kind == "O":
        try:
            return [element.decode() for element in tensor.ravel()]
        except UnicodeDecodeError:
            raise InvalidInputError(
                f"output '{name}' holds bytes that are not UTF-8, which JSON cannot carry; request "
                f"it with binary_data"
            ) from None
    if tensor.dtype.itemsize == 2 and kind == "f":
        raise InvalidInputError(
            f"output '{name}': FP16 has no JSON form; request it with binary_data"
        )
    if kind == "f" and not np.isfinite(tensor).all():
        raise InvalidInputError(
            f"output '{name}' holds NaN or infinity, which JSON cannot carry; request it with "
            f"binary_data"
        )
    return tensor.ravel()


def _text(entry: dict[str, Any], key: str, what: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise InvalidInputError(
            f"Unable to parse '{key}' of {what}: expected a string, got {_sample(value)}"
        )
    return value


def _shape(entry: dict[str, Any], name: str) -> tuple[int, ...]:
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
                f"{_sample(dim)}"
            )
    return tuple(shape)


_NO_PARAMETERS: dict[str, Any] = {}


def _parameters(entry: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return _NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise InvalidInputError(f"Unable to parse 'parameters' of {what}: expected a JSON object")
    return parameters


def _flag(parameters: dict[str, Any], key: str, what: str) -> bool:
    value = parameters.get(key, False)
    if not isinstance(value, bool):
        raise InvalidInputError(
            f"Unable to parse parameter '{key}' of {what}: expected true or false, got "
            f"{_sample(value)}"
        )
    return value


def _sample(value: object) -> str:
    """A short look at a value, for an error's text."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
