"""Whether bound buffers pay on the CPU: a plain run beside two ways of binding.

    python -m benchmarks.io_binding MODEL.onnx

Prints rows a second by size of batch, as JSON, the three taking turns: `plain` is
`InferenceSession.run`, `bound` binds each batch anew where it lies, `buckets` runs in buffers bound
once, as sessions on a GPU do.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from atril_inference.io_binding import bind_buckets
from atril_inference.runtime import open_session
from atril_inference.session import OnnxSession
from atril_inference.session_options import SessionOptions

BATCH_SIZES = (1, 8, 64)
_ROUNDS = 7
_SECONDS = 0.3


def rows_per_second(run: Callable[[], object], batch_size: int) -> float:
    """Rows a second of a loop."""
    runs, start_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - start_s) < _SECONDS:
        for _ in range(5):
            run()
        runs += 5
    return runs * batch_size / elapsed_s


def ways(path: Path, batch_size: int) -> dict[str, Callable[[], object]]:
    """The ways to run a batch of random numbers, by name."""
    options = SessionOptions(device="cpu", intra_op_threads=1)
    session, _, _ = open_session(path, options)
    specs = OnnxSession.load(path, "1", options)
    names = [spec.name for spec in specs.outputs]
    (given,) = specs.inputs
    batch = np.random.default_rng(0).random((batch_size, *given.shape[1:]), np.float32)
    runner = bind_buckets(session, specs.inputs, specs.outputs, [batch_size], options)
    if runner is None:
        raise SystemExit(f"{path}: its shapes are not fixed but for the batch")

    def bound() -> object:
        binding = session.io_binding()
        binding.bind_cpu_input(given.name, batch)
        for name in names:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

    return {
        "plain": lambda: session.run(names, {given.name: batch}),
        "bound": bound,
        "buckets": lambda: runner.run(names, {given.name: batch}),
    }


def main() -> None:
    """Measure and print the medians."""
    path = Path(sys.argv[1])
    figures: dict[str, dict[str, float]] = {}
    for size in BATCH_SIZES:
        runs = ways(path, size)
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(_ROUNDS):
            for name, run in runs.items():
                rates[name].append(rows_per_second(run, size))
        figures[str(size)] = {name: round(statistics.median(r)) for name, r in rates.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
