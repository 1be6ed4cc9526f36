"""Inference requests and responses as the protocol's gRPC messages."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from atril_common.core import (
    NO_OPTIONS,
    InferRequest,
    InferResponse,
    ParameterValue,
    RequestOptions,
)
from atril_common.errors import InvalidInputError
from atril_common.oip.parameters import (
    EMPTY_FINAL_RESPONSE,
    class_count,
    options_from_parameters,
    parameters_from_options,
    sequence_parameters,
)
from atril_common.oip.shared_memory import (
    NO_SHARED_MEMORY,
    RegionSlice,
    SharedMemory,
    require_placeable,
    slice_from_parameters,
)
from atril_common.tensors import (
    DATATYPES,
    Tensor,
    dtype_of,
    element_count,
    shaped,
    tensor_from_bytes,
    tensor_to_bytes,
)

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Field of `InferTensorContents` that carries each datatype; FP16 and BF16 travel only raw."""


_NO_REGIONS: Mapping[str, RegionSlice] = MappingProxyType({})


class AnswerTarget(NamedTuple):
    """How the answer to a request is to be written.

    `request_id` is echoed, and so is the sequence of `options`; `regions` are the places of outputs
    in shared memory.
    """

    request_id: str = ""
    options: RequestOptions = NO_OPTIONS
    regions: Mapping[str, RegionSlice] = _NO_REGIONS
    memory: SharedMemory = NO_SHARED_MEMORY

    @classmethod
    def of(cls, message: Any, options: RequestOptions, memory: SharedMemory) -> "AnswerTarget":
        """What a `ModelInferRequest` wants of its answer.

        Raises:
            AtrilError: an output is to go where there is no shared memory, or with classes in it.
        """
        regions = _NO_REGIONS
        if message.outputs and any(output.parameters for output in message.outputs):
            regions = _regions(message.outputs, "output")
            for name, where in regions.items():
                require_placeable(name, where, options.classification, memory)
        return cls(message.id, options, regions, memory)


def decode_request(message: Any, memory: SharedMemory = NO_SHARED_MEMORY) -> InferRequest:
    """Read a `ModelInferRequest`.

    Args:
        message: the request.
        memory: where inputs may be that are neither raw nor typed.

    Raises:
        AtrilError: the text names the tensor, what came and what was expected.
    """
    raw = message.raw_input_contents
    regions = _NO_REGIONS
    if len(raw) != len(message.inputs):
        regions = _regions(message.inputs, "input")
        if raw and len(raw) != len(message.inputs) - len(regions):
            raise InvalidInputError(
                f"expected one raw_input_contents entry for each of the {len(message.inputs)} "
                f"inputs that is not in shared memory, got {len(raw)}"
            )
    contents = iter(raw)
    inputs: dict[str, Tensor] = {}
    for tensor in message.inputs:
        name = tensor.name
        if name in inputs:
            raise InvalidInputError(f"input '{name}' is given twice")
        shape = tuple(tensor.shape)
        if shape and min(shape) < 0:
            raise InvalidInputError(
                f"shape of input '{name}' must not be negative, got {list(shape)}"
            )
        placed = name in regions
        if not raw and not placed:
            inputs[name] = _from_contents(tensor, shape)
            continue
        if tensor.HasField("contents"):
            raise InvalidInputError(
                f"contents field must not be specified when using raw_input_contents or shared "
                f"memory for '{name}'"
            )
        data = memory.read(regions[name]) if placed else next(contents)
        inputs[name] = tensor_from_bytes(data, tensor.datatype, shape, name=name)
    outputs = tuple([output.name for output in message.outputs])
    if len(outputs) > 1 and len(set(outputs)) < len(outputs):
        raise InvalidInputError(f"an output is requested twice: {list(outputs)}")
    return InferRequest(
        message.model_name, inputs, message.model_version, outputs, None, _options(message)
    )


def encode_response(response: InferResponse, target: AnswerTarget = AnswerTarget()) -> Any:  # noqa: B008  # immutable
    """Write a `ModelInferResponse`: every output raw, in the order of `outputs`.

    Outputs in shared memory have an empty raw entry, so that the others keep their places.

    Raises:
        AtrilError: an output does not fit into its place in shared memory.
    """
    request_id, options, regions, memory = target
    message = pb.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=request_id
    )
    for name, tensor in response.outputs.items():
        message.outputs.add(name=name, datatype=DATATYPES[tensor.dtype], shape=tensor.shape)
        data = tensor_to_bytes(tensor)
        if name in regions:
            memory.write(regions[name], data, output=name)
            data = b""
        message.raw_output_contents.append(data)
    if options.sequence is not None:
        _set_parameters(message.parameters, sequence_parameters(options.sequence))
    return message


def parameters_from_message(message: Any) -> dict[str, ParameterValue | None]:
    """Parameters of a message by name; None for one without a value."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "", None)
        for name, value in message.parameters.items()
    }


def _options(message: Any) -> RequestOptions:
    """What the parameters of a request and of its outputs ask for."""
    counts: list[tuple[str, int]] = []
    if message.outputs:
        for output in message.outputs:
            if "classification" in output.parameters:
                value = parameters_from_message(output)["classification"]
                counts.append((output.name, class_count(value, output.name)))
    if not counts and not message.parameters:
        return NO_OPTIONS
    parameters = parameters_from_message(message)
    parameters.pop(EMPTY_FINAL_RESPONSE, None)
    return options_from_parameters(parameters, tuple(counts))


def _regions(tensors: Any, what: str) -> Mapping[str, RegionSlice]:
    """The inputs or outputs that are in shared memory."""
    regions = {}
    for tensor in tensors:
        if "shared_memory_region" in tensor.parameters:
            parameters = parameters_from_message(tensor)
            regions[tensor.name] = slice_from_parameters(
                parameters["shared_memory_region"],
                parameters.get("shared_memory_offset"),
                parameters.get("shared_memory_byte_size"),
                what=f"{what} '{tensor.name}'",
            )
    return regions


def _set_parameters(parameters: Any, values: Mapping[str, ParameterValue]) -> None:
    for name, value in values.items():
        if isinstance(value, bool):
            parameters[name].bool_param = value
        elif isinstance(value, str):
            parameters[name].string_param = value
        elif isinstance(value, float):
            parameters[name].double_param = value
        elif value < 1 << 63:
            parameters[name].int64_param = value
        else:
            parameters[name].uint64_param = value


def _from_contents(tensor: Any, shape: tuple[int, ...]) -> Tensor:
    name, datatype = tensor.name, tensor.datatype
    dtype = dtype_of(datatype, where=f"input '{name}'")
    field = _CONTENTS.get(datatype)
    if field is None:
        raise InvalidInputError(f"input '{name}': {datatype} has no typed contents; send it raw")
    values = getattr(tensor.contents, field)
    if len(values) != element_count(shape):
        if not len(values):
            raise InvalidInputError(
                f"unable to find data for input tensor '{name}': neither raw_input_contents nor "
                f"contents.{field} is set"
            )
        raise InvalidInputError(
            f"unexpected size for input '{name}': shape {list(shape)} has {element_count(shape)} "
            f"elements, contents.{field} has {len(values)}"
        )
    try:
        result = np.empty(len(values), dtype)
        result[:] = values
    except OverflowError:
        raise InvalidInputError(
            f"input '{name}': a value is beyond the range of {datatype}"
        ) from None
    return shaped(result, shape, name=name)


def encode_request(request: InferRequest) -> Any:
    """Write a `ModelInferRequest`, as a client does; every input raw, the options with it."""
    message = pb.ModelInferRequest(
        model_name=request.model_name, model_version=request.model_version
    )
    for name, tensor in request.inputs.items():
        message.inputs.add(name=name, datatype=DATATYPES[tensor.dtype], shape=tensor.shape)
        message.raw_input_contents.append(tensor_to_bytes(tensor))
    counts = dict(request.options.classification)
    for name in request.outputs:
        output = message.outputs.add(name=name)
        if name in counts:
            _set_parameters(output.parameters, {"classification": counts[name]})
    _set_parameters(message.parameters, parameters_from_options(request.options))
    return message


def decode_response(message: Any) -> InferResponse:
    """Read a `ModelInferResponse` with raw outputs, as a client does.

    Raises:
        InvalidInputError: the server sent outputs that are not raw or do not fill their shapes.
    """
    if len(message.raw_output_contents) != len(message.outputs):
        raise InvalidInputError(
            f"expected one raw_output_contents entry for each of the {len(message.outputs)} "
            f"outputs, got {len(message.raw_output_contents)}"
        )
    outputs = {
        output.name: tensor_from_bytes(raw, output.datatype, tuple(output.shape), name=output.name)
        for output, raw in zip(message.outputs, message.raw_output_contents, strict=True)
    }
    return InferResponse(message.model_name, message.model_version, outputs)
