"""The trace extension: which requests are traced, and what is written of them."""

import asyncio
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from atril_common.batching import BatchObserver, BatchPolicy, BatchResult, DynamicBatcher
from atril_common.core import InferRequest
from atril_common.errors import InternalError, InvalidInputError
from atril_common.oip.tracing import Tracer
from tests.unit.common.fake_core import FakeCore


class Traced:
    """A tracer over a fake core."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "trace.json"
        self.tracer = Tracer(self.file)
        self.core = FakeCore()

    async def ask(self, count: int = 1) -> None:
        """Send requests one after another, and have their traces written."""
        request = InferRequest("twice", {"x": np.array([[1.0, 2.0]], np.float32)})
        for number in range(count):
            if self.tracer.on:
                received = ("HTTP_RECV_END", 7)
                future = self.tracer.infer(self.core, request, f"r{number}", received)
                await asyncio.wait([future])
            else:
                await self.core.infer(request)
        await asyncio.sleep(0)
        await self.tracer.close()

    def written(self, suffix: str = "") -> list[dict[str, Any]]:
        """The entries of a file."""
        path = self.file.with_name(self.file.name + suffix)
        entries: list[dict[str, Any]] = json.loads(path.read_bytes()) if path.exists() else []
        return entries

    def requests(self, suffix: str = "") -> list[str]:
        """The ids of the requests that a file tells of."""
        return [e["request_id"] for e in self.written(suffix) if "model_name" in e]


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    """A tracer with a file, off as it starts."""
    return Traced(tmp_path)


async def test_nothing_is_written_while_tracing_is_off(traced: Traced) -> None:
    """OFF is the default, and leaves no file."""
    await traced.ask(3)
    assert not traced.tracer.on
    assert not traced.file.exists()


async def test_a_trace_has_tritons_form(traced: Traced) -> None:
    """2.11: the model, then one entry a moment, all with the trace's id, in order of time."""
    traced.tracer.update("", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    await traced.ask()
    head, *moments = traced.written()
    assert head == {"id": 1, "model_name": "twice", "model_version": 1, "request_id": "r0"}
    assert {moment["id"] for moment in moments} == {1}
    stamps = [stamp for moment in moments for stamp in moment["timestamps"]]
    assert [s["name"] for s in stamps] == [
        "HTTP_RECV_END",
        "REQUEST_START",
        "INFER_RESPONSE_COMPLETE",
        "REQUEST_END",
    ]
    assert [s["ns"] for s in stamps] == sorted(s["ns"] for s in stamps)


async def test_every_nth_request_is_traced(traced: Traced) -> None:
    """`trace_rate` 3 traces the third, the sixth and so on."""
    traced.tracer.update("", {"trace_level": ["TIMESTAMPS"], "trace_rate": "3"})
    await traced.ask(7)
    assert traced.requests() == ["r2", "r5"]


async def test_no_more_than_the_count_are_traced(traced: Traced) -> None:
    """`trace_count` is what remains; at 0 nothing is asked of a request any more."""
    changes = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "2"}
    traced.tracer.update("", changes)
    await traced.ask(5)
    assert traced.requests() == ["r0", "r1"]
    assert traced.tracer.get()["trace_count"] == "0"
    assert not traced.tracer.on


async def test_the_file_is_whole_after_every_trace(traced: Traced) -> None:
    """It can be read while the server goes on."""
    traced.tracer.update("", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    for count in (1, 2, 3):
        await traced.ask()
        assert len({entry["id"] for entry in traced.written()}) == count


async def test_a_log_frequency_makes_a_file_of_so_many_traces(traced: Traced) -> None:
    """`log_frequency` 2: `trace.json.0` has two, the next file the next."""
    changes = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "log_frequency": "2"}
    traced.tracer.update("", changes)
    await traced.ask(3)
    assert traced.requests(".0") == ["r0", "r1"]
    assert traced.requests(".1") == ["r2"]
    assert not traced.file.exists()


async def test_one_model_may_be_traced_alone(traced: Traced) -> None:
    """A model's own level turns tracing on for it, and off again."""
    traced.tracer.update("twice", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    await traced.ask()
    traced.tracer.update("twice", {"trace_level": None})
    await traced.ask()
    assert traced.requests() == ["r0"]
    assert not traced.tracer.on


async def test_a_model_may_be_left_out(traced: Traced) -> None:
    """A model's own OFF goes before the global level."""
    traced.tracer.update("", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    traced.tracer.update("twice", {"trace_level": ["OFF"]})
    await traced.ask()
    assert not traced.file.exists()


async def test_a_models_own_count_is_not_refilled_by_other_changes(traced: Traced) -> None:
    """What remains for a model is its own, whatever is changed for all."""
    own = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "2"}
    traced.tracer.update("twice", own)
    await traced.ask()
    traced.tracer.update("", {"trace_count": "9"})
    assert traced.tracer.get("twice")["trace_count"] == "1"


async def test_tensors_are_written_where_asked_for(traced: Traced) -> None:
    """TENSORS: what went in and what came out, with shape and datatype."""
    traced.tracer.update("", {"trace_level": ["TENSORS"], "trace_rate": "1"})
    await traced.ask()
    _, *activities = traced.written()
    assert activities == [
        {
            "id": 1,
            "activity": "TENSOR_QUEUE_INPUT",
            "tensor": {"name": "x", "data": "1.0,2.0", "shape": "1,2", "dtype": "FP32"},
        },
        {
            "id": 1,
            "activity": "TENSOR_BACKEND_OUTPUT",
            "tensor": {"name": "y", "data": "2.0,4.0", "shape": "1,2", "dtype": "FP32"},
        },
    ]


async def test_a_request_that_fails_is_traced_too(traced: Traced) -> None:
    """Its trace ends as others do, without a version."""
    traced.tracer.update("", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    traced.core.error = InternalError("no")
    await traced.ask()
    assert traced.requests() == ["r0"]
    assert "REQUEST_END" in traced.file.read_text()


async def test_a_file_that_cannot_be_written_does_not_stop_requests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so; requests are answered."""
    traced = Traced(tmp_path / "nowhere")
    traced.tracer.update("", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    await traced.ask(2)
    assert len(traced.core.requests) == 2
    assert "trace_not_written" in caplog.text


def test_no_level_without_a_file() -> None:
    """A server that was given no file refuses to trace."""
    with pytest.raises(InvalidInputError, match="trace file name is not given"):
        Tracer(None).update("", {"trace_level": ["TIMESTAMPS"]})


class _Negation:
    """An executor."""

    def execute(self, batch: InferRequest) -> BatchResult:
        """`y` = -x."""
        return BatchResult({"y": -batch.inputs["x"]}, "1")


async def test_a_batcher_tells_when_a_traced_request_was_queued_and_run(traced: Traced) -> None:
    """2.11: QUEUE_START and the stages of the computation, in order of time."""
    batcher = DynamicBatcher("twice", _Negation(), BatchPolicy(8, 0.0, 16), Mock(BatchObserver))
    traced.core.infer = lambda request: batcher.submit(request, 1)  # type: ignore[method-assign]
    traced.tracer.update("", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    await traced.ask()
    stamps = [s for moment in traced.written()[1:] for s in moment["timestamps"]]
    assert [s["name"] for s in stamps] == [
        "HTTP_RECV_END",
        "REQUEST_START",
        "QUEUE_START",
        "COMPUTE_START",
        "COMPUTE_INPUT_END",
        "COMPUTE_OUTPUT_START",
        "COMPUTE_END",
        "INFER_RESPONSE_COMPLETE",
        "REQUEST_END",
    ]
    assert [s["ns"] for s in stamps] == sorted(s["ns"] for s in stamps)
