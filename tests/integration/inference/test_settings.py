"""Log and trace settings of a real process have an effect on what it writes."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.support import tiny_models
from tests.support.processes import running_server
from tests.support.repositories import config_of, write_model
from tests.support.transports import Call, Grpc, HttpJson
from tests.support.waiting import wait_until

_ROW = {"x": np.ones((1, 4), np.float32)}


def _repository(root: Path) -> Path:
    model = tiny_models.matmul()
    write_model(root, config_of("matmul", model, max_batch_size=8, queue_delay_us=0), {1: model})
    return root


def _entries(file: Path) -> list[dict[str, Any]]:
    return list(json.loads(file.read_bytes())) if file.exists() else []


def test_traced_requests_are_in_the_file_given_at_the_start(tmp_path: Path) -> None:
    """2.11: every second request, over both protocols, no more than the count."""
    repository = _repository(tmp_path / "models")
    file = tmp_path / "trace.json"
    with running_server(repository, trace_file=file) as server:
        over_http = HttpJson(server.http_url, server.grpc_address)
        over_grpc = Grpc(server.http_url, server.grpc_address)
        settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "2"}
        changed = over_http.client.post("/v2/trace/setting", json=settings).json()
        assert changed["trace_file"] == str(file)
        for number in range(6):
            client = over_grpc if number == 3 else over_http
            client.infer(Call("matmul", _ROW, request_id=f"r{number}"))
        over_http.close()
        over_grpc.close()
        wait_until(
            lambda: sum("REQUEST_END" in str(entry) for entry in _entries(file)) == 2,
            "two traces in the file",
        )
    heads = [entry for entry in _entries(file) if "model_name" in entry]
    assert [(head["request_id"], head["model_version"]) for head in heads] == [("r1", 1), ("r3", 1)]
    first, second = (
        [e["timestamps"][0]["name"] for e in _entries(file) if e["id"] == n and "timestamps" in e]
        for n in (1, 2)
    )
    assert first[0] == "HTTP_RECV_END"
    assert second[0] == "GRPC_WAITREAD_END"
    assert {"QUEUE_START", "COMPUTE_START", "COMPUTE_END"} < set(first) & set(second)


def test_a_running_process_is_made_to_write_more_and_less(tmp_path: Path) -> None:
    """H18: verbosity and switches change what the process logs from then on."""
    with running_server(_repository(tmp_path)) as server:
        url = f"{server.http_url}/v2/logging"
        assert httpx.post(url, json={"log_info": False}).json()["log_info"] is False
        before = len(server.events)
        server.process.terminate()
        server.exit_status()
        assert not [event for event in server.events[before:] if event["level"] == "info"]


def test_a_process_may_write_lines_as_triton_does(tmp_path: Path) -> None:
    """H18: `log_format` default is a line of text from then on."""
    with running_server(_repository(tmp_path)) as server:
        url = f"{server.http_url}/v2/logging"
        assert httpx.post(url, json={"log_format": "default"}).status_code == 200
        server.process.terminate()
        server.exit_status()
        assert '] "draining" ' in server.output
