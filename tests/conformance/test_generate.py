"""generate and generate_stream (H12, 2.9): tritonclient has no helper, so plain HTTP."""

import json

import httpx
import pytest

GENERATE = "/v2/models/matmul/generate"
STREAM = "/v2/models/matmul/generate_stream"
ANSWER = {"model_name": "matmul", "model_version": "1", "y": [60.0, 70.0, 80.0]}
ROW = {"x": [1, 2, 3, 4]}


@pytest.mark.parametrize("base", ["/v2/models/matmul", "/v2/models/matmul/versions/1"])
def test_generate_answers_tensors_by_name(http: httpx.Client, base: str) -> None:
    """H12, 2.9: tensors at top level in both directions, with and without a version."""
    answer = http.post(f"{base}/generate", json=ROW)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == ANSWER


def test_text_goes_in_and_comes_out_as_a_string(http: httpx.Client) -> None:
    """2.9: a tensor of one element is a value."""
    answer = http.post("/v2/models/identity_bytes/generate", json={"input": "¿qué?"})
    assert answer.json()["output"] == "¿qué?"


def test_generate_echoes_the_id(http: httpx.Client) -> None:
    """2.9: `id` is optional and comes back."""
    assert http.post(GENERATE, json=ROW | {"id": "a"}).json() == ANSWER | {"id": "a"}


@pytest.mark.parametrize("extra", [{"temperature": 0.5}, {"parameters": {"deep": True}}], ids=str)
def test_what_is_no_tensor_is_a_parameter(http: httpx.Client, extra: dict[str, object]) -> None:
    """2.9: other keys, and those of `parameters`, are parameters, which a model may ignore."""
    answer = http.post(GENERATE, json=ROW | extra)
    assert answer.status_code == 200
    assert answer.json()["y"] == ANSWER["y"]


@pytest.mark.parametrize("value", [{"a": 1}, [1], None])
def test_a_parameter_must_be_a_plain_value(http: httpx.Client, value: object) -> None:
    """2.9: anything but a string, a number or a boolean is 400 and named."""
    refused = http.post(GENERATE, json=ROW | {"depth": value})
    assert refused.status_code == 400
    assert "'depth'" in refused.json()["error"]


def test_a_missing_input_is_named(http: httpx.Client) -> None:
    """E08, 2.9: `expected N inputs but got M`."""
    refused = http.post("/v2/models/sum_and_difference/generate", json={"a": [1, 2, 3, 4]})
    assert refused.status_code == 400
    assert "expected 2 inputs but got 1 inputs" in refused.json()["error"]
    assert "'b'" in refused.json()["error"]


@pytest.mark.parametrize("path", [GENERATE, STREAM])
@pytest.mark.parametrize("values", [[1, 2, 3], ["a"]])
def test_values_that_do_not_fit_the_input_are_refused(
    http: httpx.Client, path: str, values: object
) -> None:
    """2.9: 400 before any event, with the input's name."""
    refused = http.post(path, json={"x": values})
    assert refused.status_code == 400
    assert "'x'" in refused.json()["error"]


@pytest.mark.parametrize("path", [GENERATE, STREAM])
@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_a_generate_body_that_is_no_object_is_refused(
    http: httpx.Client, path: str, body: bytes
) -> None:
    """E11: 400."""
    assert http.post(path, content=body).status_code == 400


@pytest.mark.parametrize("name", ["generate", "generate_stream"])
def test_an_unknown_model_cannot_generate(http: httpx.Client, name: str) -> None:
    """E01: 404 with Triton's words."""
    refused = http.post(f"/v2/models/nowhere/{name}", json={})
    assert refused.status_code == 404
    assert "Request for unknown model: 'nowhere' is not found" in refused.json()["error"]


def test_a_stream_is_server_sent_events(http: httpx.Client) -> None:
    """2.9: `text/event-stream`, each event one line `data: {json}` and an empty line."""
    answer = http.post(STREAM, json=ROW)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    event, end = answer.text.split("\n\n")
    assert end == ""
    assert json.loads(event.removeprefix("data: ")) == ANSWER


@pytest.mark.parametrize("path", [GENERATE, STREAM])
def test_generate_reads_plain_bodies_only(http: httpx.Client, path: str) -> None:
    """E22: any Content-Encoding but identity is 400 on these routes."""
    refused = http.post(path, json=ROW, headers={"Content-Encoding": "gzip"})
    assert refused.status_code == 400


@pytest.mark.parametrize("path", [GENERATE, STREAM])
def test_generate_is_posted(http: httpx.Client, path: str) -> None:
    """H21: another method is 405."""
    assert http.get(path).status_code == 405
