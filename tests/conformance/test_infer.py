"""Inference over every transport: the answers (2.2, 2.5, 2.8) and the refusals (2.3, 2.4)."""

import grpc
import numpy as np
import pytest

from tests.support.repositories import DATATYPES, MAX_BATCH_SIZE
from tests.support.tiny_models import WEIGHTS
from tests.support.transports import (
    DTYPES,
    Array,
    Call,
    HttpJson,
    Refusal,
    Transport,
    bytes_array,
    datatype_of,
)

SHAPES = [(1, 1), (2, 3), (1, 7), (5, 1)]


def sample(datatype: str, shape: tuple[int, ...]) -> Array:
    """Values of a datatype, its extremes among them."""
    count = int(np.prod(shape))
    if datatype == "BYTES":
        words = [b"", b"a", "é€".encode(), b"a\x00b", b"x" * 300, b'"\\\n', b"z"]
        return bytes_array([words[i % len(words)] for i in range(count)], shape)
    dtype = np.dtype(DTYPES[datatype])
    if dtype.kind == "b":
        return (np.arange(count) % 2 == 0).reshape(shape)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    values = [limits.max, limits.min, 0, 1, 2, 3, 100]
    return np.array([values[i % len(values)] for i in range(count)], dtype).reshape(shape)


def assert_same(got: Array, expected: Array) -> None:
    """The same values, shape and datatype."""
    assert datatype_of(got) == datatype_of(expected)
    assert got.shape == expected.shape
    assert got.tolist() == expected.tolist()


def refusal(transport: Transport, call: Call) -> Refusal:
    """What the server answered to a call that it must refuse."""
    with pytest.raises(Refusal) as refused:
        transport.infer(call)
    return refused.value


def assert_refused(
    transport: Transport, call: Call, http: int, code: grpc.StatusCode, *texts: str
) -> None:
    """The call is refused with the status of its protocol and a text that has every part."""
    refused = refusal(transport, call)
    assert refused.status == (http if transport.protocol == "http" else code)
    for text in texts:
        assert text in refused.text


def invalid(transport: Transport, call: Call, *texts: str) -> None:
    """The call is refused as invalid: 400 or INVALID_ARGUMENT."""
    assert_refused(transport, call, 400, grpc.StatusCode.INVALID_ARGUMENT, *texts)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_comes_back_as_it_was_sent(
    transport: Transport, datatype: str, shape: tuple[int, ...]
) -> None:
    """2.2 datatypes, 2.5: values, extremes, shape and datatype survive the way there and back."""
    tensor = sample(datatype, shape)
    answer = transport.infer(Call(f"identity_{datatype.lower()}", {"input": tensor}))
    assert_same(answer.outputs["output"], tensor)


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BOOL"])
def test_a_tensor_without_elements_comes_back_empty(transport: Transport, datatype: str) -> None:
    """2.5, 2.8: a dimension of zero is a shape like any other."""
    tensor = sample(datatype, (0, 3))
    answer = transport.infer(Call(f"identity_{datatype.lower()}", {"input": tensor}))
    assert answer.outputs["output"].size == 0


def test_nan_and_infinity_travel_in_binary(transport: Transport) -> None:
    """2.2 NaN: binary carries them; JSON refuses with the advice to use binary."""
    call = Call("logarithm", {"x": np.array([1, -1, 0], np.float32)})
    if type(transport) is HttpJson:
        refused = refusal(transport, call)
        assert refused.status == 400
        assert "binary_data" in refused.text
        return
    output = transport.infer(call).outputs["y"]
    assert np.array_equal(output, np.array([0, np.nan, -np.inf], np.float32), equal_nan=True)


@pytest.mark.parametrize("rows", [1, 2, MAX_BATCH_SIZE])
def test_a_batch_is_answered_row_by_row(transport: Transport, rows: int) -> None:
    """2.2: the answer to a batch has one row a row, with the right numbers."""
    x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    answer = transport.infer(Call("matmul", {"x": x}))
    assert_same(answer.outputs["y"], x @ WEIGHTS)


def test_a_batch_of_strings_is_answered_row_by_row(transport: Transport) -> None:
    """2.2, 2.5: BYTES batch as numbers do."""
    tensor = sample("BYTES", (3, 2))
    answer = transport.infer(Call("batched_bytes", {"input": tensor}))
    assert_same(answer.outputs["output"], tensor)


def test_the_answer_names_the_model_its_version_and_the_request(transport: Transport) -> None:
    """2.2 response: `model_name`, `model_version` as a string, `id` echoed."""
    call = Call("matmul", {"x": np.ones((1, 4), np.float32)}, request_id="request 1/é")
    answer = transport.infer(call)
    assert (answer.model_name, answer.model_version) == ("matmul", "1")
    assert answer.request_id == "request 1/é"


def test_a_request_without_an_id_is_answered_without_one(transport: Transport) -> None:
    """2.2 request: `id` is optional."""
    assert transport.infer(Call("matmul", {"x": np.ones((1, 4), np.float32)})).request_id == ""


@pytest.mark.parametrize(
    ("model_name", "asked", "answered"),
    [
        ("every", "", "10"),
        ("every", "1", "1"),
        ("every", "2", "2"),
        ("latest", "", "10"),
        ("latest_two", "", "10"),
        ("latest_two", "2", "2"),
        ("chosen", "", "2"),
    ],
)
def test_a_request_reaches_the_version_it_names_or_the_highest(
    transport: Transport, model_name: str, asked: str, answered: str
) -> None:
    """H08, H09, 2.6: with no version the highest ready one answers, compared as numbers."""
    x = np.array([[0.0]], np.float32)
    answer = transport.infer(Call(model_name, {"x": x}, model_version=asked))
    assert answer.model_version == answered
    assert answer.outputs["y"].tolist() == [[float(answered)]]


@pytest.mark.parametrize(
    "outputs", [(), ("sum",), ("difference",), ("difference", "sum"), ("sum", "difference")]
)
def test_the_outputs_asked_for_come_with_their_own_values(
    transport: Transport, outputs: tuple[str, ...]
) -> None:
    """2.2 outputs, 2.5 order, 2.8 order: absent means all; each name carries its own tensor."""
    a, b = np.full((2, 4), 5, np.int32), np.full((2, 4), 3, np.int32)
    answer = transport.infer(Call("sum_and_difference", {"a": a, "b": b}, outputs=outputs))
    assert set(answer.outputs) == set(outputs or ("sum", "difference"))
    for name, tensor in answer.outputs.items():
        assert_same(tensor, a + b if name == "sum" else a - b)


def test_the_order_of_the_inputs_does_not_matter(transport: Transport) -> None:
    """2.2: inputs go by name."""
    a, b = np.full((1, 4), 5, np.int32), np.full((1, 4), 3, np.int32)
    answer = transport.infer(Call("sum_and_difference", {"b": b, "a": a}))
    assert_same(answer.outputs["difference"], a - b)


def test_a_model_without_dynamic_batching_still_takes_batches(transport: Transport) -> None:
    """H08: `max_batch_size` alone lets a request bring a batch."""
    x = np.ones((3, 4), np.float32)
    assert_same(transport.infer(Call("unbatched", {"x": x})).outputs["y"], x @ WEIGHTS)


def test_an_unknown_model_is_not_found(transport: Transport) -> None:
    """E01: 404 / NOT_FOUND."""
    call = Call("nowhere", {"x": np.ones((1, 4), np.float32)})
    text = "Request for unknown model: 'nowhere' is not found"
    assert_refused(transport, call, 404, grpc.StatusCode.NOT_FOUND, text)


@pytest.mark.parametrize(("model_name", "version"), [("matmul", "99"), ("latest", "1")])
def test_an_unknown_version_is_not_found(
    transport: Transport, model_name: str, version: str
) -> None:
    """E02: 404 / NOT_FOUND; a version that the policy leaves out is as unknown as any other."""
    call = Call(model_name, {"x": np.ones((1, 4), np.float32)}, model_version=version)
    text = f"'{model_name}' version {version} is not found"
    assert_refused(transport, call, 404, grpc.StatusCode.NOT_FOUND, text)


def test_a_wrong_datatype_is_refused(transport: Transport) -> None:
    """E06: 400 / INVALID_ARGUMENT, names both datatypes."""
    call = Call("matmul", {"x": np.ones((1, 4), np.int32)})
    invalid(transport, call, "data-type is 'INT32', but model 'matmul' expects 'FP32'", "'x'")


@pytest.mark.parametrize("shape", [(1, 3), (4,), (1, 4, 1), (1, 5)], ids=str)
def test_a_wrong_shape_is_refused(transport: Transport, shape: tuple[int, ...]) -> None:
    """E07: names the input, both shapes and the rule of the batch dimension."""
    got = "[" + ",".join(map(str, shape)) + "]"
    call = Call("matmul", {"x": np.ones(shape, np.float32)})
    invalid(transport, call, "unexpected shape for input 'x'", "[-1,4]", f"got {got}", "batch")


def test_a_wrong_shape_of_a_model_without_batching_is_refused(transport: Transport) -> None:
    """E07: the model's own dimensions are expected."""
    call = Call("fixed", {"input": np.ones((3, 2), np.float32)})
    invalid(transport, call, "unexpected shape for input 'input'", "Expected [2,3], got [3,2]")


def test_a_missing_input_is_refused(transport: Transport) -> None:
    """E08: counts the inputs and names the missing one."""
    call = Call("sum_and_difference", {"a": np.ones((1, 4), np.int32)})
    invalid(transport, call, "expected 2 inputs but got 1 inputs", "'b'")


def test_a_surplus_input_is_refused(transport: Transport) -> None:
    """E08, E10: counts the inputs and names the unknown one."""
    x = np.ones((1, 4), np.float32)
    invalid(
        transport, Call("matmul", {"x": x, "z": x}), "expected 1 inputs but got 2 inputs", "'z'"
    )


@pytest.mark.parametrize("rows", [MAX_BATCH_SIZE + 1, 64])
@pytest.mark.parametrize("model_name", ["matmul", "unbatched"])
def test_a_batch_over_the_maximum_is_refused(
    transport: Transport, model_name: str, rows: int
) -> None:
    """E09: names the maximum, with and without dynamic batching."""
    call = Call(model_name, {"x": np.ones((rows, 4), np.float32)})
    invalid(transport, call, f"batch-size must be <= {MAX_BATCH_SIZE}")


def test_an_empty_batch_is_refused(transport: Transport) -> None:
    """E09: a batch has at least one row."""
    invalid(transport, Call("matmul", {"x": np.ones((0, 4), np.float32)}), "batch-size")


def test_inputs_with_different_batch_sizes_are_refused(transport: Transport) -> None:
    """E09: one request has one batch size."""
    inputs = {"a": np.ones((2, 4), np.int32), "b": np.ones((3, 4), np.int32)}
    invalid(transport, Call("sum_and_difference", inputs), "one batch size")


def test_an_unknown_input_is_refused(transport: Transport) -> None:
    """E10: names it."""
    invalid(transport, Call("matmul", {"z": np.ones((1, 4), np.float32)}), "'z'")


def test_an_unknown_output_is_refused(transport: Transport) -> None:
    """E10: names it."""
    call = Call("matmul", {"x": np.ones((1, 4), np.float32)}, outputs=("nothing",))
    invalid(transport, call, "unexpected inference output 'nothing'")


def test_an_unknown_datatype_is_refused(transport: Transport) -> None:
    """E13: `invalid datatype`."""
    call = Call("matmul", {"x": np.ones((1, 4), np.float32)}, datatypes={"x": "FP12"})
    invalid(transport, call, "invalid datatype", "FP12")


def test_a_failure_of_the_back_end_is_internal_and_tells_the_reason(transport: Transport) -> None:
    """2.3 internal: 500 / INTERNAL when the model itself fails on acceptable tensors."""
    call = Call("pick", {"row": np.array([7], np.int64)})
    assert_refused(transport, call, 500, grpc.StatusCode.INTERNAL, "onnxruntime")


@pytest.mark.usefixtures("onnxruntime")
def test_bytes_that_the_back_end_cannot_hold_are_refused_and_never_altered(
    transport: Transport,
) -> None:
    """2.2 BYTES: ONNX Runtime holds strings as UTF-8; other bytes come back as sent or are 400."""
    if type(transport) is HttpJson:
        pytest.skip("JSON strings are UTF-8 by their nature")
    tensor = bytes_array([b"\xff\xfe"], (1, 1))
    refused, output = None, None
    try:
        output = transport.infer(Call("identity_bytes", {"input": tensor})).outputs["output"]
    except Refusal as err:
        refused = err
    if output is not None:
        assert_same(output, tensor)
    else:
        assert refused is not None
        assert refused.status in (400, grpc.StatusCode.INVALID_ARGUMENT)
        assert "UTF-8" in refused.text


def test_every_refusal_leaves_the_server_able_to_answer(transport: Transport) -> None:
    """2.4: after each kind of bad input the next good request is answered."""
    good = Call("matmul", {"x": np.ones((1, 4), np.float32)})
    expected = transport.infer(good).outputs["y"]
    for bad in (
        Call("nowhere", good.inputs),
        Call("matmul", good.inputs, model_version="99"),
        Call("matmul", {"x": np.ones((1, 3), np.float32)}),
        Call("matmul", {"x": np.ones((1, 4), np.int32)}),
        Call("pick", {"row": np.array([-99], np.int64)}),
    ):
        refusal(transport, bad)
        assert_same(transport.infer(good).outputs["y"], expected)


@pytest.mark.parametrize(("model_name", "text"), [("broken", "is not at ready state")])
def test_a_model_that_is_not_ready_refuses_requests(
    unready: Transport, model_name: str, text: str
) -> None:
    """E04: 503 / UNAVAILABLE for a known model that cannot answer now."""
    call = Call(model_name, {"x": np.ones((1, 4), np.float32)})
    assert_refused(unready, call, 503, grpc.StatusCode.UNAVAILABLE, text)


def test_a_model_without_a_version_refuses_requests(unready: Transport) -> None:
    """E03: 404 / NOT_FOUND, `has no available versions`."""
    call = Call("empty", {"x": np.ones((1, 4), np.float32)})
    assert_refused(unready, call, 404, grpc.StatusCode.NOT_FOUND, "has no available versions")


def test_a_good_version_answers_beside_a_broken_one(unready: Transport) -> None:
    """2.6: the highest ready version answers where a higher one is broken."""
    answer = unready.infer(Call("half", {"x": np.ones((1, 4), np.float32)}))
    assert answer.model_version == "1"
