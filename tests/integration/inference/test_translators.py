"""Translators over the protocol: a real service, and the graphs that training publishes."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.support.processes import ServerProcess, inference_process, started
from tests.support.translator_repository import write_translator

TEXT = "w4 w9 w5"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The service with a translator that attends, one that does not, and one that is broken."""
    root: Path = tmp_path_factory.mktemp("repository")
    write_translator(root, "bahdanau", "attending")
    write_translator(root, "rnn-encoder-decoder", "plain")
    broken = write_translator(root, "transformer", "broken")
    (broken / "decoder.onnx").unlink()
    with started(inference_process(root, {})) as process:
        process.wait_loaded(("attending", "1"), ("plain", "1"), ("broken", "1"))
        yield process


@pytest.fixture(scope="module")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    """Plain HTTP."""
    with httpx.Client(base_url=server.http_url, timeout=30) as client:
        yield client


def generate(http: httpx.Client, model: str = "attending", **body: object) -> httpx.Response:
    """One request to the generate route."""
    return http.post(f"/v2/models/{model}/generate", json={"text_input": TEXT, **body})


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream."""
    lines = [line for line in answer.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("model", ["attending", "plain"])
def test_a_text_is_answered_with_a_text(http: httpx.Client, model: str) -> None:
    """Its score, and whether it was written to its end, come with it; twice the same is equal."""
    answer = generate(http, model).raise_for_status().json()

    assert answer["model_name"] == model
    assert isinstance(answer["text_output"], str)
    assert answer["text_output"]
    assert answer["score"] < 0
    assert answer["finished"] in (True, False)
    assert generate(http, model).json() == answer


def test_the_pieces_of_a_stream_are_the_text(http: httpx.Client) -> None:
    """Each event has a piece, one a word; together they are what generate answers."""
    whole = generate(http).json()["text_output"]

    answer = http.post(
        "/v2/models/attending/generate_stream", json={"text_input": TEXT, "stream": True}
    )

    pieces = [event["text_output"] for event in events(answer)]
    assert "".join(pieces) == whole
    assert len(pieces) == len(whole.split())


def test_an_explanation_has_a_weight_for_each_pair(http: httpx.Client) -> None:
    """Tokens read, tokens written, and a row that sums to 1 for each of these."""
    answer = generate(http, explain=True).raise_for_status().json()

    assert answer["source_tokens"] == ["w4", "w9", "w5", "<eos>"]
    weights = np.reshape(answer["attention"], (len(answer["target_tokens"]), 4))
    assert weights.sum(axis=1) == pytest.approx(np.ones(len(weights)), abs=1e-5)
    assert answer["text_output"] == generate(http).json()["text_output"]


def test_requests_at_the_same_time_get_their_own_answers(
    http: httpx.Client, server: ServerProcess
) -> None:
    """Thirty-two at once, of different lengths, greedy and with beams: as each alone."""
    bodies: list[dict[str, Any]] = [
        {"text_input": " ".join(f"w{3 + (n * k) % 20}" for k in range(1, 2 + n % 8))}
        | ({"beam": 3} if n % 4 == 0 else {})
        for n in range(32)
    ]
    alone = [http.post("/v2/models/attending/generate", json=body).json() for body in bodies]

    with ThreadPoolExecutor(16) as callers:
        together = list(
            callers.map(
                lambda body: http.post("/v2/models/attending/generate", json=body).json(), bodies
            )
        )

    for mine, other in zip(together, alone, strict=True):
        assert mine["score"] == pytest.approx(other["score"], abs=1e-4)
        assert mine["text_output"] == other["text_output"]
    assert len({answer["text_output"] for answer in alone}) > 1


@pytest.mark.parametrize(
    ("model", "body", "status", "reason"),
    [
        ("attending", {"text_input": ""}, 400, "the text is empty"),
        ("attending", {"text_input": "w4 " * 12}, 400, "at most 12"),
        ("attending", {"beam": 0}, 400, "'beam': expected a whole number from 1 to 16"),
        ("attending", {"temperature": 2}, 400, "unknown parameter 'temperature'"),
        ("attending", {"stream": "yes"}, 400, "'stream': expected true or false"),
        ("attending", {"stream": True, "explain": True}, 400, "neither with n_best nor explain"),
        ("plain", {"explain": True}, 501, "no attention"),
        ("broken", {}, 503, "has no decoder.onnx"),
    ],
)
def test_a_request_that_cannot_be_served_says_why(
    http: httpx.Client, model: str, body: dict[str, object], status: int, reason: str
) -> None:
    """The text names the field, what came and what was expected."""
    answer = generate(http, model, **body)

    assert answer.status_code == status
    assert reason in answer.json()["error"]


def test_one_response_routes_refuse_a_translator(http: httpx.Client) -> None:
    """E23: it is decoupled, as language models are."""
    body = {"inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [TEXT]}]}

    answer = http.post("/v2/models/attending/infer", json=body)

    assert answer.status_code == 501
    assert "decoupled" in answer.json()["error"]


def test_tritonclient_streams_a_translation(server: ServerProcess, http: httpx.Client) -> None:
    """2.8: ModelStreamInfer answers piece by piece, and an empty final response if asked to."""
    text = triton.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([TEXT.encode()], dtype=object))
    pieces: list[str] = []
    ended: list[bool] = []

    def note(result: Any, error: Any) -> None:
        assert error is None, error
        response = result.get_response()
        if response.parameters["triton_final_response"].bool_param:
            ended.append(True)
        else:
            pieces.append(result.as_numpy("text_output")[0].decode())

    with triton.InferenceServerClient(server.grpc_address) as client:
        client.start_stream(note)
        client.async_stream_infer(
            "attending", [text], enable_empty_final_response=True, parameters={"stream": True}
        )
        client.stop_stream()

    assert ended == [True]
    assert "".join(pieces) == generate(http).json()["text_output"]
    assert len(pieces) > 1


def test_a_caller_who_leaves_frees_the_slot(server: ServerProcess, http: httpx.Client) -> None:
    """The metrics tell of slots and tokens, and nothing is left behind."""
    before = server.metrics().value("atril_decoding_tokens_total", model="attending")
    with http.stream(
        "POST", "/v2/models/attending/generate_stream", json={"text_input": TEXT, "stream": True}
    ) as answer:
        next(answer.iter_raw())
    generate(http)

    scrape = server.metrics()
    assert scrape.value("atril_decoding_tokens_total", model="attending") > before
    assert scrape.value("atril_decoding_active_slots", model="attending") == 0
    assert scrape.value("atril_decoding_waiting_requests", model="attending") == 0
    for name in ("time_to_first_token_seconds", "step_seconds", "step_rows", "wait_seconds"):
        assert scrape.value(f"atril_decoding_{name}_count", model="attending") > 0
