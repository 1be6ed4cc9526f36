"""Statistics (H11, 2.8) over both protocols."""

import time
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2 as pb

from tests.support.servers import OipServer
from tests.support.transports import Call, Grpc, HttpJson, Transport

STAGES = (
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit",
    "cache_miss",
)  # fmt: skip
COUNTED = ("compute_input", "compute_infer", "compute_output", "queue", "success")


def statistics(http: httpx.Client, model_name: str, version: str = "") -> dict[str, Any]:
    """The statistics of the one version of a model that is served."""
    path = f"/v2/models/{model_name}" + (f"/versions/{version}" if version else "")
    answer = http.get(f"{path}/stats")
    assert answer.status_code == 200
    (model,) = answer.json()["model_stats"]
    assert isinstance(model, dict)
    return model


def rows_of(count: int) -> Call:
    """An inference of so many rows."""
    return Call("add_statistics", {"x": np.ones((count, 1), np.float32)})


@pytest.mark.parametrize("version", ["", "1"])
def test_the_statistics_are_the_tree_of_the_extension(http: httpx.Client, version: str) -> None:
    """H11, 2.8: names and kinds of everything in the tree."""
    model = statistics(http, "matmul", version)
    assert (model["name"], model["version"]) == ("matmul", "1")
    for count in ("last_inference", "inference_count", "execution_count"):
        assert type(model[count]) is int
    assert set(model["inference_stats"]) == set(STAGES)
    for stage in STAGES:
        assert set(model["inference_stats"][stage]) == {"count", "ns"}
        assert all(type(value) is int for value in model["inference_stats"][stage].values())
    assert isinstance(model["batch_stats"], list)
    assert isinstance(model["memory_usage"], list)
    assert isinstance(model["response_stats"], dict)


def test_statistics_without_a_model_are_those_of_every_ready_version(http: httpx.Client) -> None:
    """H11, 2.8: `/v2/models/stats` lists each READY version once."""
    models = http.get("/v2/models/stats").json()["model_stats"]
    index = http.post("/v2/repository/index", json={"ready": True}).json()
    listed = sorted((m["name"], m["version"]) for m in models)
    assert listed == sorted((e["name"], e["version"]) for e in index)


def test_an_inference_of_n_rows_adds_n_inferences_and_one_execution(
    transport: Transport, http: httpx.Client
) -> None:
    """2.8: inference_count counts rows, execution_count batches, each stage requests."""
    before = statistics(http, "add_statistics")
    for rows in (1, 3):
        transport.infer(rows_of(rows))
    after = statistics(http, "add_statistics")
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] == 2
    for stage in COUNTED:
        was, now = before["inference_stats"][stage], after["inference_stats"][stage]
        assert now["count"] - was["count"] == 2, stage
        assert now["ns"] >= was["ns"]
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]


def test_the_executions_are_told_by_batch_size(http: httpx.Client, oip: OipServer) -> None:
    """2.8: `batch_stats` has one entry a batch size, with the times of its stages."""
    before = {b["batch_size"]: b for b in statistics(http, "add_statistics")["batch_stats"]}
    client = HttpJson(oip.http_url, oip.grpc_address)
    client.infer(rows_of(5))
    client.close()
    after = {b["batch_size"]: b for b in statistics(http, "add_statistics")["batch_stats"]}
    for stage in ("compute_input", "compute_infer", "compute_output"):
        was = before[5][stage]["count"] if 5 in before else 0
        assert after[5][stage]["count"] == was + 1


def test_the_last_inference_is_milliseconds_since_the_epoch(
    http: httpx.Client, oip: OipServer
) -> None:
    """2.8: `last_inference` is a wall-clock time in milliseconds."""
    begun_ms = int(time.time() * 1000)
    client = HttpJson(oip.http_url, oip.grpc_address)
    client.infer(rows_of(1))
    client.close()
    last_ms = statistics(http, "add_statistics")["last_inference"]
    assert begun_ms - 1 <= last_ms <= int(time.time() * 1000) + 1


def test_an_inference_that_fails_is_counted_as_failed(http: httpx.Client, oip: OipServer) -> None:
    """2.8: `fail` counts it, `success` and inference_count do not."""
    before = statistics(http, "pick")
    body = {"inputs": [{"name": "row", "datatype": "INT64", "shape": [1], "data": [99]}]}
    assert http.post("/v2/models/pick/infer", json=body).status_code != 200
    after = statistics(http, "pick")
    assert after["inference_count"] == before["inference_count"]
    for stage, more in (("fail", 1), ("success", 0)):
        was, now = before["inference_stats"][stage], after["inference_stats"][stage]
        assert now["count"] - was["count"] == more


@pytest.mark.parametrize(
    ("path", "model_name"),
    [("/v2/models/nowhere/stats", "nowhere"), ("/v2/models/matmul/versions/99/stats", "matmul")],
)
def test_statistics_of_what_is_not_there_are_400(
    http: httpx.Client, path: str, model_name: str
) -> None:
    """E05: 400 and not 404, and says what is not available."""
    refused = http.get(path)
    assert refused.status_code == 400
    assert "is not available" in refused.json()["error"]
    assert f"'{model_name}'" in refused.json()["error"]


def test_a_version_that_is_not_digits_has_no_statistics_route(http: httpx.Client) -> None:
    """H05, H11: 404 at the router."""
    assert http.get("/v2/models/matmul/versions/one/stats").status_code == 404


def test_statistics_over_grpc_are_the_same_tree(http: httpx.Client, oip: OipServer) -> None:
    """2.8 ModelStatistics: what HTTP tells, Triton's own client reads over gRPC."""
    with triton_grpc.InferenceServerClient(oip.grpc_address) as client:
        (model,) = client.get_inference_statistics("add_statistics").model_stats
    over_http = statistics(http, "add_statistics")
    assert model.inference_count == over_http["inference_count"]
    assert model.execution_count == over_http["execution_count"]
    for stage in STAGES:
        duration = getattr(model.inference_stats, stage)
        assert {"count": duration.count, "ns": duration.ns} == over_http["inference_stats"][stage]


@pytest.mark.parametrize(("name", "version"), [("nowhere", ""), ("matmul", "99")])
def test_statistics_over_grpc_of_what_is_not_there(rpc: Grpc, name: str, version: str) -> None:
    """E05: INVALID_ARGUMENT."""
    with pytest.raises(grpc.RpcError) as refused:
        rpc.stub.ModelStatistics(pb.ModelStatisticsRequest(name=name, version=version))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
