"""The metrics endpoint after real requests, against the table of the protocol reference (3.1)."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.processes import ServerProcess, running_server
from tests.support.repositories import MAX_BATCH_SIZE, config_of, write_model
from tests.support.tiny_models import add_constant, matmul, pick
from tests.support.transports import Call, Grpc, HttpBinary, Refusal, Transport

MODEL = {"model", "version"}

IN_SCOPE = {
    "nv_inference_request_success": MODEL,
    "nv_inference_request_failure": MODEL | {"reason"},
    "nv_inference_count": MODEL,
    "nv_inference_exec_count": MODEL,
    "nv_inference_pending_request_count": MODEL,
    "nv_inference_request_duration_us": MODEL,
    "nv_inference_queue_duration_us": MODEL,
    "nv_inference_compute_input_duration_us": MODEL,
    "nv_inference_compute_infer_duration_us": MODEL,
    "nv_inference_compute_output_duration_us": MODEL,
    "nv_model_load_duration_secs": MODEL,
    "nv_cpu_utilization": set(),
    "nv_cpu_memory_total_bytes": set(),
    "nv_cpu_memory_used_bytes": set(),
    "nv_cache_num_hits_per_model": {"model", "version"},
    "nv_cache_num_misses_per_model": {"model", "version"},
    "nv_cache_hit_duration_per_model": {"model", "version"},
    "nv_cache_miss_duration_per_model": {"model", "version"},
}
"""Name and labels of each metric of the table that this step of the project has."""

HISTOGRAMS = (
    "nv_inference_request_duration_histogram_us",
    "nv_inference_queue_duration_histogram_us",
    "nv_inference_compute_input_duration_histogram_us",
    "nv_inference_compute_infer_duration_histogram_us",
    "nv_inference_compute_output_duration_histogram_us",
)
"""Proposed upstream; shipped from the first version."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose counters no other test touches."""
    root: Path = tmp_path_factory.mktemp("metrics")
    for name in ("counted", "refused", "timed"):
        model = matmul()
        config = config_of(name, model, max_batch_size=MAX_BATCH_SIZE, queue_delay_us=0)
        write_model(root, config, {1: model})
    failing = pick()
    write_model(root, config_of("failing", failing), {1: failing})
    versioned = config_of("versioned", add_constant(1), max_batch_size=MAX_BATCH_SIZE)
    versioned.version_policy.all.SetInParent()
    write_model(root, versioned, {1: add_constant(1), 2: add_constant(2)})
    with running_server(root) as process:
        yield process


@pytest.fixture(params=[HttpBinary, Grpc], ids=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[Transport]:
    """Either protocol."""
    made = request.param(server.http_url, server.grpc_address)
    yield made
    made.close()


def batch(model_name: str, rows: int, version: str = "") -> Call:
    """A batch for a model that takes `x`."""
    columns = 1 if model_name == "versioned" else 4
    x = np.ones((rows, columns), np.float32)
    return Call(model_name, {"x": x}, model_version=version)


@pytest.mark.parametrize("name", IN_SCOPE)
def test_a_metric_of_the_table_has_its_name_and_labels(server: ServerProcess, name: str) -> None:
    """3.1: exactly Triton's names, without `_total` and `_created`, with its labels."""
    samples = [s for s in server.metrics().samples if s.name == name]
    assert samples
    assert all(set(s.labels) == IN_SCOPE[name] for s in samples)


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_a_histogram_is_complete(server: ServerProcess, name: str) -> None:
    """3.1: buckets up to +Inf, a sum and a count for each model."""
    server_metrics = server.metrics()
    value = server_metrics.value
    labels = {"model": "timed", "version": "1"}
    assert server_metrics.families[name].type == "histogram"
    assert value(f"{name}_bucket", le="+Inf", **labels) == value(f"{name}_count", **labels)
    assert value(f"{name}_sum", **labels) >= 0


ON_GPUS = (
    "nv_gpu_utilization",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
    "nv_energy_consumption",
)
"""Have a sample for each GPU, by its `gpu_uuid`."""


@pytest.mark.parametrize("name", ON_GPUS)
def test_a_metric_of_gpus_is_there_with_or_without_one(server: ServerProcess, name: str) -> None:
    """3.1: the family is there, and a sample for each GPU."""
    family = server.metrics().families[name]
    assert all(set(sample.labels) == {"gpu_uuid"} for sample in family.samples)


def test_no_metric_of_triton_is_there_under_another_name(server: ServerProcess) -> None:
    """3.1 naming trap: every `nv_` sample is one of the table or of the histograms."""
    suffixes = ("_bucket", "_sum", "_count")
    allowed = {*IN_SCOPE, *ON_GPUS, *(h + suffix for h in HISTOGRAMS for suffix in suffixes)}
    assert {s.name for s in server.metrics().samples if s.name.startswith("nv_")} <= allowed


def test_the_failure_reasons_are_tritons(server: ServerProcess) -> None:
    """3.1: REJECTED, CANCELED, BACKEND, OTHER, each there from the start."""
    reasons = {
        s.labels["reason"]
        for s in server.metrics().samples
        if s.name == "nv_inference_request_failure" and s.labels["model"] == "counted"
    }
    assert reasons == {"REJECTED", "CANCELED", "BACKEND", "OTHER"}


def test_a_batch_of_three_adds_three_inferences_one_execution_one_success(
    server: ServerProcess, client: Transport
) -> None:
    """3.1, 2.8 statistics: a batch of n adds n to the count and 1 to the executions."""
    labels = {"model": "counted", "version": "1"}
    names = ("nv_inference_count", "nv_inference_exec_count", "nv_inference_request_success")
    before = [server.metrics().value(name, **labels) for name in names]
    client.infer(batch("counted", 3))
    after = [server.metrics().value(name, **labels) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [3, 1, 1]


def test_why_a_batch_left_is_counted(server: ServerProcess, client: Transport) -> None:
    """3.3: a full batch is told from one that left because nothing more waited."""

    def departures() -> dict[str, float]:
        return {
            s.labels["reason"]: s.value
            for s in server.metrics().samples
            if s.name == "atril_batch_departures" and s.labels["model"] == "counted"
        }

    before = departures()
    assert set(before) == {"full", "preferred", "shape", "delay"}
    client.infer(batch("counted", MAX_BATCH_SIZE))
    client.infer(batch("counted", 1))
    after = departures()
    assert {r: after[r] - before[r] for r in after if after[r] != before[r]} == {
        "full": 1,
        "delay": 1,
    }


def test_each_version_is_counted_for_itself(server: ServerProcess, client: Transport) -> None:
    """3.1 labels: `version` is the one that answered, also where none was named."""
    name = "nv_inference_count"
    before = [server.metrics().value(name, model="versioned", version=v) for v in "12"]
    client.infer(batch("versioned", 1, "1"))
    client.infer(batch("versioned", 2))
    after = [server.metrics().value(name, model="versioned", version=v) for v in "12"]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 2]


@pytest.mark.parametrize(
    ("call", "model_name", "reason"),
    [
        (Call("failing", {"row": np.array([99], np.int64)}), "failing", "BACKEND"),
        (batch("refused", MAX_BATCH_SIZE + 1), "refused", "OTHER"),
        (Call("refused", {"x": np.ones((1, 3), np.float32)}), "refused", "OTHER"),
    ],
    ids=["back end", "batch", "shape"],
)
def test_a_failure_is_counted_by_its_reason(
    server: ServerProcess, client: Transport, call: Call, model_name: str, reason: str
) -> None:
    """3.1 `nv_inference_request_failure`: one more under its reason, none under the others."""

    def failures() -> dict[str, float]:
        return {
            s.labels["reason"]: s.value
            for s in server.metrics().samples
            if s.name == "nv_inference_request_failure" and s.labels["model"] == model_name
        }

    before = failures()
    with pytest.raises(Refusal):
        client.infer(call)
    after = failures()
    assert {r: after[r] - before[r] for r in after if after[r] != before[r]} == {reason: 1}


def test_the_stages_add_up_to_the_whole(server: ServerProcess, client: Transport) -> None:
    """3.1 durations: queue, input, infer and output are parts of the request's time."""
    client.infer(batch("timed", 2))
    metrics, labels = server.metrics(), {"model": "timed", "version": "1"}
    whole = metrics.value("nv_inference_request_duration_us", **labels)
    parts = [
        metrics.value(f"nv_inference_{stage}_duration_us", **labels)
        for stage in ("queue", "compute_input", "compute_infer", "compute_output")
    ]
    assert whole > 0
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(whole, rel=0.01)


def test_an_idle_server_has_nothing_pending(server: ServerProcess) -> None:
    """3.1 `nv_inference_pending_request_count`: zero without requests."""
    metrics = server.metrics()
    assert metrics.value("nv_inference_pending_request_count", model="timed", version="1") == 0
    assert metrics.value("nv_model_load_duration_secs", model="timed", version="1") > 0


def test_readiness_and_provider_are_metrics(server: ServerProcess) -> None:
    """3.3: which provider is really in use, and whether each version answers."""
    metrics = server.metrics()
    assert metrics.value("atril_model_ready", model="timed", version="1") == 1
    provider = {"model": "timed", "version": "1", "provider": "CPUExecutionProvider"}
    assert metrics.value("atril_model_provider", **provider) == 1


def test_each_size_that_was_warmed_up_has_its_time(server: ServerProcess) -> None:
    """Complaint 13: what was warmed up, and how long each size of batch took the first time."""
    samples = [
        s
        for s in server.metrics().samples
        if s.name == "atril_warmup_seconds" and s.labels["model"] == "timed"
    ]
    assert [s.labels["batch_size"] for s in samples] == ["1", "2", "4", "8"]
    assert all(s.value > 0 for s in samples)


def test_the_memory_of_a_session_and_of_its_arena_are_told(server: ServerProcess) -> None:
    """Complaint 1: what a session holds, by device."""
    labels = {"model": "timed", "version": "1", "device": "CPU", "device_id": "0"}
    for part in ("session", "arena"):
        assert server.metrics().value("atril_model_memory_bytes", part=part, **labels) >= 0


def test_the_nodes_of_a_graph_are_counted_by_who_runs_them(server: ServerProcess) -> None:
    """Complaint 9: one product, on the CPU as asked."""
    labels = {"model": "timed", "version": "1", "provider": "CPUExecutionProvider"}
    assert server.metrics().value("atril_model_nodes", **labels) == 1


def test_requests_are_counted_by_outcome(server: ServerProcess) -> None:
    """STYLE 2.7: labels only from closed sets; a guessed name is `unknown`, whatever is wrong."""
    client = HttpBinary(server.http_url, server.grpc_address)
    client.infer(batch("counted", 1))
    for name in ("guess1", "guess2"):
        with pytest.raises(Refusal):
            client.infer(batch(name, 1))
        client.client.post(f"/v2/models/{name}/infer", content=b"{")
    client.close()
    metrics = server.metrics()
    ok = {"method": "http_infer", "model": "counted", "outcome": "ok"}
    assert metrics.value("atril_requests_total", **ok) >= 1
    named = {s.labels["model"] for s in metrics.samples if s.name == "atril_requests_total"}
    assert named <= {"counted", "refused", "timed", "failing", "versioned", "unknown"}


def test_the_metrics_are_plain_text_on_their_own_port(server: ServerProcess) -> None:
    """H19: 200, `text/plain`."""
    response = httpx.get(server.metrics_url)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")


def test_every_line_on_standard_error_is_json(server: ServerProcess, client: Transport) -> None:
    """STYLE 2.6: one JSON object a line, ONNX Runtime's own complaints included."""
    with pytest.raises(Refusal):
        client.infer(Call("failing", {"row": np.array([99], np.int64)}))
    assert [line for line in server.lines if not line.startswith("{")] == []
