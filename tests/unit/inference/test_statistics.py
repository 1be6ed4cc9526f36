"""The statistics tree of a model after known requests (protocol reference 2.8)."""

import time
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from atril_common.batching import ExecutionTimes
from atril_common.core import InferRequest
from atril_common.errors import InternalError, InvalidInputError, OverloadedError
from atril_inference.engine import Engine
from atril_inference.repository import LocalRepository
from atril_inference.session_options import SessionOptions
from atril_inference.statistics import ModelStatistics
from tests.support import tiny_models
from tests.support.repositories import config_of, write_model

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


def tree(statistics: ModelStatistics) -> pb.ModelStatistics:
    """The message of model `m`, version 3."""
    return statistics.message("m", "3")


def test_a_model_that_was_never_asked_has_a_tree_of_zeros() -> None:
    """2.8: every duration is there, none counts anything."""
    message = tree(ModelStatistics())
    assert (message.name, message.version, message.last_inference) == ("m", "3", 0)
    for field in message.inference_stats.DESCRIPTOR.fields:
        assert message.inference_stats.HasField(field.name)
        assert getattr(message.inference_stats, field.name).count == 0
    assert not message.batch_stats


def test_requests_are_counted_for_themselves_and_executions_by_their_batch() -> None:
    """2.8: stage totals have one entry a request, batch totals one an execution."""
    statistics = ModelStatistics()
    # Two requests of five rows together, queued at 0 and 50; then one of two rows, queued at 100.
    statistics.executed(5, [0, 50], ExecutionTimes(100, 110, 140, 145))
    statistics.executed(2, [100], ExecutionTimes(200, 201, 203, 207))
    statistics.executed(5, [300], ExecutionTimes(300, 301, 302, 303))
    message = tree(statistics)
    stats = message.inference_stats
    assert (message.inference_count, message.execution_count) == (12, 3)
    assert (stats.success.count, stats.success.ns) == (4, 145 + 95 + 107 + 3)
    assert (stats.queue.count, stats.queue.ns) == (4, 100 + 50 + 100)
    assert (stats.compute_input.count, stats.compute_input.ns) == (4, 2 * 10 + 1 + 1)
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (4, 2 * 30 + 2 + 1)
    assert (stats.compute_output.count, stats.compute_output.ns) == (4, 2 * 5 + 4 + 1)
    assert sum(getattr(stats, stage).ns for stage in STAGES) == stats.success.ns
    two, five = message.batch_stats
    assert (two.batch_size, two.compute_infer.count, two.compute_infer.ns) == (2, 1, 2)
    assert (five.batch_size, five.compute_infer.count, five.compute_infer.ns) == (5, 2, 31)
    assert (five.compute_input.ns, five.compute_output.ns) == (11, 6)
    response = message.response_stats["0"]
    assert response.success == stats.success
    assert response.compute_infer == stats.compute_infer


def test_failures_are_counted_with_the_time_they_took() -> None:
    """2.8: `fail` counts all of them, response 0 tells cancellations apart."""
    statistics = ModelStatistics()
    statistics.failed(3, InternalError("broken"), 600)
    statistics.failed(1, OverloadedError("full"))
    statistics.cancelled(2)
    message = tree(statistics)
    assert (message.inference_stats.fail.count, message.inference_stats.fail.ns) == (6, 600)
    assert message.inference_stats.success.count == 0
    response = message.response_stats["0"]
    assert (response.fail.count, response.cancel.count) == (4, 2)


async def test_the_engine_lists_ready_versions_with_what_they_did(tmp_path: Path) -> None:
    """2.8: a batch of n adds n and 1; a broken version is not listed; times are of the epoch."""
    model = tiny_models.add_constant(1)
    config = config_of("m", model, max_batch_size=8, queue_delay_us=0)
    config.version_policy.all.SetInParent()
    write_model(tmp_path, config, {1: model, 2: model, 3: b"not onnx"})
    write_model(tmp_path, config_of("other", model, max_batch_size=8), {1: model})
    engine = Engine(LocalRepository(tmp_path), SessionOptions(device="cpu", intra_op_threads=1), 64)
    await engine.start()
    before_ms = time.time_ns() // 1_000_000
    for rows in (3, 2):
        await engine.infer(InferRequest("m", {"x": np.ones((rows, 1), np.float32)}, "1"))
    with pytest.raises(InvalidInputError):
        engine.infer(InferRequest("m", {"x": np.ones((9, 1), np.float32)}, "1"))
    first, second = await engine.statistics("m")
    assert [(m.name, m.version) for m in (first, second)] == [("m", "1"), ("m", "2")]
    assert (first.inference_count, first.execution_count) == (5, 2)
    assert (first.inference_stats.success.count, first.inference_stats.fail.count) == (2, 1)
    assert [(b.batch_size, b.compute_infer.count) for b in first.batch_stats] == [(2, 1), (3, 1)]
    assert all(b.compute_infer.ns > 0 for b in first.batch_stats)
    assert before_ms <= first.last_inference <= time.time_ns() // 1_000_000
    assert second.execution_count == second.last_inference == 0
    assert await engine.statistics("m", "2") == [second]
    assert [(m.name, m.version) for m in await engine.statistics()] == [
        ("m", "1"),
        ("m", "2"),
        ("other", "1"),
    ]
    for name, version in (("absent", ""), ("m", "3"), ("m", "9")):
        with pytest.raises(InvalidInputError, match=f"'{name}'.* is not available"):
            await engine.statistics(name, version)
    await engine.close()
