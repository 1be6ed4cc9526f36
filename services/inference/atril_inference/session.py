"""One ONNX Runtime session, and where it runs.

A session is an executor of the batcher. A model whose slowest batch takes less than
`INLINE_BUDGET_S` runs on the event loop, where two thread switches would cost more than the model;
a slower one runs in threads of its own, so that the loop goes on reading requests meanwhile.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from atril_common.batching import BatchResult, Tensors
from atril_common.core import InferRequest
from atril_common.errors import InternalError, InvalidInputError, NotReadyError
from atril_common.tensors import Tensor, TensorSpec
from atril_inference.bfloat16 import run_with_bfloat16
from atril_inference.io_binding import BucketRunner, bind_buckets
from atril_inference.providers import Placement
from atril_inference.runtime import open_session, reason_of
from atril_inference.session_options import SessionOptions
from atril_inference.warm_up import WarmUpSample

INLINE_BUDGET_S = 0.005

_SHORT_RUN_S = 0.05

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""ONNX Runtime's type names to wire datatypes."""


class WarmUpTime(NamedTuple):
    """How long the first run of a sample took, and the shortest of all its runs."""

    sample: str
    batch_size: int
    first_s: float
    best_s: float


class OnnxSession:
    """A loaded `model.onnx` that runs where its warm-up says it should."""

    def __init__(
        self,
        session: ort.InferenceSession,
        placement: Placement,
        run_options: ort.RunOptions | None,
        model_version: str,
    ) -> None:
        self._session = session
        self._run_options = run_options
        self._model_version = model_version
        self.placement = placement
        self.inputs = tensor_specs(session.get_inputs())
        self.outputs = tensor_specs(session.get_outputs())
        self._output_names = tuple(spec.name for spec in self.outputs)
        self._has_bfloat16 = any(s.datatype == "BF16" for s in (*self.inputs, *self.outputs))
        self._string_inputs = [s.name for s in self.inputs if s.datatype == "BYTES"]
        self._string_outputs = {s.name for s in self.outputs if s.datatype == "BYTES"}
        self._threads: ThreadPoolExecutor | None = None
        self._buckets: BucketRunner | None = None
        self._batched = False
        self._input_shapes: Mapping[str, tuple[int, ...]] = {}
        self._output_shapes: Mapping[str, tuple[int, ...]] = {}

    @classmethod
    def load(cls, path: Path, model_version: str, options: SessionOptions) -> "OnnxSession":
        """Create the session.

        Raises:
            NotReadyError: the file is not a model that this runtime can run, or the device that was
                asked for is not in force; the text gives the reason. It never falls back to the
                CPU.
        """
        return cls(*open_session(path, options), model_version)

    def reshape(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        *,
        batched: bool,
    ) -> None:
        """From now on give these inputs and outputs another shape on their way in and out.

        Args:
            inputs: shapes for the graph, without the batch dimension.
            outputs: shapes for the callers, without the batch dimension.
            batched: whether there is a batch dimension, which stays as it is.
        """
        self._input_shapes, self._output_shapes, self._batched = inputs, outputs, batched

    def bind_buckets(self, sizes: Sequence[int], options: SessionOptions) -> None:
        """Give each size of batch buffers of its own on the device, if the graph's shapes allow.

        Worth it where the device is not the CPU; `sizes` are those that will be warmed up.
        """
        self._buckets = bind_buckets(self._session, self.inputs, self.outputs, sizes, options)

    def warm_up(
        self, samples: Iterable[WarmUpSample], budget_s: float, instances: int = 1
    ) -> tuple[WarmUpTime, ...]:
        """Run samples through the model, and decide by the slowest one where it runs from now on.

        Args:
            samples: what to run; declared ones are all run, others while there is time.
            budget_s: seconds after which no further undeclared sample is begun.
            instances: how many batches may be under way at once, each in a thread.

        Raises:
            NotReadyError: the model fails on one of them; the text names it.
        """
        end_s = time.perf_counter() + budget_s
        times: list[WarmUpTime] = []
        for sample in samples:
            if times and not sample.declared and time.perf_counter() >= end_s:
                continue
            try:
                times.append(self._timed(sample))
            except (InternalError, InvalidInputError) as err:
                raise NotReadyError(f"warm-up failed with {sample.name}: {err}") from err
        if max(taken.best_s for taken in times) > INLINE_BUDGET_S:
            self._threads = ThreadPoolExecutor(instances, thread_name_prefix="onnxruntime")
        return tuple(times)

    def execute(self, batch: InferRequest) -> BatchResult | asyncio.Future[BatchResult]:
        """Run one batch, here or in the session's threads.

        Raises:
            InternalError: ONNX Runtime failed.
        """
        if self._threads is None:
            return self._run(batch.inputs, batch.outputs)
        return asyncio.get_running_loop().run_in_executor(
            self._threads, self._run, batch.inputs, batch.outputs
        )

    def close(self) -> None:
        """Give the session's threads back; nothing may be running."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    def _timed(self, sample: WarmUpSample) -> WarmUpTime:
        """Run a sample, at least twice: a first run plans memory and chooses algorithms."""
        runs: list[float] = []
        while len(runs) < max(2, sample.runs) or (len(runs) < 3 and runs[-1] < _SHORT_RUN_S):
            start_s = time.perf_counter()
            self._run(sample.inputs, ())
            runs.append(time.perf_counter() - start_s)
        return WarmUpTime(sample.name, sample.batch_size, runs[0], min(runs))

    def _run(self, inputs: Tensors, outputs: tuple[str, ...]) -> BatchResult:
        names = outputs or self._output_names
        if self._input_shapes:
            inputs = {**inputs, **self._reshaped(inputs, self._input_shapes)}
        try:
            if self._string_inputs:
                texts = {n: _each(bytes.decode, inputs[n]) for n in self._string_inputs}
                inputs = {**inputs, **texts}
            values = None if self._buckets is None else self._buckets.run(names, inputs)
            if self._has_bfloat16:
                values = run_with_bfloat16(self._session, names, inputs, self._run_options)
            elif values is None:
                values = self._session.run(names, inputs, self._run_options)
        except Exception as err:
            raise InternalError(f"onnxruntime failed: {reason_of(err)}") from err
        answer = dict(zip(names, values, strict=True))
        for name in self._string_outputs.intersection(names):
            answer[name] = _each(str.encode, answer[name])
        if self._output_shapes:
            answer |= self._reshaped(answer, self._output_shapes)
        return BatchResult(answer, self._model_version)

    def _reshaped(self, tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
        leading = 1 if self._batched else 0
        return {
            name: tensors[name].reshape((*tensors[name].shape[:leading], *shape))
            for name, shape in shapes.items()
            if name in tensors
        }


def _each(convert: Callable[[Any], Any], tensor: Tensor) -> Tensor:
    """ONNX Runtime's strings are text in Python, the protocol's are bytes."""
    result = np.empty(tensor.size, dtype=object)
    result[:] = [convert(element) for element in tensor.ravel()]
    return result.reshape(tensor.shape)


def tensor_specs(nodes: Iterable[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of a graph; free dimensions are -1.

    Raises:
        NotReadyError: one has a type that is not served.
    """
    specs = []
    for node in nodes:
        if node.type not in _DATATYPES:
            raise NotReadyError(f"tensor '{node.name}' has type {node.type}, which is not served")
        shape = tuple(d if isinstance(d, int) else -1 for d in node.shape)
        specs.append(TensorSpec(node.name, _DATATYPES[node.type], shape))
    return tuple(specs)
