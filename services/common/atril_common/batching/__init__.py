"""Dynamic batching: requests that wait together are run together.

One batcher stands before each model version. It is the only queue: bounded, in order of priority
and then of arrival, and each request keeps its own future, so no answer can reach another caller.
What runs the batch is given as an executor: an ONNX Runtime session in the engine, a call to a
replica in the gateway.

    policy     what a model's configuration says of batches and queues
    execution  the ports: what runs a batch, and who is told what became of it
    queue      what waits: priority levels, bounds, time-outs
    merging    many requests into one, and one answer into many
    batcher    which batch leaves when, and who gets which rows of the answer
    ordering   answers in the order of arrival where several batches run at once
"""

from atril_common.batching.batcher import DynamicBatcher
from atril_common.batching.execution import (
    BatchObserver,
    BatchResult,
    Departure,
    ExecutionTimes,
    Executor,
    Tensors,
)
from atril_common.batching.policy import BatchPolicy, QueuePolicy, TimeoutAction

__all__ = [
    "BatchObserver",
    "BatchPolicy",
    "BatchResult",
    "Departure",
    "DynamicBatcher",
    "ExecutionTimes",
    "Executor",
    "QueuePolicy",
    "Tensors",
    "TimeoutAction",
]
