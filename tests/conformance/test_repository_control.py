"""Loading and unloading on request (H14, 2.6) over both protocols, under explicit control."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2 as pb

from tests.support import tiny_models
from tests.support.servers import OipServer
from tests.support.transports import Call, Grpc, Refusal, Transport, triton_http
from tests.support.waiting import wait_until

NAME = "controlled"
LOAD = f"/v2/repository/models/{NAME}/load"
UNLOAD = f"/v2/repository/models/{NAME}/unload"


def answer(transport: Transport) -> float:
    """What the model makes of 0: the constant it adds, 1 in the repository."""
    response = transport.infer(Call(NAME, {"x": np.zeros((1, 1), np.float32)}))
    return float(response.outputs["y"][0, 0])


def config_of(http: httpx.Client) -> dict[str, Any]:
    """The configuration in force."""
    config: dict[str, Any] = http.get(f"/v2/models/{NAME}/config").json()
    return config


def entry(http: httpx.Client) -> dict[str, str]:
    """The model's line in the index."""
    (found,) = (e for e in http.post("/v2/repository/index").json() if e["name"] == NAME)
    return dict(found)


@pytest.fixture
def control(http: httpx.Client) -> Iterator[httpx.Client]:
    """A client; the model is afterwards loaded as the repository has it."""
    yield http
    assert http.post(LOAD, timeout=60).status_code == 200


@pytest.fixture
def onnx_config(control: httpx.Client, onnxruntime: None) -> str:
    """The configuration of a server that runs ONNX files, as JSON text; may skip."""
    return json.dumps(config_of(control))


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters": {}}'])
def test_a_load_of_a_loaded_model_is_empty_and_leaves_it_serving(
    control: httpx.Client, transport: Transport, body: bytes
) -> None:
    """H14, 2.6: the body is optional, the answer is 200 and empty, the model goes on."""
    loaded = control.post(LOAD, content=body, timeout=60)
    assert (loaded.status_code, loaded.content) == (200, b"")
    assert answer(transport) == 1


def test_an_unloaded_model_is_gone_until_it_is_loaded(
    control: httpx.Client, transport: Transport
) -> None:
    """H14, 2.6: 200 and empty; the index says `unloaded`; load brings it back."""
    unloaded = control.post(UNLOAD)
    assert (unloaded.status_code, unloaded.content) == (200, b"")
    wait_until(lambda: entry(control).get("reason") == "unloaded", "the model to be unloaded")
    assert entry(control)["state"] == "UNAVAILABLE"
    with pytest.raises(Refusal) as refused:
        answer(transport)
    assert refused.value.status in (404, grpc.StatusCode.NOT_FOUND)
    assert "has no available versions" in refused.value.text
    assert control.post(LOAD, timeout=60).status_code == 200
    assert entry(control)["state"] == "READY"
    assert answer(transport) == 1


def test_an_unloaded_model_does_not_make_the_server_unready(control: httpx.Client) -> None:
    """2.7: what was unloaded on request does not count against readiness."""
    control.post(UNLOAD)
    wait_until(lambda: entry(control).get("reason") == "unloaded", "the model to be unloaded")
    assert control.get("/v2/health/ready").status_code == 200
    assert control.get(f"/v2/models/{NAME}/ready").status_code == 400
    ready = control.post("/v2/repository/index", json={"ready": True}).json()
    assert NAME not in {e["name"] for e in ready}


def test_an_unload_may_include_what_depends_on_the_model(control: httpx.Client) -> None:
    """2.6: `unload_dependents` is a parameter of unload."""
    body = {"parameters": {"unload_dependents": True}}
    assert control.post(UNLOAD, json=body).status_code == 200


def test_a_load_may_bring_a_configuration(control: httpx.Client) -> None:
    """2.6: `config` stands in for the repository's until the next load."""
    before = config_of(control)
    changed = before | {"max_batch_size": 12}
    body = {"parameters": {"config": json.dumps(changed)}}
    assert control.post(LOAD, json=body, timeout=60).status_code == 200
    assert config_of(control)["max_batch_size"] == 12
    assert control.post(LOAD, timeout=60).status_code == 200
    assert config_of(control)["max_batch_size"] == before["max_batch_size"]


def test_a_load_may_bring_files(
    control: httpx.Client, transport: Transport, onnx_config: str
) -> None:
    """2.6: `file:<version>/<file>` in base64 over HTTP."""
    content = tiny_models.add_constant(5).SerializeToString()
    parameters = {
        "config": onnx_config,
        "file:1/model.onnx": base64.b64encode(content).decode(),
    }
    loaded = control.post(LOAD, json={"parameters": parameters}, timeout=60)
    assert loaded.status_code == 200
    assert answer(transport) == 5
    assert control.post(LOAD, timeout=60).status_code == 200
    assert answer(transport) == 1


def test_a_load_over_grpc_may_bring_files(
    control: httpx.Client, transport: Transport, rpc: Grpc, onnx_config: str
) -> None:
    """2.6: `bytes_param`, raw; the answer is an empty message."""
    request = pb.RepositoryModelLoadRequest(model_name=NAME)
    request.parameters["config"].string_param = onnx_config
    content = tiny_models.add_constant(7).SerializeToString()
    request.parameters["file:1/model.onnx"].bytes_param = content
    assert rpc.stub.RepositoryModelLoad(request) == pb.RepositoryModelLoadResponse()
    assert answer(transport) == 7


def test_tritons_clients_load_and_unload(oip: OipServer, control: httpx.Client) -> None:
    """H14, 2.8: tritonclient over HTTP and over gRPC."""
    config = json.dumps(config_of(control))
    address = oip.http_url.removeprefix("http://")
    with (
        triton_http.InferenceServerClient(address, network_timeout=60) as over_http,
        triton_grpc.InferenceServerClient(oip.grpc_address) as over_grpc,
    ):
        for client in (over_http, over_grpc):
            client.unload_model(NAME)
            wait_until(lambda: entry(control).get("reason") == "unloaded", "the unload")
            client.load_model(NAME, config=config)
            assert client.is_model_ready(NAME)
            client.load_model(NAME)


@pytest.mark.parametrize("config", ["x", "[]", '{"name": "other"}', '{"max_batch_size": "many"}'])
def test_a_bad_configuration_leaves_the_old_model_serving(
    control: httpx.Client, transport: Transport, config: str
) -> None:
    """E29, 2.6: an error, and what was served is served on."""
    refused = control.post(LOAD, json={"parameters": {"config": config}}, timeout=60)
    assert refused.status_code in (400, 500)
    assert refused.json()["error"]
    assert answer(transport) == 1


def test_a_broken_file_leaves_the_old_model_serving(
    control: httpx.Client, transport: Transport, onnx_config: str
) -> None:
    """E29, 2.6: 500 with the model's name and the reason; the old version answers."""
    parameters = {
        "config": onnx_config,
        "file:1/model.onnx": base64.b64encode(b"not onnx").decode(),
    }
    refused = control.post(LOAD, json={"parameters": parameters}, timeout=60)
    assert refused.status_code == 500
    assert f"failed to load '{NAME}'" in refused.json()["error"]
    assert answer(transport) == 1


@pytest.mark.parametrize(
    "name", ["../1/model.onnx", "/etc/model.onnx", "1/../../model.onnx", "x/model.onnx", "model"]
)
def test_an_uploaded_file_stays_in_its_version(
    control: httpx.Client, transport: Transport, name: str
) -> None:
    """2.6: a file's name is `<version>/<file>`, or the load is refused."""
    content = tiny_models.add_constant(9).SerializeToString()
    parameters = {
        "config": json.dumps(config_of(control)),
        f"file:{name}": base64.b64encode(content).decode(),
    }
    refused = control.post(LOAD, json={"parameters": parameters}, timeout=60)
    assert refused.status_code in (400, 500)
    assert answer(transport) == 1


@pytest.mark.parametrize(
    "parameters",
    [
        [],
        {"config": 1},
        {"speed": "x"},
        {"file:1/model.onnx": "aGVsbG8="},
        {"config": "{}", "file:1/model.onnx": "***"},
    ],
    ids=str,
)
def test_a_wrong_load_parameter_is_refused(http: httpx.Client, parameters: object) -> None:
    """E11, 2.6: 400; files need a configuration beside them."""
    refused = http.post(LOAD, json={"parameters": parameters})
    assert refused.status_code == 400
    assert refused.json()["error"]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("config", "int64_param", 3),
        ("file:1/model.onnx", "string_param", "x"),
        ("speed", "string_param", "x"),
    ],
)
def test_a_wrong_load_parameter_over_grpc_is_refused(
    rpc: Grpc, name: str, field: str, value: object
) -> None:
    """2.6: INVALID_ARGUMENT that names the parameter."""
    request = pb.RepositoryModelLoadRequest(model_name=NAME)
    setattr(request.parameters[name], field, value)
    with pytest.raises(grpc.RpcError) as refused:
        rpc.stub.RepositoryModelLoad(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"'{name}'" in refused.value.details()


def test_a_model_that_the_repository_does_not_hold_cannot_be_loaded(
    http: httpx.Client, rpc: Grpc
) -> None:
    """E29: an error that names the model, over both protocols."""
    refused = http.post("/v2/repository/models/nowhere/load")
    assert refused.status_code in (400, 404, 500)
    assert "'nowhere'" in refused.json()["error"]
    with pytest.raises(grpc.RpcError) as failed:
        rpc.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="nowhere"))
    assert "'nowhere'" in failed.value.details()


@pytest.mark.parametrize("change", ["load", "unload"])
def test_a_repository_name_is_not_supported(http: httpx.Client, rpc: Grpc, change: str) -> None:
    """H14: 501 over HTTP, UNIMPLEMENTED over gRPC."""
    refused = http.post(f"/v2/repository/main/models/{NAME}/{change}")
    assert refused.status_code == 501
    assert "'repository_name'" in refused.json()["error"]
    request_type, method = {
        "load": (pb.RepositoryModelLoadRequest, rpc.stub.RepositoryModelLoad),
        "unload": (pb.RepositoryModelUnloadRequest, rpc.stub.RepositoryModelUnload),
    }[change]
    with pytest.raises(grpc.RpcError) as failed:
        method(request_type(repository_name="main", model_name=NAME))
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("change", ["load", "unload"])
def test_nothing_is_loaded_on_request_without_explicit_control(
    unready_oip: OipServer, change: str
) -> None:
    """E28: 503 / UNAVAILABLE where the repository says what is served."""
    refused = httpx.post(f"{unready_oip.http_url}/v2/repository/models/good/{change}")
    assert refused.status_code == 503
    assert "explicit model load / unload is not allowed" in refused.json()["error"]
    client = Grpc(unready_oip.http_url, unready_oip.grpc_address)
    request_type, method = {
        "load": (pb.RepositoryModelLoadRequest, client.stub.RepositoryModelLoad),
        "unload": (pb.RepositoryModelUnloadRequest, client.stub.RepositoryModelUnload),
    }[change]
    with pytest.raises(grpc.RpcError) as failed:
        method(request_type(model_name="good"))
    client.close()
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
