"""ModelStreamInfer (2.8) and decoupled models (E23)."""

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2 as pb

from tests.support.servers import OipServer
from tests.support.tiny_models import WEIGHTS
from tests.support.transports import Call, Grpc, Refusal, grpc_message

TIMEOUT_S = 30
FINAL = "triton_final_response"


def matmul(value: float, model_name: str = "matmul", **parameters: bool) -> Any:
    """A request whose answer tells `value`, which is its id too."""
    x = np.full((1, 4), value, np.float32)
    message = grpc_message(Call(model_name, {"x": x}, request_id=str(value)))
    for name, flag in parameters.items():
        message.parameters[name].bool_param = flag
    return message


def slow(request_id: str, rounds: int) -> Any:
    """A request that takes a while."""
    inputs = {"rounds": np.array([[rounds]], np.int64), "x": np.ones((1, 1), np.float32)}
    return grpc_message(Call("slow", inputs, request_id=request_id))


def bad() -> Any:
    """A request to an unknown model."""
    return grpc_message(Call("nowhere", {"x": np.ones((1, 4), np.float32)}, request_id="bad"))


def stream(rpc: Grpc, *requests: Any, metadata: Any = ()) -> list[Any]:
    """Send requests and read all that comes."""
    call = rpc.stub.ModelStreamInfer(iter(requests), timeout=TIMEOUT_S, metadata=metadata)
    return rpc.ask(lambda: list(call))


def values_of(message: Any) -> list[float]:
    """The numbers of an answer, which is none of an error."""
    assert not message.error_message
    values: list[float] = np.frombuffer(
        message.infer_response.raw_output_contents[0], np.float32
    ).tolist()
    return values


def expected(value: float) -> list[float]:
    """What `matmul` answers."""
    row: list[float] = (np.full((1, 4), value, np.float32) @ WEIGHTS).ravel().tolist()
    return row


def test_many_requests_on_one_stream_are_answered_in_order(rpc: Grpc) -> None:
    """2.8: one response a request, in order, each final, also beyond what runs at once."""
    messages = stream(rpc, *(matmul(i) for i in range(200)))
    assert [m.infer_response.id for m in messages] == [str(i) for i in range(200)]
    assert [values_of(m) for m in messages] == [expected(i) for i in range(200)]
    assert all(m.infer_response.parameters[FINAL].bool_param for m in messages)


def test_a_quick_answer_does_not_overtake_a_slow_one(rpc: Grpc) -> None:
    """2.8: the order is that of the requests, across models."""
    messages = stream(rpc, slow("slow", 50), matmul(1), slow("slower", 10), matmul(2))
    assert [m.infer_response.id for m in messages] == ["slow", "1", "slower", "2"]


def test_one_bad_request_does_not_end_the_stream(rpc: Grpc) -> None:
    """2.8: an in-band `error_message`, and the stream lives on."""
    wrong = grpc_message(Call("matmul", {"x": np.ones((1, 3), np.float32)}, request_id="shape"))
    messages = stream(rpc, matmul(1), bad(), wrong, matmul(2))
    assert [m.infer_response.id for m in messages] == ["1", "bad", "shape", "2"]
    assert "'nowhere' is not found" in messages[1].error_message
    assert "unexpected shape" in messages[2].error_message
    assert values_of(messages[3]) == expected(2)


def test_a_stream_may_ask_for_true_statuses(rpc: Grpc) -> None:
    """2.8: with metadata `triton_grpc_error: true` the first error ends the stream."""
    requests = [matmul(1), bad(), matmul(2)]
    metadata = (("triton_grpc_error", "true"),)
    call = rpc.stub.ModelStreamInfer(iter(requests), timeout=TIMEOUT_S, metadata=metadata)
    received: list[Any] = []
    with pytest.raises(Refusal) as refused:
        rpc.ask(lambda: _collect(call, received))
    assert refused.value.status is grpc.StatusCode.NOT_FOUND
    assert "'nowhere' is not found" in refused.value.text
    assert [m.infer_response.id for m in received] == ["1"]


def _collect(call: Any, received: list[Any]) -> None:
    for message in call:
        received.append(message)


def test_an_empty_stream_ends_at_once(rpc: Grpc) -> None:
    """2.8: no request, no answer, no error."""
    assert stream(rpc) == []


def test_a_stream_answers_before_it_has_been_sent_to_its_end(rpc: Grpc) -> None:
    """2.8: request and answer take turns."""
    outgoing: queue.Queue[Any] = queue.Queue()
    call = rpc.stub.ModelStreamInfer(iter(outgoing.get, None), timeout=TIMEOUT_S)
    for value in (1.0, 2.0, 3.0):
        outgoing.put(matmul(value))
        assert values_of(next(call)) == expected(value)
    outgoing.put(None)
    assert list(call) == []


def test_a_cancelled_stream_leaves_the_server_able_to_answer(rpc: Grpc) -> None:
    """E35, 2.8: CANCELLED, and what waited behind it is dropped."""
    outgoing: queue.Queue[Any] = queue.Queue()
    call = rpc.stub.ModelStreamInfer(iter(outgoing.get, None), timeout=TIMEOUT_S)
    outgoing.put(matmul(1))
    assert values_of(next(call)) == expected(1)
    for position in range(50):
        outgoing.put(slow(str(position), 200))
    call.cancel()
    outgoing.put(None)
    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() is grpc.StatusCode.CANCELLED
    assert values_of(stream(rpc, matmul(2))[0]) == expected(2)


@pytest.mark.parametrize("wanted", [False, True])
def test_an_empty_final_response_is_for_decoupled_models_that_are_asked(
    rpc: Grpc, wanted: bool
) -> None:
    """2.8 `triton_enable_empty_final_response`: a closing empty response, nothing otherwise."""
    flags = {"triton_enable_empty_final_response": wanted}
    assert len(stream(rpc, matmul(1, **flags))) == 1
    messages = stream(rpc, matmul(1, "decoupled", **flags))
    assert values_of(messages[0]) == expected(1)
    closing = messages[1:]
    assert [len(m.infer_response.outputs) for m in closing] == [0] * wanted
    assert all(m.infer_response.parameters[FINAL].bool_param for m in closing)
    assert all(m.infer_response.id == "1" for m in messages)


def test_a_decoupled_model_refuses_requests_for_one_response(rpc: Grpc, http: httpx.Client) -> None:
    """E23: 501 / UNIMPLEMENTED, `decoupled`."""
    with pytest.raises(Refusal) as refused:
        rpc.ask(lambda: rpc.stub.ModelInfer(matmul(1, "decoupled"), timeout=TIMEOUT_S))
    assert refused.value.status is grpc.StatusCode.UNIMPLEMENTED
    assert "decoupled" in refused.value.text
    entry = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}
    response = http.post("/v2/models/decoupled/infer", json={"inputs": [entry]})
    assert response.status_code == 501
    assert "decoupled" in response.json()["error"]


@pytest.fixture
def triton(oip: OipServer) -> Iterator[triton_grpc.InferenceServerClient]:
    """Triton's own client."""
    with triton_grpc.InferenceServerClient(oip.grpc_address) as client:
        yield client


def test_triton_streams(triton: triton_grpc.InferenceServerClient) -> None:
    """2.8: `start_stream`, `async_stream_infer` and `stop_stream` of tritonclient.grpc."""
    results: queue.Queue[Any] = queue.Queue()
    triton.start_stream(lambda result, error: results.put((result, error)))
    for value in range(10):
        entry = triton_grpc.InferInput("x", [1, 4], "FP32")
        entry.set_data_from_numpy(np.full((1, 4), value, np.float32))
        name = "nowhere" if value == 5 else "matmul"
        triton.async_stream_infer(name, [entry], request_id=str(value))
    triton.stop_stream()
    for value in range(10):
        result, error = results.get(timeout=TIMEOUT_S)
        if value == 5:
            assert "'nowhere' is not found" in str(error)
        else:
            assert error is None
            assert result.as_numpy("y").ravel().tolist() == expected(value)
            assert result.get_response().id == str(value)


def test_a_message_of_another_kind_ends_the_stream(oip: OipServer) -> None:
    """2.8: what is no request cannot be answered in its place."""
    with grpc.insecure_channel(oip.grpc_address) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(
            iter([matmul(1).SerializeToString(), b"\xff\xff"]), timeout=TIMEOUT_S
        )
        received: list[Any] = []
        with pytest.raises(grpc.RpcError):
            _collect(call, received)
    assert call.code() is grpc.StatusCode.INTERNAL
    assert values_of(pb.ModelStreamInferResponse.FromString(received[0])) == expected(1)
