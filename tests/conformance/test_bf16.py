"""BF16, which numpy does not have and which travels in binary only (2.2, 2.5, 2.8)."""

import json
from typing import Any

import grpc
import httpx
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2 as pb

from tests.support.servers import OipServer
from tests.support.transports import Grpc, Refusal, triton_http

PATH = "/v2/models/identity_bf16/infer"
VALUES = np.array([[1.0, -2.5, 0.0], [np.inf, -np.inf, 3.0]], np.float32)
"""Numbers that BF16 holds exactly: the upper half of a float."""

RAW = (VALUES.view("<u4") >> 16).astype("<u2").tobytes()

pytestmark = pytest.mark.usefixtures("onnxruntime")


def entry(**changes: Any) -> dict[str, Any]:
    """The input over HTTP."""
    return {"name": "input", "datatype": "BF16", "shape": [2, 3]} | changes


def test_binary_tensors_come_back_as_they_were_sent(http: httpx.Client) -> None:
    """2.5: two bytes an element, in and out."""
    head = {
        "inputs": [entry(parameters={"binary_data_size": len(RAW)})],
        "parameters": {"binary_data_output": True},
    }
    body = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))}
    response = http.post(PATH, content=body + RAW, headers=headers)
    length = int(response.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert (output["datatype"], output["shape"]) == ("BF16", [2, 3])
    assert response.content[length:] == RAW


def test_json_is_refused_with_advice(http: httpx.Client) -> None:
    """2.2: BF16 has no JSON form, in or out; the text advises binary."""
    response = http.post(PATH, json={"inputs": [entry(data=[0] * 6)]})
    assert response.status_code == 400
    assert "binary" in response.json()["error"]
    body = json.dumps({"inputs": [entry(parameters={"binary_data_size": len(RAW)})]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))}
    response = http.post(PATH, content=body + RAW, headers=headers)
    assert response.status_code == 400
    assert "binary_data" in response.json()["error"]


@pytest.mark.parametrize("size", [11, 13, 24])
def test_a_wrong_size_is_refused(http: httpx.Client, size: int) -> None:
    """E17: two bytes an element."""
    body = json.dumps({"inputs": [entry(parameters={"binary_data_size": size})]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))}
    response = http.post(PATH, content=body + bytes(size), headers=headers)
    assert response.status_code == 400
    assert "unexpected size for input 'input'" in response.json()["error"]


def test_raw_contents_come_back_as_they_were_sent(rpc: Grpc) -> None:
    """2.8: raw in, raw out; there are no typed contents."""
    request = pb.ModelInferRequest(model_name="identity_bf16", raw_input_contents=[RAW])
    tensor = request.inputs.add(name="input", datatype="BF16", shape=[2, 3])
    response = rpc.ask(lambda: rpc.stub.ModelInfer(request, timeout=20))
    assert response.outputs[0].datatype == "BF16"
    assert list(response.raw_output_contents) == [RAW]
    del request.raw_input_contents[:]
    tensor.contents.fp32_contents.extend(VALUES.ravel())
    with pytest.raises(Refusal) as refused:
        rpc.ask(lambda: rpc.stub.ModelInfer(request, timeout=20))
    assert refused.value.status is grpc.StatusCode.INVALID_ARGUMENT
    assert "raw" in refused.value.text


@pytest.mark.parametrize("library", [triton_http, triton_grpc], ids=["http", "grpc"])
def test_triton_clients_send_and_read_bf16(oip: OipServer, library: Any) -> None:
    """2.2, 2.8: tritonclient takes arrays of `ml_dtypes.bfloat16`."""
    address = oip.grpc_address if library is triton_grpc else oip.http_url.removeprefix("http://")
    with library.InferenceServerClient(address) as client:
        tensor = library.InferInput("input", [2, 3], "BF16")
        tensor.set_data_from_numpy(VALUES.astype(ml_dtypes.bfloat16))
        result = client.infer("identity_bf16", [tensor])
        assert np.array_equal(result.as_numpy("output").astype(np.float32), VALUES)
        metadata = client.get_model_metadata("identity_bf16")
    declared = metadata["inputs"][0] if isinstance(metadata, dict) else metadata.inputs[0]
    got = declared["datatype"] if isinstance(metadata, dict) else declared.datatype
    assert got == "BF16"


def test_an_empty_tensor_is_a_tensor(rpc: Grpc) -> None:
    """2.8: a dimension of zero is a shape like any other."""
    request = pb.ModelInferRequest(model_name="identity_bf16", raw_input_contents=[b""])
    request.inputs.add(name="input", datatype="BF16", shape=[0, 3])
    response = rpc.ask(lambda: rpc.stub.ModelInfer(request, timeout=20))
    assert list(response.raw_output_contents) == [b""]
