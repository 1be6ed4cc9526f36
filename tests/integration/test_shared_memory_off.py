"""Servers whose clients may not use shared memory (E33)."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.support.processes import (
    ServerProcess,
    all_in_one_process,
    inference_process,
    started,
)
from tests.support.repositories import config_of, write_model
from tests.support.tiny_models import matmul
from tests.support.transports import Call, Grpc, Refusal, grpc_message

OFF: dict[str, object] = {"shared_memory": False}
DISABLED = "Client shared memory is disabled"


@pytest.fixture(scope="module", params=["inference", "embedded"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A ready server with the setting off."""
    root: Path = tmp_path_factory.mktemp("repository")
    model = matmul()
    write_model(root, config_of("matmul", model, max_batch_size=8, queue_delay_us=0), {1: model})
    embedded = request.param == "embedded"
    process = all_in_one_process("serve", root, OFF) if embedded else inference_process(root, OFF)
    with started(process):
        process.wait_ready()
        yield process


def test_every_route_over_http_says_that_it_is_disabled(server: ServerProcess) -> None:
    """E33: 501, and server metadata does not list the extension."""
    base = "/v2/systemsharedmemory"
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 16}
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": place}
    with httpx.Client(base_url=server.http_url, timeout=20) as http:
        for response in (
            http.get(f"{base}/status"),
            http.get(f"{base}/region/r/status"),
            http.post(f"{base}/region/r/register", json={"key": "k", "byte_size": 1}),
            http.post(f"{base}/region/r/unregister"),
            http.post(f"{base}/unregister"),
            http.post("/v2/models/matmul/infer", json={"inputs": [entry]}),
        ):
            assert response.status_code == 501
            assert DISABLED in response.json()["error"]
        assert "system_shared_memory" not in http.get("/v2").json()["extensions"]


def test_every_rpc_says_that_it_is_disabled(server: ServerProcess) -> None:
    """E33: UNIMPLEMENTED."""
    client = Grpc(server.http_url, server.grpc_address)
    message = grpc_message(Call("matmul", {"x": np.ones((1, 4), np.float32)}))
    del message.raw_input_contents[:]
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"
    message.inputs[0].parameters["shared_memory_byte_size"].int64_param = 16
    region = pb.SystemSharedMemoryRegisterRequest(name="r", key="k", byte_size=1)
    for ask in (
        lambda: client.stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()),
        lambda: client.stub.SystemSharedMemoryRegister(region),
        lambda: client.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest()),
        lambda: client.stub.ModelInfer(message, timeout=20),
    ):
        with pytest.raises(Refusal) as refused:
            client.ask(ask)
        assert refused.value.status is grpc.StatusCode.UNIMPLEMENTED
        assert DISABLED in refused.value.text
    assert "system_shared_memory" not in client.server_metadata()["extensions"]
    client.close()
