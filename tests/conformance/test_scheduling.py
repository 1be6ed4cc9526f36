"""Sequences, priorities and time-outs of requests over both protocols (2.10, E25, E27)."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.transports import Call, Grpc, Refusal, grpc_message
from tests.support.waiting import wait_until

_ids = itertools.count(1000)

Ask = Callable[[float, dict[str, Any]], tuple[float, float]]
"""A request to `recurrences` with parameters; answers y and w, or raises `Refusal`."""


def over_http(http: httpx.Client) -> Ask:
    """In JSON."""

    def ask(value: float, parameters: dict[str, Any]) -> tuple[float, float]:
        entry = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}
        body = {"inputs": [entry], "parameters": parameters}
        response = http.post("/v2/models/recurrences/infer", json=body)
        if response.status_code != 200:
            raise Refusal(response.status_code, response.json()["error"])
        outputs = {o["name"]: o["data"][0] for o in response.json()["outputs"]}
        assert set(outputs) == {"y", "w"}, "a state was answered"
        return outputs["y"], outputs["w"]

    return ask


def over_grpc(rpc: Grpc) -> Ask:
    """In raw tensors."""

    def ask(value: float, parameters: dict[str, Any]) -> tuple[float, float]:
        message = grpc_message(Call("recurrences", {"x": np.array([[value]], np.float32)}))
        set_parameters(message, parameters)
        answer = rpc.ask(lambda: rpc.stub.ModelInfer(message, timeout=20))
        names = [output.name for output in answer.outputs]
        values = [np.frombuffer(raw, np.float32).item() for raw in answer.raw_output_contents]
        outputs = dict(zip(names, values, strict=True))
        assert set(outputs) == {"y", "w"}, "a state was answered"
        return outputs["y"], outputs["w"]

    return ask


def set_parameters(message: Any, parameters: dict[str, Any]) -> None:
    """Write the parameters of a gRPC request."""
    for name, value in parameters.items():
        parameter = message.parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            parameter.int64_param = value
        else:
            parameter.string_param = value


def recurrences(values: list[float]) -> list[tuple[float, float]]:
    """What a sequence of `two_recurrences` is to answer."""
    y = w = 0.0
    steps = []
    for value in values:
        y, w = 2 * y + value, w + 3 * value
        steps.append((y, w))
    return steps


@pytest.mark.parametrize("text", [False, True], ids=["integer", "string"])
def test_interleaved_sequences_of_both_protocols_never_mix(
    http: httpx.Client, rpc: Grpc, *, text: bool
) -> None:
    """2.10 sequence: `sequence_id`, `sequence_start`, `sequence_end`; each sees its own state."""
    values = [[1.0, 2.0, 3.0, 4.0], [9.0, 0.0, -9.0, 5.0], [7.0, 7.0, 7.0, 7.0]]
    asks = [over_http(http), over_grpc(rpc), over_http(http)]
    names = [f"s{next(_ids)}" if text else next(_ids) for _ in values]
    answers: list[list[tuple[float, float]]] = [[] for _ in values]
    for position in range(4):
        for ask, name, own, got in zip(asks, names, values, answers, strict=True):
            parameters = {"sequence_id": name}
            if position == 0:
                parameters["sequence_start"] = True
            if position == 3:
                parameters["sequence_end"] = True
            got.append(ask(own[position], parameters))
    assert answers == [recurrences(own) for own in values]


def test_a_sequence_goes_on_over_the_other_protocol(http: httpx.Client, rpc: Grpc) -> None:
    """2.10 sequence: it belongs to the server, not to a connection."""
    name = next(_ids)
    first = over_http(http)(1, {"sequence_id": name, "sequence_start": True})
    second = over_grpc(rpc)(2, {"sequence_id": name})
    third = over_http(http)(3, {"sequence_id": name, "sequence_end": True})
    assert [first, second, third] == recurrences([1, 2, 3])


@pytest.mark.parametrize("over", [over_http, over_grpc])
def test_a_sequence_must_be_started(
    http: httpx.Client, rpc: Grpc, over: Callable[[Any], Ask]
) -> None:
    """E27: 400, INVALID_ARGUMENT; also after its end."""
    ask = over(http if over is over_http else rpc)
    name = next(_ids)
    unknown = {"sequence_id": name}
    with pytest.raises(Refusal, match="must specify the START flag on the first request"):
        ask(1, unknown)
    assert ask(1, {**unknown, "sequence_start": True, "sequence_end": True}) == (1, 3)
    with pytest.raises(Refusal, match="must specify the START flag") as refused:
        ask(1, unknown)
    assert "400" in str(refused.value.status) or "INVALID_ARGUMENT" in str(refused.value.status)


@pytest.mark.parametrize("over", [over_http, over_grpc])
def test_a_model_of_sequences_needs_a_sequence(
    http: httpx.Client, rpc: Grpc, over: Callable[[Any], Ask]
) -> None:
    """2.10 sequence: 0 and empty are none."""
    ask = over(http if over is over_http else rpc)
    for none in ({}, {"sequence_id": 0}, {"sequence_id": ""}):
        with pytest.raises(Refusal, match="non-zero or non-empty"):
            ask(1, {**none, "sequence_start": True})


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_request_that_waited_too_long_is_answered_so(
    http: httpx.Client, rpc: Grpc, protocol: str
) -> None:
    """E25, 2.10 `timeout`: 503, UNAVAILABLE, where the configuration allows it to be set."""
    stop = threading.Event()

    def ask_http(rounds: int, parameters: dict[str, Any]) -> None:
        inputs = [
            {"name": "rounds", "shape": [1, 1], "datatype": "INT64", "data": [rounds]},
            {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0]},
        ]
        response = http.post(
            "/v2/models/scheduled/infer", json={"inputs": inputs, "parameters": parameters}
        )
        if response.status_code != 200:
            raise Refusal(response.status_code, response.json()["error"])

    def ask_grpc(rounds: int, parameters: dict[str, Any]) -> None:
        inputs = {"rounds": np.array([[rounds]], np.int64), "x": np.zeros((1, 1), np.float32)}
        message = grpc_message(Call("scheduled", inputs))
        set_parameters(message, parameters)
        rpc.ask(lambda: rpc.stub.ModelInfer(message, timeout=20))

    def keep_busy() -> None:
        while not stop.is_set():
            ask_http(500, {"priority": 1})

    refusals: list[Refusal] = []

    def refused() -> bool:
        try:
            (ask_http if protocol == "http" else ask_grpc)(0, {"timeout": 1000, "priority": 2})
        except Refusal as err:
            refusals.append(err)
        return bool(refusals)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        wait_until(refused, "a request to be refused for its time-out")
    finally:
        stop.set()
        busy.join()
    assert "Request timeout expired" in refusals[0].text
    assert "503" in str(refusals[0].status) or "UNAVAILABLE" in str(refusals[0].status)
