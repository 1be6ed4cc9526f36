"""The generate extension over a core that answers as often as a test says."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from atril_common.core import InferResponse, ModelMetadata
from atril_common.errors import InternalError, InvalidInputError, NotReadyError
from atril_common.lifecycle import Lifecycle
from atril_common.oip.controls import Controls
from atril_common.oip.generate import read_generation, write_generation
from atril_common.oip.http import create_oip_app
from atril_common.oip.http_infer import InferHandler
from atril_common.telemetry import Telemetry
from atril_common.tensors import Tensor, TensorSpec
from tests.unit.common.fake_core import FakeCore

GENERATE = "/v2/models/twice/generate"
STREAM = "/v2/models/twice/generate_stream"
BODY = {"x": [1, 2]}
ANSWER = {"model_name": "twice", "model_version": "1", "y": [2.0, 4.0]}


def metadata(*shape: int, datatype: str = "FP32") -> ModelMetadata:
    """A model with one input `x`."""
    return ModelMetadata("m", ("1",), "none", (TensorSpec("x", datatype, shape),), ())


def tensor(value: object, *shape: int, datatype: str = "FP32") -> Tensor:
    """What `x` becomes."""
    request = read_generation(metadata(*shape, datatype=datatype), "", {"x": value}).request
    return request.inputs["x"]


@pytest.mark.parametrize(
    ("value", "declared", "shape"),
    [
        ([1, 2, 3, 4], (-1, 4), (1, 4)),
        ([1, 2, 3, 4, 5, 6, 7, 8], (-1, 4), (2, 4)),
        ([1, 2], (-1, -1), (1, 2)),
        (1.5, (-1, -1), (1, 1)),
        (1.5, (1,), (1,)),
        ([], (-1,), (0,)),
        ([1, 2, 3, 4, 5, 6], (2, 3), (2, 3)),
        ([[1, 2, 3], [4, 5, 6]], (2, 3), (2, 3)),
        ([[1, 2, 3], [4, 5, 6]], (-1, 2, 3), (1, 2, 3)),
        ([[1, 2], [3, 4]], (-1, 2), (2, 2)),
    ],
)
def test_values_take_the_shape_that_the_model_declares(
    value: object, declared: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    """2.9: a value or a flat list fills the declared shape, nested lists have their own."""
    made = tensor(value, *declared)
    assert made.shape == shape
    assert made.ravel().tolist() == np.ravel(np.array(value)).tolist()


@pytest.mark.parametrize(
    ("value", "declared"),
    [([1, 2, 3], (-1, 4)), ([1, 2, 3], (2, 3)), ([[[1, 2]]], (-1, 2))],
)
def test_values_that_fit_no_shape_are_refused(value: object, declared: tuple[int, ...]) -> None:
    """2.9: the text names the input and what the model expects."""
    with pytest.raises(InvalidInputError, match=r"'x'.*expected|Shape does not match"):
        tensor(value, *declared)
    with pytest.raises(InvalidInputError, match="FP16 has no JSON form"):
        tensor(1.5, 1, datatype="FP16")


def test_what_is_no_tensor_is_a_parameter() -> None:
    """2.9: at top level or in `parameters`; `id` is neither."""
    message = {"x": [1], "temperature": 0.5, "id": "a", "parameters": {"stream": True}}
    generation = read_generation(metadata(-1), "3", message)
    assert generation.request_id == "a"
    assert generation.request.model_version == "3"
    assert generation.request.options.parameters == (("stream", True), ("temperature", 0.5))


@pytest.mark.parametrize(
    "message",
    [{"id": 7}, {"p": {"a": 1}}, {"p": [1]}, {"p": None}, {"parameters": 1}, {"x": ["a"]}],
    ids=str,
)
def test_a_malformed_request_is_refused(message: dict[str, Any]) -> None:
    """2.9, E11: the text names the field."""
    with pytest.raises(InvalidInputError, match=f"'{next(iter(message))}'"):
        read_generation(metadata(-1), "", {"x": [1]} | message)


def test_an_answer_has_values_for_single_elements_and_flat_lists() -> None:
    """2.9: tensors by name beside model_name, model_version and id."""
    text = np.array([b"hello"], dtype=object)
    rows = np.array([[1, 2], [3, 4]], np.int32)
    answer = write_generation(InferResponse("m", "2", {"text": text, "rows": rows}), "a")
    assert json.loads(answer) == {
        "model_name": "m",
        "model_version": "2",
        "id": "a",
        "text": "hello",
        "rows": [1, 2, 3, 4],
    }


@pytest.fixture
def core() -> FakeCore:
    """One response, unless a test says otherwise."""
    return FakeCore()


@pytest.fixture
async def http(core: FakeCore) -> AsyncIterator[httpx.AsyncClient]:
    """The routes."""
    handler = InferHandler(core, Telemetry(), 1024, Controls())
    app = create_oip_app(core, Lifecycle(), handler, Controls())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as client:
        yield client


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream, each one line `data: {json}` and an empty line."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *lines, end = response.text.split("\n\n")
    assert end == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_one_response_is_an_object(http: httpx.AsyncClient) -> None:
    """2.9: `/generate` answers JSON."""
    answer = await http.post(GENERATE, json=BODY)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == ANSWER


@pytest.mark.parametrize("responses", [0, 2, 3])
async def test_generate_refuses_any_other_number_of_responses(
    http: httpx.AsyncClient, core: FakeCore, responses: int
) -> None:
    """2.9: zero or several responses are an error, and the model is let go."""
    core.responses = responses
    refused = await http.post(GENERATE, json=BODY)
    assert refused.status_code == 501
    assert "expects model to produce exactly 1 response" in refused.json()["error"]
    assert core.closed.is_set()


@pytest.mark.parametrize("responses", [0, 1, 3])
async def test_a_stream_has_one_event_a_response(
    http: httpx.AsyncClient, core: FakeCore, responses: int
) -> None:
    """2.9: any number of responses."""
    core.responses = responses
    assert events(await http.post(STREAM, json=BODY)) == [ANSWER] * responses


async def test_a_failure_before_the_first_response_has_a_status(
    http: httpx.AsyncClient, core: FakeCore
) -> None:
    """2.9: it is a JSON error as on any other route."""
    core.responses, core.error = 0, NotReadyError("not now")
    for path in (GENERATE, STREAM):
        refused = await http.post(path, json=BODY)
        assert refused.status_code == 503
        assert refused.json() == {"error": "not now"}


async def test_a_failure_after_the_first_response_is_an_event(
    http: httpx.AsyncClient, core: FakeCore
) -> None:
    """2.9: the status is sent by then; the stream ends with an event that tells the error."""
    core.responses, core.error = 2, InternalError("the tape tore")
    answer = await http.post(STREAM, json=BODY)
    assert answer.status_code == 200
    assert events(answer) == [ANSWER, ANSWER, {"error": "the tape tore"}]


async def test_a_fault_nobody_foresaw_tells_no_internals(
    http: httpx.AsyncClient, core: FakeCore, caplog: pytest.LogCaptureFixture
) -> None:
    """The event says internal error, the log says which."""
    core.error = ZeroDivisionError("secret")
    *_, last = events(await http.post(STREAM, json=BODY))
    assert "secret" not in last["error"]
    assert "secret" in caplog.text


async def test_a_caller_who_leaves_cancels_the_request(core: FakeCore) -> None:
    """2.9: the model is not asked for what nobody reads."""
    core.hold = True
    handler = InferHandler(core, Telemetry(), 1024, Controls())
    app = create_oip_app(core, Lifecycle(), handler, Controls())
    sent: list[Any] = []
    first = asyncio.Event()
    body = {"type": "http.request", "body": json.dumps(BODY).encode(), "more_body": False}
    messages = iter([body])

    async def receive() -> Any:
        message = next(messages, None)
        if message is None:
            await first.wait()
            return {"type": "http.disconnect"}
        return message

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body"):
            first.set()

    scope = {
        "type": "http",
        "method": "POST",
        "path": STREAM,
        "headers": [],
        "query_string": b"",
    }
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    assert core.closed.is_set()
    assert sent[0]["status"] == 200


async def test_only_plain_bodies_are_read(http: httpx.AsyncClient) -> None:
    """E22: any Content-Encoding but identity is 400 on these routes."""
    for path in (GENERATE, STREAM):
        refused = await http.post(path, json=BODY, headers={"Content-Encoding": "gzip"})
        assert refused.status_code == 400
        assert "content-encoding" in refused.json()["error"]
