"""How long one answer takes."""

import statistics
import time
from dataclasses import dataclass

from atril_training.export import Export
from atril_training.parity import open_session

RUNS = 30
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """The median time of one example through ONNX Runtime, on one thread of this processor."""

    p50_ms: float
    runs: int
    batch: int = 1
    threads: int = 1


def measure_latency(export: Export, onnx_model: bytes) -> Latency:
    """Time the first example of the first parity case, alone."""
    session = open_session(onnx_model)
    batch = export.cases[0].batches[0]
    feed = {
        spec.name: tensor[:1].contiguous().numpy()
        for spec, tensor in zip(export.inputs, batch, strict=True)
    }
    times_ms = []
    for run in range(_WARM_UP + RUNS):
        started_s = time.perf_counter()
        session.run(None, feed)
        if run >= _WARM_UP:
            times_ms.append(1e3 * (time.perf_counter() - started_s))
    return Latency(p50_ms=statistics.median(times_ms), runs=RUNS)
