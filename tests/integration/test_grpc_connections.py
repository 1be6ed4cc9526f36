"""The life of gRPC connections is a setting (2.8 keep-alive and max-connection-age)."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.support.processes import (
    ServerProcess,
    all_in_one_process,
    inference_process,
    started,
)
from tests.support.repositories import config_of, write_model
from tests.support.tiny_models import matmul
from tests.support.transports import Call, grpc_message
from tests.support.waiting import wait_until

SHORT: dict[str, object] = {"grpc_max_connection_age_s": 1, "grpc_keepalive_s": 1}


@pytest.fixture(params=["inference", "embedded"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """A ready server whose connections do not grow old."""
    model = matmul()
    write_model(tmp_path, config_of("m", model, max_batch_size=8, queue_delay_us=0), {1: model})
    embedded = request.param == "embedded"
    process = (
        all_in_one_process("serve", tmp_path, SHORT)
        if embedded
        else inference_process(tmp_path, SHORT)
    )
    with started(process):
        process.wait_ready()
        yield process


def test_an_old_connection_is_ended_and_the_next_request_answered(server: ServerProcess) -> None:
    """2.8: the client is told to go, makes another connection, and loses nothing."""
    states: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(server.grpc_address) as channel:
        channel.subscribe(states.append)
        stub = GRPCInferenceServiceStub(channel)
        message = grpc_message(Call("m", {"x": np.ones((1, 4), np.float32)}))
        ready, idle = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE

        def ended() -> bool:
            return ready in states and idle in states[states.index(ready) :]

        stub.ModelInfer(message, timeout=20)
        wait_until(ended, "the connection to be ended", report=str(states))
        assert stub.ModelInfer(message, timeout=20).outputs[0].name == "y"
