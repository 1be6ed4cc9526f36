"""What only the messages of gRPC can express (2.4, 2.8)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.grpc import service_pb2 as pb

from tests.support.repositories import DATATYPES
from tests.support.servers import OipServer
from tests.support.tiny_models import WEIGHTS
from tests.support.transports import (
    CONTENTS_FIELD,
    Array,
    Call,
    Grpc,
    Refusal,
    bytes_array,
    from_wire,
    grpc_message,
)

ROW = np.array([[1, 2, 3, 4]], np.float32)
TYPED = [datatype for datatype in DATATYPES if datatype in CONTENTS_FIELD]


def typed_request(model_name: str, datatype: str, shape: list[int], values: list[Any]) -> Any:
    """A request whose only input is in typed contents."""
    request = pb.ModelInferRequest(model_name=model_name)
    entry = request.inputs.add(name="input", datatype=datatype, shape=shape)
    getattr(entry.contents, CONTENTS_FIELD[datatype]).extend(values)
    return request


def infer(rpc: Grpc, request: Any) -> Any:
    """Send a request as it is."""
    return rpc.ask(lambda: rpc.stub.ModelInfer(request, timeout=20))


def assert_invalid(rpc: Grpc, request: Any, *texts: str) -> None:
    """The request is refused with INVALID_ARGUMENT, and the next good one is answered."""
    with pytest.raises(Refusal) as refused:
        infer(rpc, request)
    assert refused.value.status is grpc.StatusCode.INVALID_ARGUMENT, refused.value.text
    for text in texts:
        assert text in refused.value.text
    assert infer(rpc, good_request()).outputs[0].name == "y"


def good_request() -> Any:
    """A request to `matmul`."""
    return grpc_message(Call("matmul", {"x": ROW}))


def values_of(datatype: str) -> list[Any]:
    """Two values of a datatype, its extremes where it has them."""
    if datatype == "BYTES":
        return [b"", "é".encode()]
    if datatype == "BOOL":
        return [True, False]
    if datatype.startswith("FP"):
        return [-1.5, 2.25]
    limits = np.iinfo(datatype.lower())
    return [int(limits.min), int(limits.max)]


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_carry_every_datatype(rpc: Grpc, datatype: str) -> None:
    """2.8 InferTensorContents: each datatype in its field; the answer is raw all the same."""
    values = values_of(datatype)
    response = infer(rpc, typed_request(f"identity_{datatype.lower()}", datatype, [1, 2], values))
    (output,) = response.outputs
    got = from_wire(response.raw_output_contents[0], output.datatype, output.shape)
    assert got.ravel().tolist() == values
    assert not output.HasField("contents")


def test_answers_are_raw_with_one_entry_an_output_in_their_order(rpc: Grpc) -> None:
    """2.8: `raw_output_contents` has one entry an output, in the order of `outputs`."""
    a, b = np.full((1, 4), 5, np.int32), np.full((1, 4), 3, np.int32)
    call = Call("sum_and_difference", {"a": a, "b": b}, outputs=("difference", "sum"))
    response = infer(rpc, grpc_message(call))
    assert [o.name for o in response.outputs] == ["difference", "sum"]
    raw = [np.frombuffer(r, np.int32).tolist() for r in response.raw_output_contents]
    assert raw == [[2] * 4, [8] * 4]


def test_typed_and_raw_contents_in_one_request_are_refused(rpc: Grpc) -> None:
    """E15: typed `contents` and `raw_input_contents` together."""
    request = good_request()
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    assert_invalid(rpc, request, "raw_input_contents")


def test_an_input_without_any_data_is_refused(rpc: Grpc) -> None:
    """E16: `unable to find data for input tensor`."""
    request = pb.ModelInferRequest(model_name="matmul")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    assert_invalid(rpc, request, "unable to find data for input tensor")


def test_data_in_the_field_of_another_datatype_is_refused(rpc: Grpc) -> None:
    """E16: the field of the declared datatype is the one that is read."""
    request = pb.ModelInferRequest(model_name="matmul")
    entry = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    entry.contents.int_contents.extend([1, 2, 3, 4])
    assert_invalid(rpc, request, "unable to find data for input tensor")


def test_fp16_has_no_typed_contents(rpc: Grpc) -> None:
    """2.8 InferTensorContents: FP16 travels only in raw form."""
    request = pb.ModelInferRequest(model_name="identity_fp16")
    request.inputs.add(name="input", datatype="FP16", shape=[1, 1])
    assert_invalid(rpc, request, "raw")


@pytest.mark.parametrize("count", [3, 5])
def test_typed_contents_that_do_not_fill_the_shape_are_refused(rpc: Grpc, count: int) -> None:
    """E17: as many values as the shape has elements."""
    request = pb.ModelInferRequest(model_name="matmul")
    entry = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    entry.contents.fp32_contents.extend([1.0] * count)
    assert_invalid(rpc, request, "unexpected size for input 'x'")


@pytest.mark.parametrize("raw", [b"", b"\0" * 15, b"\0" * 17])
def test_raw_contents_that_do_not_fill_the_shape_are_refused(rpc: Grpc, raw: bytes) -> None:
    """E17: raw byte length ≠ shape × type size."""
    request = good_request()
    request.raw_input_contents[0] = raw
    assert_invalid(rpc, request, "unexpected size for input 'x'")


@pytest.mark.parametrize("count", [0, 2, 3])
def test_raw_contents_belong_to_inputs_one_by_one(rpc: Grpc, count: int) -> None:
    """2.8, E17: one raw entry an input."""
    request = good_request()
    del request.raw_input_contents[:]
    request.raw_input_contents.extend([ROW.tobytes()] * count)
    assert_invalid(rpc, request)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT8", -129), ("INT16", 1 << 15), ("UINT8", 256), ("UINT16", 1 << 16)],
)
def test_typed_values_beyond_their_datatype_are_refused(
    rpc: Grpc, datatype: str, value: int
) -> None:
    """2.8 InferTensorContents: a value that the datatype cannot hold is not wrapped round."""
    request = typed_request(f"identity_{datatype.lower()}", datatype, [1, 1], [value])
    assert_invalid(rpc, request, datatype)


@pytest.mark.parametrize(
    "shape",
    [[-1, -4], [1, -1], [1] * 65, [0, 1 << 62, 1 << 62], [1 << 62, 1 << 62]],
    ids=["negative", "variable", "rank 65", "empty and huge", "huge"],
)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_an_absurd_shape_is_refused(rpc: Grpc, shape: list[int], raw: bool) -> None:
    """E07, E17: a shape that no tensor can have is the caller's fault, not the server's."""
    request = pb.ModelInferRequest(model_name="identity_fp32")
    entry = request.inputs.add(name="input", datatype="FP32", shape=shape)
    values = [1.0] * (1 if len(shape) == 65 else 0)
    if raw:
        request.raw_input_contents.append(np.array(values, np.float32).tobytes())
    else:
        entry.contents.fp32_contents.extend(values)
    assert_invalid(rpc, request)


def test_an_input_given_twice_is_refused(rpc: Grpc) -> None:
    """E10: names are unique."""
    request = good_request()
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(ROW.tobytes())
    assert_invalid(rpc, request, "'x'")


def test_an_output_asked_for_twice_is_refused(rpc: Grpc) -> None:
    """E10: names are unique, as over HTTP."""
    request = good_request()
    request.outputs.add(name="y")
    request.outputs.add(name="y")
    assert_invalid(rpc, request, "'y'")


def test_a_version_that_is_no_number_is_not_found(rpc: Grpc) -> None:
    """E02: NOT_FOUND."""
    request = good_request()
    request.model_version = "one"
    with pytest.raises(Refusal) as refused:
        infer(rpc, request)
    assert refused.value.status is grpc.StatusCode.NOT_FOUND


def test_parameters_of_every_kind_are_accepted(rpc: Grpc) -> None:
    """2.8 InferParameter: bool, int64, string, double and uint64 are read without complaint."""
    request = good_request()
    request.parameters["flag"].bool_param = True
    request.parameters["whole"].int64_param = -7
    request.parameters["text"].string_param = "a"
    request.parameters["real"].double_param = 0.5
    request.parameters["natural"].uint64_param = 7
    assert infer(rpc, request).outputs[0].name == "y"


def _tensor_of(size_bytes: int) -> Array:
    return np.zeros((1, size_bytes // 4), np.float32)


def test_a_message_above_four_mebibytes_is_read_and_answered(rpc: Grpc) -> None:
    """2.8 message limit: at least what HTTP accepts, above the 4 MiB of a stock server."""
    call = Call("identity_fp32", {"input": _tensor_of(5 << 20)})
    assert rpc.infer(call).outputs["output"].nbytes == 5 << 20


def test_a_message_over_the_limit_is_refused(rpc: Grpc, oip: OipServer) -> None:
    """E20: RESOURCE_EXHAUSTED from gRPC itself."""
    if oip.max_body_bytes is None:
        pytest.skip("the limit of a given server is not known")
    with pytest.raises(Refusal) as refused:
        rpc.infer(Call("identity_fp32", {"input": _tensor_of(oip.max_body_bytes + 4096)}))
    assert refused.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_deadline_that_has_passed_is_exceeded(rpc: Grpc) -> None:
    """2.3: the caller's own deadline ends the RPC with DEADLINE_EXCEEDED."""
    inputs = {"rounds": np.array([[500]], np.int64), "x": np.ones((1, 1), np.float32)}
    with pytest.raises(Refusal) as refused:
        rpc.ask(lambda: rpc.stub.ModelInfer(grpc_message(Call("slow", inputs)), timeout=0.001))
    assert refused.value.status is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_cancelled_rpc_leaves_the_server_able_to_answer(rpc: Grpc) -> None:
    """E35: CANCELLED, and nothing stays behind."""
    inputs = {"rounds": np.array([[100]], np.int64), "x": np.ones((1, 1), np.float32)}
    future = rpc.stub.ModelInfer.future(grpc_message(Call("slow", inputs)))
    future.cancel()
    assert future.code() is grpc.StatusCode.CANCELLED
    small = {"rounds": np.array([[0]], np.int64), "x": np.ones((1, 1), np.float32)}
    assert rpc.infer(Call("slow", small)).outputs["y"].tolist() == [[1.0]]


def test_answers_reach_their_own_callers(rpc: Grpc) -> None:
    """2.8 ModelInfer: callers at the same time, different values, each gets its own."""

    def call(value: int) -> list[list[float]]:
        x = np.full((1, 4), value, np.float32)
        rows: list[list[float]] = rpc.infer(Call("matmul", {"x": x})).outputs["y"].tolist()
        return rows

    with ThreadPoolExecutor(40) as callers:
        answers = list(callers.map(call, range(40)))
    assert answers == [(np.full((1, 4), v, np.float32) @ WEIGHTS).tolist() for v in range(40)]


def test_requests_of_different_inner_shapes_are_all_answered(rpc: Grpc) -> None:
    """2.8 ModelInfer: requests that cannot share a batch are run apart, whatever their order."""
    shapes = [(2, 3), (3, 2)] * 20

    def call(position: int) -> list[tuple[int, ...]]:
        left, right = shapes[position]
        inputs = {
            "a": np.full((1, left), position, np.float32),
            "b": np.full((1, right), position, np.float32),
        }
        names = ("a", "b") if position % 2 else ("b", "a")
        outputs = rpc.infer(Call("two_identities", {n: inputs[n] for n in names})).outputs
        return [outputs["left"].shape, outputs["right"].shape]

    with ThreadPoolExecutor(len(shapes)) as callers:
        answers = list(callers.map(call, range(len(shapes))))
    assert answers == [[(1, left), (1, right)] for left, right in shapes]


def test_reflection_lists_the_services(oip: OipServer) -> None:
    """2.7: reflection is there for grpcurl."""
    with grpc.insecure_channel(oip.grpc_address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(stub.ServerReflectionInfo(iter([request])))
    names = {service.name for service in answer.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names


def test_a_batch_of_strings_in_typed_contents_is_answered(rpc: Grpc) -> None:
    """2.8 bytes_contents: BYTES in typed form come back in raw form."""
    words = [b"a", b"", b"ccc", b"dd"]
    response = infer(rpc, typed_request("batched_bytes", "BYTES", [2, 2], words))
    got = from_wire(response.raw_output_contents[0], "BYTES", response.outputs[0].shape)
    assert got.tolist() == bytes_array(words, (2, 2)).tolist()
