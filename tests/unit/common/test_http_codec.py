"""The HTTP codec: what goes in comes out, bad input is an AtrilError."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atril_common.core import InferRequest, InferResponse
from atril_common.errors import AtrilError, InvalidInputError
from atril_common.oip.http_codec import decode_request, encode_response
from atril_common.oip.http_header import RequestHeader
from atril_common.oip.json_tensors import tensor_from_json
from atril_common.oip.parameters import parameters_from_options
from atril_common.tensors import DATATYPES, DTYPES, Tensor, tensor_from_bytes, tensor_to_bytes
from tests.unit.common.wire_strategies import (
    JSON_DATATYPES,
    json_values,
    names,
    read_or_refused,
    requests,
    same,
    tensors,
)


def header(
    binary: dict[str, bool] | None = None, *, default: bool = False, request_id: str = ""
) -> RequestHeader:
    """The header of a request that asks for its outputs in this form."""
    return RequestHeader(request_id, (), (), binary or {}, default)


def request_body(request: InferRequest, binary: set[str], nested: bool) -> tuple[bytes, int | None]:
    """A request as its HTTP body, some inputs binary, the others nested or flat."""
    inputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, tensor in request.inputs.items():
        entry: dict[str, Any] = {
            "name": name,
            "shape": list(tensor.shape),
            "datatype": DATATYPES[tensor.dtype],
        }
        if name in binary:
            blobs.append(tensor_to_bytes(tensor))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = _json(tensor, nested)
        inputs.append(entry)
    message: dict[str, Any] = {"inputs": inputs}
    counts = dict(request.options.classification)
    if request.outputs:
        message["outputs"] = [
            {"name": name, "parameters": {"classification": counts[name]} if name in counts else {}}
            for name in request.outputs
        ]
    message["parameters"] = parameters_from_options(request.options)
    head = orjson.dumps(message)
    return head + b"".join(blobs), len(head) if binary else None


def _json(tensor: Tensor, nested: bool) -> Any:
    values = tensor if nested and tensor.ndim else tensor.ravel()
    if tensor.dtype == object:
        decoded = np.empty(values.size, dtype=object)
        decoded[:] = [element.decode() for element in values.ravel()]
        return decoded.reshape(values.shape).tolist()
    return values.tolist()


@given(requests(JSON_DATATYPES), st.booleans())
def test_json_requests_are_read_as_they_were_written(request: InferRequest, nested: bool) -> None:
    """2.2 data: nested or flat, of every datatype that JSON has, to the last bit."""
    body, _ = request_body(request, set(), nested)
    decoded = decode_request("model", "", body, None).request
    assert decoded.outputs == request.outputs
    assert decoded.options == request.options
    assert list(decoded.inputs) == list(request.inputs)
    assert all(same(decoded.inputs[name], t) for name, t in request.inputs.items())


@given(requests(finite=False))
def test_binary_requests_are_read_as_they_were_written(request: InferRequest) -> None:
    """2.5: every datatype, NaN and infinity and bytes that are no text included."""
    body, length = request_body(request, set(request.inputs), False)
    decoded = decode_request("model", "", body, length).request
    assert all(same(decoded.inputs[name], t) for name, t in request.inputs.items())


@given(requests(JSON_DATATYPES), st.data())
def test_mixed_requests_are_read_as_they_were_written(
    request: InferRequest, data: st.DataObject
) -> None:
    """2.5: any choice of inputs may be binary, beside others in JSON."""
    binary = data.draw(st.sets(st.sampled_from(list(request.inputs)), min_size=1))
    body, length = request_body(request, binary, True)
    decoded = decode_request("model", "", body, length).request
    assert all(same(decoded.inputs[name], t) for name, t in request.inputs.items())


def read_response(body: bytes, length: int | None) -> dict[str, Tensor]:
    """The outputs of a response body."""
    end = len(body) if length is None else length
    outputs, offset = {}, end
    for output in orjson.loads(body[:end])["outputs"]:
        shape, datatype = tuple(output["shape"]), output["datatype"]
        if "data" in output:
            tensor = tensor_from_json(output["data"], datatype, shape, output["name"])
        else:
            size = output["parameters"]["binary_data_size"]
            raw = body[offset : offset + size]
            tensor = tensor_from_bytes(raw, datatype, shape, name=output["name"])
            offset += size
        outputs[output["name"]] = tensor
    assert offset == len(body)
    return outputs


@given(st.dictionaries(names, tensors(JSON_DATATYPES), max_size=3), st.text(max_size=9), st.data())
def test_responses_are_written_as_they_are(
    outputs: dict[str, Tensor], request_id: str, data: st.DataObject
) -> None:
    """2.2 response, 2.5: any choice of binary outputs; the header only where there is one."""
    binary = {name: data.draw(st.booleans()) for name in outputs}
    plan = header(binary, request_id=request_id)
    body, length = encode_response(InferResponse("model", "7", outputs), plan)
    assert (length is not None) == any(binary.values())
    head = orjson.loads(body[:length])
    assert head["model_name"] == "model"
    assert head["model_version"] == "7"
    assert head.get("id", "") == request_id
    read = read_response(body, length)
    assert list(read) == list(outputs)
    assert all(same(read[name], tensor) for name, tensor in outputs.items())


@given(tensors(finite=False, utf8=False))
def test_binary_responses_carry_every_value(tensor: Tensor) -> None:
    """2.5: NaN, infinity, FP16 and any bytes travel in binary."""
    plan = header(default=True)
    body, length = encode_response(InferResponse("model", "1", {"y": tensor}), plan)
    assert same(read_response(body, length)["y"], tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        np.array([np.nan], np.float32),
        np.array([np.inf], np.float64),
        np.array([1], np.float16),
        np.array([b"\xff"], object),
    ],
    ids=["nan", "infinity", "fp16", "bytes"],
)
def test_what_json_cannot_carry_is_refused_with_advice(tensor: Tensor) -> None:
    """2.2 NaN, FP16, BYTES: the text names the output and advises binary data."""
    plan = header()
    with pytest.raises(InvalidInputError, match=r"'y'.*binary_data"):
        encode_response(InferResponse("model", "1", {"y": tensor}), plan)


def test_a_view_of_a_larger_output_is_written_in_its_own_order() -> None:
    """2.5 row-major: rows of a batch and transposed outputs need not lie in a row in memory."""
    tensor = np.arange(12, dtype=np.float32).reshape(3, 4).T[1:3]
    for binary in (True, False):
        plan = header(default=binary)
        body, length = encode_response(InferResponse("model", "1", {"y": tensor}), plan)
        assert same(read_response(body, length)["y"], tensor)


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
@example(b"[" * 3000, None)
@example(b'{"inputs":' * 3000, None)
def test_random_bodies_raise_nothing_but_an_atril_error(body: bytes, length: int | None) -> None:
    """E11: whatever the bytes are, the answer is an error of ours."""
    with pytest.raises(AtrilError):
        decode_request("model", "", body, length)


_FIELDS = {
    "name": names | json_values,
    "datatype": st.sampled_from([*DTYPES, "BF16", "TYPE_FP32", ""]) | json_values,
    "shape": st.lists(st.integers(-2, 2**40), max_size=70) | json_values,
    "data": st.lists(json_values, max_size=4) | json_values,
    "parameters": st.fixed_dictionaries(
        {},
        optional={
            "binary_data_size": st.integers(-2, 99) | json_values,
            "binary_data": st.booleans() | json_values,
            "classification": st.integers(-2, 99) | json_values,
            "shared_memory_region": st.text(max_size=3) | json_values,
            "shared_memory_offset": st.integers(-2, 99) | json_values,
            "shared_memory_byte_size": st.integers(-2, 99) | json_values,
        },
    )
    | json_values,
}
_messages = st.fixed_dictionaries(
    {"inputs": st.lists(st.fixed_dictionaries({}, optional=_FIELDS), max_size=3) | json_values},
    optional={
        "id": json_values,
        "parameters": json_values,
        "outputs": st.lists(st.fixed_dictionaries({}, optional=_FIELDS), max_size=2) | json_values,
    },
)


@given(_messages | json_values, st.binary(max_size=40), st.booleans())
@example(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [0, 2**31 - 1] * 3, "data": []}]},
    b"",
    False,
)
@example(
    {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [0, *[2**31 - 1] * 3],
                "parameters": {"binary_data_size": 0},
            }
        ]
    },
    b"",
    True,
)
def test_random_documents_raise_nothing_but_an_atril_error(
    message: Any, rest: bytes, binary: bool
) -> None:
    """E11-E14, E17: a document of roughly the right form is read or refused, never a failure."""
    head = orjson.dumps(message)
    length = len(head) if binary else None
    decoded = read_or_refused(lambda: decode_request("model", "", head + rest, length))
    if decoded is not None:
        assert all(isinstance(t, np.ndarray) for t in decoded.request.inputs.values())


@given(requests(JSON_DATATYPES), st.data())
def test_corrupted_bodies_raise_nothing_but_an_atril_error(
    request: InferRequest, data: st.DataObject
) -> None:
    """E11-E17: a good body with some bytes changed or cut is read or refused."""
    body, length = request_body(request, set(list(request.inputs)[:1]), True)
    damaged = bytearray(body)
    for position in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=5)):
        damaged[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    read_or_refused(lambda: decode_request("model", "", bytes(damaged[:cut]), length))


INTEGERS = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]


@given(
    st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=4), st.sampled_from(INTEGERS)
)
@example([1, 2**64 - 1], "UINT64")
@example([-1, 2**64 - 1], "INT64")
@example([1, 2**53 + 1], "UINT64")
def test_integers_are_kept_or_refused_never_changed(values: list[int], datatype: str) -> None:
    """2.2 datatypes: a list fits and comes back digit by digit, or is refused as a whole."""
    limits = np.iinfo(DTYPES[datatype])
    fits = all(int(limits.min) <= v <= int(limits.max) for v in values)
    try:
        tensor = tensor_from_json(values, datatype, (len(values),), "x")
    except InvalidInputError:
        assert not fits
    else:
        assert fits
        assert tensor.tolist() == values


def test_tensors_of_a_binary_request_are_views_of_its_body() -> None:
    """2.5: fixed-size tensors are not copied."""
    request = InferRequest("model", {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
    body, length = request_body(request, {"x"}, False)
    tensor = decode_request("model", "", body, length).request.inputs["x"]
    assert np.shares_memory(tensor, np.frombuffer(body, np.uint8))


def test_a_repeated_request_is_read_anew_each_time() -> None:
    """2.2: requests with the same bytes do not share tensors that one of them could change."""
    request = InferRequest("model", {"x": np.array([1.0, 2.0])})
    body, _ = request_body(request, set(), False)
    first, second = (decode_request("model", "", body, None).request.inputs["x"] for _ in range(2))
    assert not np.shares_memory(first, second)
    assert same(first, second)
