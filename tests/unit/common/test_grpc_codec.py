"""The gRPC codec: what goes in comes out, bad input is an AtrilError."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from atril_common.core import InferRequest, InferResponse
from atril_common.errors import AtrilError
from atril_common.oip.grpc_codec import (
    AnswerTarget,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from atril_common.oip.shared_memory import SharedMemory
from atril_common.tensors import DATATYPES, DTYPES, Tensor, tensor_from_bytes, tensor_to_bytes
from tests.unit.common.wire_strategies import (
    JSON_DATATYPES,
    names,
    read_or_refused,
    requests,
    same,
    tensors,
)

CONTENTS = {
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


def message_of(request: InferRequest, *, raw: bool) -> Any:
    """A request as its message, all inputs raw or all typed."""
    message = pb.ModelInferRequest(model_name=request.model_name, model_version="3", id="seven")
    for name, tensor in request.inputs.items():
        datatype = DATATYPES[tensor.dtype]
        entry = message.inputs.add(name=name, datatype=datatype, shape=tensor.shape)
        if raw:
            message.raw_input_contents.append(tensor_to_bytes(tensor))
        else:
            getattr(entry.contents, CONTENTS[datatype]).extend(tensor.ravel().tolist())
    for name in request.outputs:
        message.outputs.add(name=name)
    return message


@given(requests(finite=False))
def test_raw_requests_are_read_as_they_were_written(request: InferRequest) -> None:
    """2.8 raw_input_contents: every datatype, every value."""
    decoded = decode_request(message_of(request, raw=True))
    assert (decoded.model_name, decoded.model_version) == ("model", "3")
    assert decoded.outputs == request.outputs
    assert all(same(decoded.inputs[name], t) for name, t in request.inputs.items())


@given(requests(JSON_DATATYPES))
def test_typed_requests_are_read_as_they_were_written(request: InferRequest) -> None:
    """2.8 InferTensorContents: every datatype but FP16."""
    decoded = decode_request(message_of(request, raw=False))
    assert all(same(decoded.inputs[name], t) for name, t in request.inputs.items())


@given(st.dictionaries(names, tensors(finite=False, utf8=False), max_size=3), st.text(max_size=9))
def test_responses_are_raw_in_the_order_of_their_outputs(
    outputs: dict[str, Tensor], request_id: str
) -> None:
    """2.8: `raw_output_contents`, one entry per output, in the same order; the id is echoed."""
    message = encode_response(InferResponse("model", "7", outputs), AnswerTarget(request_id))
    assert (message.model_name, message.model_version, message.id) == ("model", "7", request_id)
    assert [o.name for o in message.outputs] == list(outputs)
    assert len(message.raw_output_contents) == len(outputs)
    for output, raw in zip(message.outputs, message.raw_output_contents, strict=True):
        assert not output.HasField("contents")
        tensor = tensor_from_bytes(raw, output.datatype, tuple(output.shape), name=output.name)
        assert same(tensor, outputs[output.name])


PARAMETERS = [
    "sequence_id", "priority", "timeout", "classification", "shared_memory_region",
    "shared_memory_offset", "shared_memory_byte_size", "triton_x", "mine",
]  # fmt: skip
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool_param": st.booleans(),
    "int64_param": st.integers(-2, 40) | st.just(2**63 - 1),
    "string_param": st.text(max_size=3),
}

_dims = st.integers(-2, 3) | st.sampled_from([2**31, 2**62, 2**63 - 1])


@st.composite
def odd_messages(draw: st.DrawFn) -> Any:
    """Messages of the right type and any content."""
    message = pb.ModelInferRequest(model_name="model")
    for _ in range(draw(st.integers(0, 2))):
        entry = message.inputs.add(
            name=draw(names),
            datatype=draw(st.sampled_from([*DTYPES, "BF16", "", "x"])),
            shape=draw(st.lists(_dims, max_size=4) | st.just([1] * 65)),
        )
        field = draw(st.none() | st.sampled_from(sorted(set(CONTENTS.values()))))
        if field == "bytes_contents":
            entry.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=4), max_size=3)))
        elif field:
            getattr(entry.contents, field).extend(draw(st.lists(st.integers(0, 1), max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        message.outputs.add(name=draw(names))
    for owner in (message, *message.inputs, *message.outputs):
        for name in draw(st.lists(st.sampled_from(PARAMETERS), max_size=2)):
            field = draw(st.sampled_from(["bool_param", "int64_param", "string_param", ""]))
            value = owner.parameters[name]
            if field:
                setattr(value, field, draw(VALUES[field]))
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=16), max_size=3)))
    return message


@given(odd_messages())
def test_odd_messages_raise_nothing_but_an_atril_error(message: Any) -> None:
    """E07, E13, E15-E17: a message is read or refused, never a failure."""
    decoded = read_or_refused(lambda: decode_request(message))
    if decoded is not None:
        assert all(isinstance(t, np.ndarray) for t in decoded.inputs.values())
        memory = SharedMemory(enabled=True)
        read_or_refused(lambda: AnswerTarget.of(message, decoded.options, memory))


@pytest.mark.parametrize("shape", [[1] * 65, [0, 2**62, 2**62], [-1]], ids=["rank", "huge", "-1"])
@pytest.mark.parametrize("raw", [True, False])
def test_shapes_that_no_tensor_can_have_are_refused(shape: list[int], raw: bool) -> None:
    """E07: the text is the caller's, not a failure of numpy."""
    message = pb.ModelInferRequest(model_name="model")
    entry = message.inputs.add(name="x", datatype="FP32", shape=shape)
    count = 0 if 0 in shape else 1
    if raw:
        message.raw_input_contents.append(b"\0\0\0\0" * count)
    else:
        entry.contents.fp32_contents.extend([0.0] * count)
    with pytest.raises(AtrilError, match="'x'"):
        decode_request(message)


@given(requests(finite=False))
def test_a_written_request_is_read_as_it_was(request: InferRequest) -> None:
    """2.8, 2.10: what a front sends to a replica arrives as it was, its options too."""
    decoded = decode_request(encode_request(request))
    assert decoded.outputs == request.outputs
    assert decoded.options == request.options
    assert all(same(decoded.inputs[name], t) for name, t in request.inputs.items())


@given(st.dictionaries(names, tensors(finite=False, utf8=False), max_size=3))
def test_a_written_response_is_read_as_it_was(outputs: dict[str, Tensor]) -> None:
    """2.8: what a replica answers arrives as it was."""
    response = decode_response(encode_response(InferResponse("model", "7", outputs)))
    assert (response.model_name, response.model_version) == ("model", "7")
    assert list(response.outputs) == list(outputs)
    assert all(same(response.outputs[name], tensor) for name, tensor in outputs.items())


@given(tensors(), st.data())
def test_a_damaged_response_raises_nothing_but_an_atril_error(
    tensor: Tensor, data: st.DataObject
) -> None:
    """2.8: a replica that answers nonsense is an error of ours, never a failure."""
    message = encode_response(InferResponse("model", "7", {"y": tensor}))
    if data.draw(st.booleans()):
        message.raw_output_contents.append(b"")
    message.outputs[0].datatype = data.draw(st.sampled_from([*DTYPES, "BF16", ""]))
    del message.outputs[0].shape[:]
    message.outputs[0].shape.extend(data.draw(st.lists(_dims, max_size=3)))
    read_or_refused(lambda: decode_response(message))
