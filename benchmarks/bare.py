"""The bare ONNX Runtime loop: what the model alone can do on one core.

    python -m benchmarks.bare MODEL.onnx

Prints requests a second for batches of 1 and 64, as JSON.
"""

import json
import sys
import time

import numpy as np
import onnxruntime as ort

BATCH_SIZES = (1, 64)
_SECONDS = 2.0


def rows_per_second(session: ort.InferenceSession, batch_size: int) -> float:
    """Rows a second of a loop that does nothing but run the model."""
    images = np.random.default_rng(0).random((batch_size, 1, 32, 32), dtype=np.float32)
    feed = {"image": images}
    for _ in range(50):
        session.run(["probabilities"], feed)
    runs, start_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - start_s) < _SECONDS:
        for _ in range(20):
            session.run(["probabilities"], feed)
        runs += 20
    return runs * batch_size / elapsed_s


def main() -> None:
    """Measure and print."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    print(json.dumps({str(size): rows_per_second(session, size) for size in BATCH_SIZES}))


if __name__ == "__main__":
    main()
