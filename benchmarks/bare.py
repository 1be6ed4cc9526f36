"""The bare ONNX Runtime loop: what the model alone can do on one core.

    python -m benchmarks.bare MODEL.onnx [BATCH_SIZE ...]

Prints rows a second, and rows a second of CPU time, for each batch size (1 and 64 if none is
given), as JSON. The model has one FP32 input, whose first dimension is the batch.
"""

import json
import sys
import time

import numpy as np
import onnxruntime as ort

BATCH_SIZES = (1, 64)
_SECONDS = 2.0
_WARM_UP_S = 0.3


def rows_per_second(session: ort.InferenceSession, batch_size: int) -> tuple[float, float]:
    """Rows a second, and a second of CPU time, of a loop that does nothing but run the model."""
    given = session.get_inputs()[0]
    shape = (batch_size, *given.shape[1:])
    feed = {given.name: np.random.default_rng(0).random(shape, dtype=np.float32)}
    outputs = [session.get_outputs()[0].name]
    _run_for(_WARM_UP_S, session, outputs, feed)
    cpu_s = time.process_time()
    runs, elapsed_s = _run_for(_SECONDS, session, outputs, feed)
    rows = batch_size * runs
    return rows / elapsed_s, rows / (time.process_time() - cpu_s)


def _run_for(
    seconds: float,
    session: ort.InferenceSession,
    outputs: list[str],
    feed: dict[str, np.ndarray],
) -> tuple[int, float]:
    """How many runs, in how many seconds."""
    runs, start_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - start_s) < seconds:
        # The clock is not looked at after every run of a model that takes microseconds.
        for _ in range(1 if elapsed_s > 0.01 * runs else 20):
            session.run(outputs, feed)
            runs += 1
    return runs, elapsed_s


def main() -> None:
    """Measure and print."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    sizes = [int(size) for size in sys.argv[2:]] or BATCH_SIZES
    print(json.dumps({str(size): rows_per_second(session, size) for size in sizes}))


if __name__ == "__main__":
    main()
