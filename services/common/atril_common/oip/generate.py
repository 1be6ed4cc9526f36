"""The generate extension's JSON (2.9): tensors by name, everything else a parameter."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from atril_common.core import InferRequest, InferResponse, ModelMetadata
from atril_common.errors import InvalidInputError, sample
from atril_common.oip.json_tensors import json_from_tensor, tensor_from_json
from atril_common.oip.parameters import options_from_parameters
from atril_common.tensors import Tensor, TensorSpec, element_count

_MAX_DEPTH = 32


class Generation(NamedTuple):
    """A request, and the id that its answers carry."""

    request: InferRequest
    request_id: str


def read_generation(
    metadata: ModelMetadata, model_version: str, message: Mapping[str, Any]
) -> Generation:
    """Read a generate request.

    Args:
        metadata: of the model, whose inputs are the names that are tensors.
        model_version: from the path; empty for the highest.
        message: the body.

    Raises:
        InvalidInputError: a tensor or a parameter that the text names is not acceptable.
    """
    request_id = message.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInputError(
            f"Unable to parse 'id': expected a string, got {sample(request_id)}"
        )
    specs = {spec.name: spec for spec in metadata.inputs}
    parameters = message.get("parameters", {}) if "parameters" not in specs else {}
    if not isinstance(parameters, dict):
        raise InvalidInputError(
            f"Unable to parse 'parameters': expected a JSON object, got {sample(parameters)}"
        )
    inputs: dict[str, Tensor] = {}
    others = dict(parameters)
    for name, value in message.items():
        if name in specs:
            inputs[name] = _tensor(specs[name], value)
        elif name not in ("id", "parameters"):
            others[name] = value
    options = options_from_parameters(others)
    request = InferRequest(metadata.name, inputs, model_version, options=options)
    return Generation(request, request_id)


def write_generation(response: InferResponse, request_id: str) -> bytes:
    """One response as a JSON object: a tensor of one element is a value, others are flat lists.

    Raises:
        InvalidInputError: an output has no JSON form.
    """
    message: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if request_id:
        message["id"] = request_id
    for name, tensor in response.outputs.items():
        values: Any = json_from_tensor(tensor, name)
        message[name] = values[0] if tensor.size == 1 else values
    return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)


def _tensor(spec: TensorSpec, value: object) -> Tensor:
    data = value if isinstance(value, list) else [value]
    if data and isinstance(data[0], list):
        shape = _nested_shape(spec, data)
    else:
        shape = _flat_shape(spec, len(data))
    return tensor_from_json(data, spec.datatype, shape, spec.name)


def _flat_shape(spec: TensorSpec, count: int) -> tuple[int, ...]:
    """The declared shape; its last free dimension takes all values, other free ones are 1."""
    shape = [1 if dim == -1 else dim for dim in spec.shape]
    fixed = element_count(tuple(shape))
    free = [position for position, dim in enumerate(spec.shape) if dim == -1]
    if free and fixed and count % fixed == 0:
        shape[free[-1]] = count // fixed
    elif count != fixed:
        raise _not_convertible(spec, f"{count} values")
    return tuple(shape)


def _nested_shape(spec: TensorSpec, data: list[Any]) -> tuple[int, ...]:
    """The shape of nested lists, with a batch of one before it where that is left out."""
    shape: list[int] = []
    rows: Any = data
    while isinstance(rows, list) and len(shape) < _MAX_DEPTH:
        shape.append(len(rows))
        rows = rows[0] if rows else None
    rank = len(spec.shape)
    if len(shape) == rank - 1 and spec.shape[0] in (-1, 1):
        shape.insert(0, 1)
    if len(shape) != rank:
        raise _not_convertible(spec, f"lists of shape {shape}")
    return tuple(shape)


def _not_convertible(spec: TensorSpec, got: str) -> InvalidInputError:
    return InvalidInputError(
        f"The schema can not convert input '{spec.name}' to tensor with proper shape: expected "
        f"{list(spec.shape)}, got {got}"
    )
