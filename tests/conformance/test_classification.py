"""The classification extension over both protocols (2.10)."""

from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2 as pb

from tests.support.repositories import LABELS
from tests.support.servers import OipServer
from tests.support.tiny_models import WEIGHTS
from tests.support.transports import Call, Grpc, Refusal, from_wire, grpc_message, triton_http

X = np.array([[1, 0, 0, 0], [0, -1, 0, 0]], np.float32)
"""`matmul` answers rows of WEIGHTS: [0, 1, 2] and [-3, -4, -5]."""

BEST_TWO = [["2.000000:2", "1.000000:1"], ["-3.000000:0", "-4.000000:1"]]


def post(http: httpx.Client, model_name: str, inputs: list[Any], *outputs: Any) -> httpx.Response:
    """A request in JSON; outputs are pairs of a name and its parameters."""
    listed = [{"name": name, "parameters": parameters} for name, parameters in outputs]
    return http.post(f"/v2/models/{model_name}/infer", json={"inputs": inputs, "outputs": listed})


def tensor(name: str, array: Any, datatype: str = "FP32") -> dict[str, Any]:
    """An input in JSON."""
    values = array.ravel().tolist()
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": values}


def test_json_outputs_are_strings_of_value_and_index(http: httpx.Client) -> None:
    """2.10: BYTES `[batch, N]`, `value:index`, the largest first."""
    response = post(http, "matmul", [tensor("x", X)], ("y", {"classification": 2}))
    (output,) = response.json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == [text for row in BEST_TWO for text in row]


def test_a_model_without_a_batch_dimension_has_one_row_of_classes(http: httpx.Client) -> None:
    """2.10: `[N]` over all elements of the output."""
    array = np.array([[1, 5, 3], [4, 2, 6]], np.float32)
    response = post(http, "fixed", [tensor("input", array)], ("output", {"classification": 3}))
    (output,) = response.json()["outputs"]
    assert output["shape"] == [3]
    assert output["data"] == ["6.000000:5", "5.000000:1", "4.000000:3"]


def test_more_classes_than_there_are_give_all_of_them(http: httpx.Client) -> None:
    """2.10: N is the most that is answered."""
    response = post(http, "matmul", [tensor("x", X)], ("y", {"classification": 1000}))
    assert response.json()["outputs"][0]["shape"] == [2, 3]


def test_other_outputs_of_the_request_stay_as_they_are(http: httpx.Client) -> None:
    """2.10: the parameter belongs to its output."""
    a = tensor("a", np.array([[4, 3, 2, 1]]), "INT32")
    b = tensor("b", np.array([[1, 1, 1, 9]]), "INT32")
    response = post(
        http, "sum_and_difference", [a, b], ("sum", {"classification": 1}), ("difference", {})
    )
    outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
    assert outputs == {"sum": ["10:3"], "difference": [3, 2, 1, -8]}


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", None, [1]], ids=repr)
def test_a_class_count_that_is_not_positive_is_refused(http: httpx.Client, count: Any) -> None:
    """2.10, E11: 400, naming the parameter."""
    response = post(http, "matmul", [tensor("x", X)], ("y", {"classification": count}))
    assert response.status_code == 400
    assert "classification" in response.json()["error"]


@pytest.mark.parametrize(("model_name", "datatype"), [("bytes", "BYTES"), ("bool", "BOOL")])
def test_an_output_without_numbers_is_refused(
    http: httpx.Client, model_name: str, datatype: str
) -> None:
    """2.10: 400, naming the output's datatype."""
    data = ["a"] if datatype == "BYTES" else [True]
    entry = {"name": "input", "datatype": datatype, "shape": [1, 1], "data": data}
    response = post(http, f"identity_{model_name}", [entry], ("output", {"classification": 1}))
    assert response.status_code == 400
    assert datatype in response.json()["error"]


def test_classes_of_an_unknown_output_are_refused(http: httpx.Client) -> None:
    """E10: names it."""
    response = post(http, "matmul", [tensor("x", X)], ("nothing", {"classification": 1}))
    assert response.status_code == 400
    assert "'nothing'" in response.json()["error"]


def test_triton_http_reads_labelled_classes(oip: OipServer) -> None:
    """2.10: `class_count` of tritonclient.http, in binary; labels where the file has them."""
    with triton_http.InferenceServerClient(oip.http_url.removeprefix("http://")) as client:
        entry = triton_http.InferInput("x", list(X.shape), "FP32")
        entry.set_data_from_numpy(X)
        wanted = triton_http.InferRequestedOutput("y", binary_data=True, class_count=3)
        classes = client.infer("labelled", [entry], outputs=[wanted]).as_numpy("y")
    assert classes.tolist() == [
        [b"2.000000:2", f"1.000000:1:{LABELS[1]}".encode(), f"0.000000:0:{LABELS[0]}".encode()],
        [f"-3.000000:0:{LABELS[0]}".encode(), f"-4.000000:1:{LABELS[1]}".encode(), b"-5.000000:2"],
    ]


def test_triton_grpc_reads_classes(oip: OipServer) -> None:
    """2.10: `class_count` of tritonclient.grpc."""
    with triton_grpc.InferenceServerClient(oip.grpc_address) as client:
        entry = triton_grpc.InferInput("x", list(X.shape), "FP32")
        entry.set_data_from_numpy(X)
        wanted = triton_grpc.InferRequestedOutput("y", class_count=2)
        classes = client.infer("matmul", [entry], outputs=[wanted]).as_numpy("y")
    assert [[text.decode() for text in row] for row in classes.tolist()] == BEST_TWO


def test_requests_with_and_without_classes_get_their_own_answers(rpc: Grpc) -> None:
    """2.10: requests for one model at the same time, of which every other asks for classes."""
    futures = []
    for position in range(20):
        message = grpc_message(Call("matmul", {"x": X * (position + 1)}, outputs=("y",)))
        if position % 2:
            message.outputs[0].parameters["classification"].int64_param = 1
        futures.append(rpc.stub.ModelInfer.future(message, timeout=20))
    for position, future in enumerate(futures):
        response = future.result()
        (output,) = response.outputs
        got = from_wire(response.raw_output_contents[0], output.datatype, output.shape)
        values = (X * (position + 1)) @ WEIGHTS
        if position % 2:
            best = [f"{row.max():f}:{row.argmax()}".encode() for row in values]
            assert got.ravel().tolist() == best
        else:
            assert got.tolist() == values.tolist()


def test_a_grpc_class_count_of_the_wrong_kind_is_refused(rpc: Grpc) -> None:
    """2.10, 2.8: INVALID_ARGUMENT, naming the parameter."""
    message = grpc_message(Call("matmul", {"x": X}, outputs=("y",)))
    message.outputs[0].parameters["classification"].CopyFrom(pb.InferParameter(string_param="2"))
    with pytest.raises(Refusal) as refused:
        rpc.ask(lambda: rpc.stub.ModelInfer(message, timeout=20))
    assert refused.value.status is grpc.StatusCode.INVALID_ARGUMENT
    assert "classification" in refused.value.text


def test_the_extension_is_listed(http: httpx.Client) -> None:
    """2.10: server metadata lists what is implemented."""
    assert "classification" in http.get("/v2").json()["extensions"]
