"""Parameters of a request over both protocols (2.8, 2.10, E18)."""

from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.support.tiny_models import WEIGHTS
from tests.support.transports import Call, Grpc, Refusal, grpc_message

PATH = "/v2/models/matmul/infer"
ROW = [1.0, 2.0, 3.0, 4.0]
ANSWER = (np.array([ROW], np.float32) @ WEIGHTS).ravel().tolist()


def post(http: httpx.Client, parameters: dict[str, Any]) -> httpx.Response:
    """A good request to `matmul` with these parameters."""
    entry = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW}
    return http.post(PATH, json={"inputs": [entry], "parameters": parameters})


def infer(rpc: Grpc, parameters: dict[str, Any]) -> Any:
    """The same over gRPC; values are `InferParameter` messages or given by their field."""
    message = grpc_message(Call("matmul", {"x": np.array([ROW], np.float32)}))
    for name, fields in parameters.items():
        message.parameters[name].CopyFrom(pb.InferParameter(**fields))
    return rpc.ask(lambda: rpc.stub.ModelInfer(message, timeout=20))


@pytest.mark.parametrize(
    "parameters",
    [
        {"mine": "a", "number": 1.5, "count": -3, "flag": True},
        {"sequence_id": 0},
        {"sequence_id": "", "sequence_start": True, "sequence_end": True},
        {"priority": 0, "timeout": 0},
        {"timeout": 5_000_000},
    ],
    ids=str,
)
def test_parameters_do_not_change_the_answer(http: httpx.Client, parameters: Any) -> None:
    """2.10: those of others reach the back end, those of the protocol have their own meaning."""
    assert post(http, parameters).json()["outputs"][0]["data"] == ANSWER


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence_id", -1),
        ("sequence_id", 1.5),
        ("sequence_id", True),
        ("sequence_start", 1),
        ("sequence_end", "yes"),
        ("priority", -1),
        ("priority", "high"),
        ("timeout", -1),
        ("timeout", 0.5),
        ("mine", None),
        ("mine", [1]),
        ("mine", {"a": 1}),
        ("mine", "x" * 70_000),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_parameter_of_the_wrong_kind_is_named(http: httpx.Client, name: str, value: Any) -> None:
    """2.10, 2.2 parameters: 400 with the parameter's name, or the limit on all of them."""
    response = post(http, {name: value})
    assert response.status_code == 400
    assert "parameter" in response.json()["error"]
    assert post(http, {}).status_code == 200


@pytest.mark.parametrize("name", ["triton_", "triton_enable_empty_final_response", "triton_x"])
def test_reserved_parameters_are_refused_over_http(http: httpx.Client, name: str) -> None:
    """E18: what begins with `triton_` is not for requests over HTTP."""
    response = post(http, {name: True})
    assert response.status_code == 400
    assert "'triton_' are reserved" in response.json()["error"]


def test_too_many_parameters_are_refused(http: httpx.Client) -> None:
    """2.10: parameters are bounded in number."""
    assert post(http, {f"p{i}": i for i in range(1000)}).status_code == 400


@pytest.mark.parametrize(
    "parameters",
    [
        {"mine": {"string_param": "a"}, "number": {"double_param": 1.5}},
        {"sequence_id": {"int64_param": 0}, "sequence_start": {"bool_param": True}},
        {"sequence_id": {"string_param": ""}},
        {"priority": {"uint64_param": 0}, "timeout": {"int64_param": 5_000_000}},
        {"triton_enable_empty_final_response": {"bool_param": True}},
    ],
    ids=str,
)
def test_grpc_parameters_do_not_change_the_answer(rpc: Grpc, parameters: Any) -> None:
    """2.8 parameters: each kind of value, the protocol's own names and the known `triton_` one."""
    response = infer(rpc, parameters)
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == ANSWER


def test_only_the_known_reserved_parameter_is_read_over_grpc(rpc: Grpc) -> None:
    """E18, 2.8: `triton_enable_empty_final_response` is one for streams, no other is taken."""
    with pytest.raises(Refusal) as refused:
        infer(rpc, {"triton_unknown": {"bool_param": True}})
    assert refused.value.status is grpc.StatusCode.INVALID_ARGUMENT
    assert "'triton_' are reserved" in refused.value.text


@pytest.mark.parametrize(
    "parameters",
    [
        {"sequence_id": {"int64_param": -1}},
        {"sequence_id": {"bool_param": True}},
        {"sequence_start": {"int64_param": 1}},
        {"priority": {"int64_param": -1}},
        {"timeout": {"string_param": "5"}},
        {"mine": {}},
    ],
    ids=str,
)
def test_a_grpc_parameter_of_the_wrong_kind_is_named(rpc: Grpc, parameters: Any) -> None:
    """2.8 parameters: INVALID_ARGUMENT with the parameter's name."""
    with pytest.raises(Refusal) as refused:
        infer(rpc, parameters)
    assert refused.value.status is grpc.StatusCode.INVALID_ARGUMENT
    assert next(iter(parameters)) in refused.value.text


@pytest.mark.parametrize("sequence_id", [2**40 + 7, "añil"])
def test_an_answer_names_its_sequence(
    http: httpx.Client, rpc: Grpc, sequence_id: int | str
) -> None:
    """2.10 sequence: id and flags come back as parameters, over both protocols and in streams."""
    asked = {"sequence_id": sequence_id, "sequence_start": True, "sequence_end": True}
    entry = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}
    body = {"inputs": [entry], "parameters": asked}
    response = http.post("/v2/models/recurrences/infer", json=body)
    assert response.json()["parameters"] == asked
    message = grpc_message(Call("recurrences", {"x": np.ones((1, 1), np.float32)}))
    if isinstance(sequence_id, int):
        message.parameters["sequence_id"].int64_param = sequence_id
    else:
        message.parameters["sequence_id"].string_param = sequence_id
    message.parameters["sequence_start"].bool_param = True
    message.parameters["sequence_end"].bool_param = True
    answer = rpc.ask(lambda: rpc.stub.ModelInfer(message, timeout=20))
    assert dict(answer.parameters) == dict(message.parameters)
    (streamed,) = rpc.stub.ModelStreamInfer(iter([message]), timeout=20)
    parameters = dict(streamed.infer_response.parameters)
    assert parameters.pop("triton_final_response").bool_param
    assert parameters == dict(message.parameters)
