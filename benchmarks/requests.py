"""The one request that every protocol sends: a real digit, and the answer it must get."""

import io
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import numpy as np
import onnxruntime as ort
import orjson
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from atril_common.imaging import normalise, pixels_from_image
from atril_common.model_config import read_config
from atril_common.tasks import ClassificationTask, ImageInput, read_task
from benchmarks.load import Target

_OUTPUT = "probabilities"


class Addresses(NamedTuple):
    """Where a server answers, and its processes."""

    http: str
    grpc: str
    pids: tuple[int, ...] = ()


class Digit(NamedTuple):
    """A request and its answer, computed by ONNX Runtime itself."""

    image: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def digit(repository: Path, picture: Path) -> Digit:
    """Prepare a picture for the newest lenet5 of a repository, and run it."""
    task = read_task(read_config(repository / "lenet5" / "config.pbtxt"))
    assert isinstance(task, ClassificationTask)
    assert isinstance(task.input, ImageInput)
    pixels = pixels_from_image(Image.open(io.BytesIO(picture.read_bytes())), task.input)
    image = normalise(pixels, task.input)[None]
    session = ort.InferenceSession(str(newest(repository)), providers=["CPUExecutionProvider"])
    return Digit(image, session.run([_OUTPUT], {"image": image})[0])


def newest(repository: Path) -> Path:
    """The newest lenet5 of a repository."""
    versions = (repository / "lenet5").glob("[0-9]*")
    return max(versions, key=lambda path: int(path.name)) / "model.onnx"


def targets(addresses: Addresses, sent: Digit) -> list[Target]:
    """The digit as HTTP binary, HTTP JSON and gRPC."""
    url = f"http://{addresses.http}/v2/models/lenet5/infer"
    shape = list(sent.image.shape)
    tensor = {"name": "image", "shape": shape, "datatype": "FP32"}
    header = orjson.dumps(
        {
            "inputs": [tensor | {"parameters": {"binary_data_size": sent.image.nbytes}}],
            "outputs": [{"name": _OUTPUT, "parameters": {"binary_data": True}}],
        }
    )
    numbers = [round(float(value), 6) for value in sent.image.ravel()]
    text = orjson.dumps({"inputs": [tensor | {"data": numbers}], "outputs": [{"name": _OUTPUT}]})
    message = grpc_request(sent).SerializeToString()
    return [
        Target(
            name="HTTP binary",
            url=url,
            body=header + sent.image.tobytes(),
            headers={
                "content-type": "application/octet-stream",
                "inference-header-content-length": str(len(header)),
            },
        ),
        Target(name="HTTP JSON", url=url, body=text, headers={"content-type": "application/json"}),
        Target(
            name="gRPC",
            url=f"http://{addresses.grpc}/inference.GRPCInferenceService/ModelInfer",
            body=b"\0" + len(message).to_bytes(4, "big") + message,
            headers={"content-type": "application/grpc", "te": "trailers"},
            http1=False,
        ),
    ]


def binary_target(
    http: str, model: str, tensor: str, rows: NDArray[np.float32], output: str
) -> Target:
    """Rows for any model as an HTTP binary request; the answer is binary, too."""
    header = orjson.dumps(
        {
            "inputs": [
                {
                    "name": tensor,
                    "shape": list(rows.shape),
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": rows.nbytes},
                }
            ],
            "outputs": [{"name": output, "parameters": {"binary_data": True}}],
        }
    )
    return Target(
        name=model,
        url=f"http://{http}/v2/models/{model}/infer",
        body=header + rows.tobytes(),
        headers={
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(header)),
        },
    )


def grpc_request(sent: Digit) -> pb.ModelInferRequest:
    """The digit as a `ModelInferRequest`."""
    message = pb.ModelInferRequest(model_name="lenet5")
    message.inputs.add(name="image", datatype="FP32", shape=sent.image.shape)
    message.outputs.add(name=_OUTPUT)
    message.raw_input_contents.append(sent.image.tobytes())
    return message


def check_answers(addresses: Addresses, sent: Digit) -> None:
    """See that every protocol gives ONNX Runtime's own answer.

    Raises:
        AssertionError: one does not.
    """
    binary, text, _ = targets(addresses, sent)
    answer = httpx.post(binary.url, content=binary.body, headers=dict(binary.headers))
    head = int(answer.headers["inference-header-content-length"])
    np.testing.assert_allclose(
        np.frombuffer(answer.content[head:], np.float32), sent.probabilities[0], atol=1e-5
    )
    outputs = httpx.post(text.url, content=text.body).raise_for_status().json()["outputs"]
    np.testing.assert_allclose(outputs[0]["data"], sent.probabilities[0], atol=1e-4)
    with grpc.insecure_channel(addresses.grpc) as channel:
        reply = GRPCInferenceServiceStub(channel).ModelInfer(grpc_request(sent))
    np.testing.assert_allclose(
        np.frombuffer(reply.raw_output_contents[0], np.float32), sent.probabilities[0], atol=1e-5
    )
