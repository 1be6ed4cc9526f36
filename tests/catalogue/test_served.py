"""Every published graph answers through the gateway, over HTTP and gRPC, as ONNX Runtime does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import triton_to_np_dtype

from atril_common.model_config import read_config
from atril_common.repository import list_models
from atril_training.datasets import file_source
from atril_training.recipes import find_recipe
from atril_training.tasks import prepare
from atril_training.tasks.translation import TranslationCourse
from tests.support.processes import ServerProcess

from .conftest import Built

pytestmark = pytest.mark.slow

_FREE = 3
"""What every free dimension is set to."""


@pytest.fixture(scope="session", params=["http", "grpc"])
def client(
    request: pytest.FixtureRequest, catalogue_server: ServerProcess
) -> Iterator[tuple[ModuleType, Any]]:
    """Triton's own client, and the module it is from."""
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[request.param]
    address = {
        "http": catalogue_server.http_url.removeprefix("http://"),
        "grpc": catalogue_server.grpc_address,
    }[request.param]
    with module.InferenceServerClient(address) as open_client:
        yield module, open_client


def _inputs(metadata: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Random numbers; every index and every length is 1, which all of them may be."""
    generator = np.random.default_rng(0)
    tensors = {}
    for spec in metadata["inputs"]:
        shape = [_FREE if int(size) < 0 else int(size) for size in spec["shape"]]
        dtype = triton_to_np_dtype(spec["datatype"])
        random = generator.random(shape).astype(dtype)
        tensors[spec["name"]] = random if spec["datatype"] == "FP32" else np.ones(shape, dtype)
    return tensors


def _keeps_state(built: Built, name: str) -> bool:
    """Whether the server keeps the model's states, so that it answers sequences only."""
    return read_config(built.repository / name / "config.pbtxt").HasField("sequence_batching")


def test_every_model_is_ready(built: Built, catalogue_server: ServerProcess) -> None:
    """The server has loaded all graphs of the catalogue, and says so."""
    with tritonclient.http.InferenceServerClient(
        catalogue_server.http_url.removeprefix("http://")
    ) as http:
        states = {e["name"]: e.get("state") for e in http.get_model_repository_index()}
    assert states == dict.fromkeys(list_models(built.repository), "READY")


def test_every_model_answers_as_onnx_runtime_does(
    built: Built, client: tuple[ModuleType, Any]
) -> None:
    """Each output of each graph is what a session on the published file gives."""
    module, server = client
    as_json = {} if module is tritonclient.http else {"as_json": True}
    names = [
        name
        for name in list_models(built.repository)
        if (built.repository / name / "1" / "model.onnx").is_file()
        and not _keeps_state(built, name)
    ]
    for name in names:
        tensors = _inputs(server.get_model_metadata(name, **as_json))
        asked = []
        for input_name, tensor in tensors.items():
            datatype = "FP32" if tensor.dtype == np.float32 else "INT64"
            one = module.InferInput(input_name, list(tensor.shape), datatype)
            one.set_data_from_numpy(tensor)
            asked.append(one)
        answer = server.infer(name, asked)
        session = onnxruntime.InferenceSession(
            built.repository / name / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )
        outputs = [output.name for output in session.get_outputs()]
        ranks = {node.name: len(node.shape) for node in session.get_inputs()}
        tensors = {  # what is [B] in the graph is [B, 1] to callers
            name: tensor[:, 0] if ranks[name] == 1 else tensor for name, tensor in tensors.items()
        }
        for output, expected in zip(outputs, session.run(outputs, tensors), strict=True):
            np.testing.assert_allclose(
                answer.as_numpy(output), expected, atol=1e-4, err_msg=f"{name}: {output}"
            )
    assert names


@pytest.mark.parametrize("name", ["rnn-encoder-decoder", "bahdanau", "transformer"])
def test_every_translator_translates_what_it_never_saw(
    name: str, catalogue_server: ServerProcess
) -> None:
    """Served, many at once, it meets the bar of exact translations that it was published with."""
    course = prepare(find_recipe(name), file_source(None))
    assert isinstance(course, TranslationCourse)
    pairs = course.dataset.tests["test"]
    (bar,) = (bar for bar in course.recipe.bars if bar.metric == "test_exact_match")

    with httpx.Client(base_url=catalogue_server.http_url, timeout=60) as http:

        def translate(text: str) -> str:
            answer = http.post(f"/v2/models/{name}/generate", json={"text_input": text})
            return str(answer.raise_for_status().json()["text_output"])

        with ThreadPoolExecutor(16) as callers:
            found = list(callers.map(translate, [pair.source for pair in pairs]))

    right = sum(mine == pair.target for mine, pair in zip(found, pairs, strict=True))
    assert bar.is_met(right / len(pairs))


def test_every_model_that_keeps_states_answers_as_onnx_runtime_does(
    built: Built, client: tuple[ModuleType, Any]
) -> None:
    """Three requests of a sequence are three runs that are given each other's states."""
    module, server = client
    names = [name for name in list_models(built.repository) if _keeps_state(built, name)]
    for number, name in enumerate(names, 1):
        states = read_config(built.repository / name / "config.pbtxt").sequence_batching.state
        session = onnxruntime.InferenceSession(
            built.repository / name / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )
        kept = {s.input_name: np.zeros((1, *s.dims), np.float32) for s in states}
        outputs = [output.name for output in session.get_outputs()]
        for position, value in enumerate((0.5, -1.0, 2.0)):
            observation = np.array([[value]], np.float32)
            one = module.InferInput("observation", [1, 1], "FP32")
            one.set_data_from_numpy(observation)
            answer = server.infer(
                name,
                [one],
                sequence_id=number,
                sequence_start=position == 0,
                sequence_end=position == 2,
            )
            run = session.run(outputs, {"observation": observation, **kept})
            expected = dict(zip(outputs, run, strict=True))
            kept = {s.input_name: expected.pop(s.output_name) for s in states}
            for output, tensor in expected.items():
                np.testing.assert_allclose(
                    answer.as_numpy(output), tensor, rtol=1e-4, atol=1e-4, err_msg=name
                )
    assert names
