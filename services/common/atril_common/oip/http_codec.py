"""Inference requests and responses as HTTP bodies: JSON, and the binary tensor extension.

Nothing here knows a socket or a framework; the route and the fast protocol share it. Tensors are
views of the body where the datatype allows it.
"""

from typing import Any, NamedTuple

import orjson

from atril_common.core import InferRequest, InferResponse
from atril_common.errors import InvalidInputError
from atril_common.oip.http_header import RequestHeader, parse_header
from atril_common.oip.json_tensors import json_from_tensor, tensor_from_json
from atril_common.oip.parameters import sequence_parameters
from atril_common.oip.shared_memory import (
    NO_SHARED_MEMORY,
    SharedMemory,
    require_placeable,
)
from atril_common.tensors import DATATYPES, Tensor, tensor_from_bytes, tensor_to_bytes

HEADER_LENGTH = b"inference-header-content-length"
"""Header whose value is the byte length of a body's JSON part."""


class DecodedRequest(NamedTuple):
    """A request, and the header that says how its answer should be written."""

    request: InferRequest
    header: RequestHeader


class EncodedResponse(NamedTuple):
    """A response body; `header_length` is the length of its JSON part if it has binary parts."""

    body: bytes
    header_length: int | None


def decode_request(
    model_name: str,
    model_version: str,
    body: bytes,
    header_length: int | None,
    memory: SharedMemory = NO_SHARED_MEMORY,
) -> DecodedRequest:
    """Read an inference request.

    Args:
        model_name: from the path.
        model_version: from the path; empty for the highest.
        body: JSON, followed by the binary tensors if `header_length` is given.
        header_length: value of `Inference-Header-Content-Length`.
        memory: where tensors may be that are neither in the JSON nor behind it.

    Raises:
        AtrilError: the text names the field, what came and what was expected.
    """
    if header_length is None:
        header, offset = parse_header(body), len(body)
    elif 0 < header_length <= len(body):
        header, offset = parse_header(body[:header_length]), header_length
    else:
        raise InvalidInputError(
            f"inference header size should be in range (0, {len(body)}), got {header_length}"
        )
    view = memoryview(body)
    inputs: dict[str, Tensor] = {}
    for name, datatype, shape, data, size, region in header.inputs:
        if size is None:
            if region is None:
                inputs[name] = tensor_from_json(data, datatype, shape, name)
            else:
                inputs[name] = tensor_from_bytes(memory.read(region), datatype, shape, name=name)
            continue
        end = offset + size
        if end > len(body):
            raise InvalidInputError(
                f"unexpected size for input '{name}': binary_data_size is {size}, "
                f"{len(body) - offset} bytes are left after the JSON header"
            )
        inputs[name] = tensor_from_bytes(view[offset:end], datatype, shape, name=name)
        offset = end
    if offset != len(body):
        raise InvalidInputError(
            f"unexpected additional input data: {len(body) - offset} bytes beyond the inputs"
        )
    for name, place in header.regions.items():
        require_placeable(name, place, header.options.classification, memory)
    request = InferRequest(model_name, inputs, model_version, header.outputs, None, header.options)
    return DecodedRequest(request, header)


def encode_response(
    response: InferResponse, header: RequestHeader, memory: SharedMemory = NO_SHARED_MEMORY
) -> EncodedResponse:
    """Write an inference response in the form that its request asked for.

    Raises:
        InvalidInputError: an output cannot be written as JSON; the text advises to ask for binary
            data.
        AtrilError: an output does not fit into its place in shared memory.
    """
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, tensor in response.outputs.items():
        output: dict[str, Any] = {
            "name": name,
            "datatype": DATATYPES[tensor.dtype],
            "shape": tensor.shape,
        }
        if name in header.regions:
            memory.write(header.regions[name], tensor_to_bytes(tensor), output=name)
        elif header.binary.get(name, header.binary_default):
            blob = tensor_to_bytes(tensor)
            output["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            output["data"] = json_from_tensor(tensor, name)
        outputs.append(output)
    message: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        "outputs": outputs,
    }
    if header.request_id:
        message["id"] = header.request_id
    if header.options.sequence is not None:
        message["parameters"] = sequence_parameters(header.options.sequence)
    head = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return EncodedResponse(head, None)
    return EncodedResponse(b"".join([head, *blobs]), len(head))
