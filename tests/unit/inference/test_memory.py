"""What sessions take, as the process and the statistics tell it."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from atril_inference import memory
from atril_inference.engine import Engine
from atril_inference.memory import MemoryMeter, resident_bytes
from atril_inference.repository import LocalRepository
from atril_inference.session_options import SessionOptions
from tests.support import tiny_models
from tests.support.repositories import config_of, write_model

CPU = SessionOptions(device="cpu", intra_op_threads=1)
MEGABYTE = 1 << 20


def test_the_resident_memory_grows_with_what_is_touched() -> None:
    """Read from the kernel, in bytes: 64 MB of ones are there, give or take the allocator."""
    before = resident_bytes()
    ones = np.ones(64 * MEGABYTE, np.uint8)
    assert 60 * MEGABYTE < resident_bytes() - before < 80 * MEGABYTE
    assert ones[-1] == 1


def test_a_system_that_does_not_tell_has_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No `/proc`, or another content of it."""
    monkeypatch.setattr(memory, "_STATM", tmp_path / "statm")
    assert resident_bytes() == 0
    (tmp_path / "statm").write_text("12")
    assert resident_bytes() == 0


def test_memory_is_told_apart_by_when_it_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after the session is made, and after its warm-up; it never goes below zero."""
    readings = iter([100, 130, 135])
    monkeypatch.setattr(memory, "resident_bytes", lambda: next(readings))
    meter = MemoryMeter(CPU)
    meter.loaded()
    assert meter.warmed_up() == ("CPU", 0, 30, 5)
    readings = iter([100, 90, 80])
    meter = MemoryMeter(CPU)
    meter.loaded()
    assert meter.warmed_up().total_bytes == 0


def test_the_memory_of_a_gpu_is_read_from_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the index of the device; a driver that does not tell counts as zero."""
    readings = {1: iter([None, 500, 900])}
    monkeypatch.setattr(memory, "process_bytes", lambda device_id: next(readings[device_id]))
    meter = MemoryMeter(CPU._replace(device="cuda", device_id=1))
    meter.loaded()
    assert meter.warmed_up() == ("GPU", 1, 500, 400)


async def test_the_statistics_tell_the_memory_of_a_version(tmp_path: Path) -> None:
    """2.8 `memory_usage`: type, id and bytes; a session holds at least its 32 MB of weights."""
    model = tiny_models.matmul()
    weights = np.ones((4, 2 * MEGABYTE), np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weights"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [None, weights.shape[1]]))
    write_model(tmp_path, config_of("m", model), {1: model})
    engine = Engine(LocalRepository(tmp_path), CPU, 8)
    await engine.start()
    (statistics,) = await engine.statistics("m")
    (usage,) = statistics.memory_usage
    assert (usage.type, usage.id) == ("CPU", 0)
    assert usage.byte_size >= weights.nbytes
    await engine.close()
