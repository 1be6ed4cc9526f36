"""A digit, classified by every client through every front."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from atril_client import Client
from atril_common.imaging import normalise, pixels_from_image
from atril_common.model_config import read_config
from atril_common.tasks import ClassificationTask, ImageInput, read_task
from atril_proto.v1 import classification_pb2 as pb
from atril_proto.v1.classification_pb2_grpc import ClassificationStub
from tests.e2e.conftest import Run
from tests.support.processes import ServerProcess
from tests.support.transports import TRANSPORTS, Call, Transport

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def image(first_run: Run, digit_png: bytes) -> NDArray[np.float32]:
    """The 3 as the model's input tensor."""
    task = read_task(read_config(first_run.repository / "lenet5" / "config.pbtxt"))
    assert isinstance(task, ClassificationTask)
    assert isinstance(task.input, ImageInput)
    pixels = pixels_from_image(Image.open(io.BytesIO(digit_png)), task.input)
    return normalise(pixels, task.input)[None]


@pytest.mark.parametrize("client", TRANSPORTS.values(), ids=TRANSPORTS)
def test_tensor_client_classifies_a_digit(
    front: ServerProcess,
    client: Callable[[str, str], Transport],
    image: NDArray[np.float32],
) -> None:
    """Triton's four clients, raw HTTP and bare stubs all get the 3, from each kind of server."""
    transport = client(front.http_url, front.grpc_address)
    try:
        answer = transport.infer(Call("lenet5", {"image": image}))
    finally:
        transport.close()
    assert answer.model_version == "1"
    assert answer.outputs["probabilities"].shape == (1, 10)
    assert answer.outputs["probabilities"].argmax() == answer.outputs["logits"].argmax() == 3


def test_task_api_classifies_a_picture_over_http(
    task_front: ServerProcess, digit_png: bytes
) -> None:
    """The SDK sends a PNG and gets the 3 first, with the version and the time it took."""
    with Client(task_front.http_url) as client:
        answer = client.classify("lenet5", [digit_png, digit_png], top_k=10)
    assert [result.top[0].label for result in answer.results] == ["3", "3"]
    assert sum(score.probability for score in answer.results[0].top) == pytest.approx(1)
    assert answer.model_version == "1"
    assert 0 < answer.timing.inference_ms <= answer.timing.total_ms


def test_task_api_classifies_a_picture_over_grpc(
    task_front: ServerProcess, digit_png: bytes
) -> None:
    """`atril.v1.Classification/Classify` gives the labels and scores that HTTP gives."""
    with grpc.insecure_channel(task_front.grpc_address) as channel:
        answer = ClassificationStub(channel).Classify(
            pb.ClassifyRequest(
                model_name="lenet5", pictures=[pb.Picture(encoded=digit_png)], top_k=3
            )
        )
    with Client(task_front.http_url) as client:
        over_http = client.classify("lenet5", digit_png, top_k=3)
    assert [score.label for score in answer.results[0].top] == [
        score.label for score in over_http.results[0].top
    ]
    assert answer.results[0].top[0].label == "3"


def test_real_test_digits_are_read_over_the_wire(
    task_front: ServerProcess, first_run: Run, shared: Path
) -> None:
    """MNIST's own PNG-sized digits go through resizing and serving, and most are read right.

    The model has only seen scikit-learn's digits, so this is a sanity check of polarity, scale
    and orientation: by chance one in ten would be right.
    """
    images = gzip.decompress((shared / "data" / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((shared / "data" / "mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, 200 * 784, 16).reshape(200, 28, 28)
    expected = np.frombuffer(labels, np.uint8, 200, 8)
    with Client(task_front.http_url) as client:
        answer = client.classify("lenet5", list(pixels), top_k=1)
    read = np.array([int(result.top[0].label) for result in answer.results])
    assert np.mean(read == expected) > 0.4
