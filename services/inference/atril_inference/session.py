"""One ONNX Runtime session: providers in force, threads, and where it runs.

A session is an executor of the batcher. A model whose full batch takes less than `INLINE_BUDGET_S`
runs on the event loop, where two thread switches would cost more than the model; a slower one runs
in a thread of its own, so that the loop goes on reading requests meanwhile.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from atril_common.batching import BatchResult, Tensors
from atril_common.core import InferRequest
from atril_common.errors import InternalError, InvalidInputError, NotReadyError
from atril_common.tensors import DTYPES, Tensor, TensorSpec

INLINE_BUDGET_S = 0.005

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Device of the settings to ONNX Runtime's execution provider."""

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
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""ONNX Runtime's type names to wire datatypes."""


class SessionOptions(NamedTuple):
    """On which device and with how many threads a session runs."""

    device: str
    intra_op_threads: int


class OnnxSession:
    """A loaded `model.onnx` that runs where its warm-up says it should."""

    def __init__(self, session: ort.InferenceSession, provider: str, model_version: str) -> None:
        self._session = session
        self._model_version = model_version
        self.provider = provider
        self.inputs = _specs(session.get_inputs())
        self.outputs = _specs(session.get_outputs())
        self._output_names = tuple(spec.name for spec in self.outputs)
        self._string_inputs = [s.name for s in self.inputs if s.datatype == "BYTES"]
        self._string_outputs = {s.name for s in self.outputs if s.datatype == "BYTES"}
        self._thread: ThreadPoolExecutor | None = None

    @classmethod
    def load(cls, path: Path, model_version: str, options: SessionOptions) -> "OnnxSession":
        """Create the session.

        Raises:
            NotReadyError: the file is not a model this runtime can run, or the device that was
            asked
                for is not in force; the text gives the reason. It never falls back to the CPU.
        """
        wanted = PROVIDERS[options.device]
        if wanted not in ort.get_available_providers():
            raise NotReadyError(
                f"device '{options.device}' was asked for, but onnxruntime {ort.__version__} has "
                f"no {wanted} here; it has {', '.join(ort.get_available_providers())}"
            )
        if options.device == "cuda":
            ort.preload_dlls()  # from the wheels of CUDA and cuDNN, where the system has none
        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = options.intra_op_threads
        session_options.inter_op_num_threads = 1
        session_options.log_severity_level = 4  # its errors are raised, and logged by us
        # Threads that spin while idle would take the core from the server itself.
        session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = ort.InferenceSession(str(path), session_options, providers=[wanted])
        except Exception as err:  # onnxruntime's errors share no base class
            raise NotReadyError(f"{path.name} cannot be loaded: {_first_line(err)}") from err
        in_force = session.get_providers()
        if in_force[0] != wanted:
            raise NotReadyError(
                f"device '{options.device}' was asked for, but {in_force[0]} is in force"
            )
        return cls(session, wanted, model_version)

    def warm_up(self, batch_size: int) -> None:
        """Run zeros through the model and decide where it runs; variable dimensions are taken as 1.

        Raises:
            NotReadyError: the model fails on its own input shapes.
        """
        feed = {
            spec.name: np.zeros(
                tuple(
                    batch_size if i == 0 and d == -1 else max(d, 1)
                    for i, d in enumerate(spec.shape)
                ),
                dtype=DTYPES[spec.datatype],
            )
            if spec.datatype != "BYTES"
            else np.full([max(d, 1) for d in spec.shape], b"", dtype=object)
            for spec in self.inputs
        }
        try:
            self._run(feed, ())
            elapsed_s = min(self._timed(feed) for _ in range(3))
        except (InternalError, InvalidInputError) as err:
            raise NotReadyError(f"warm-up failed: {err}") from err
        if elapsed_s > INLINE_BUDGET_S:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="onnxruntime")

    def execute(self, batch: InferRequest) -> BatchResult | asyncio.Future[BatchResult]:
        """Run one batch, here or in the session's thread.

        Raises:
            InternalError: ONNX Runtime failed.
        """
        if self._thread is None:
            return self._run(batch.inputs, batch.outputs)
        return asyncio.get_running_loop().run_in_executor(
            self._thread, self._run, batch.inputs, batch.outputs
        )

    def close(self) -> None:
        """Give the session's thread back; nothing may be running."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _timed(self, feed: Tensors) -> float:
        start_s = time.perf_counter()
        self._run(feed, ())
        return time.perf_counter() - start_s

    def _run(self, inputs: Tensors, outputs: tuple[str, ...]) -> BatchResult:
        names = outputs or self._output_names
        try:
            if self._string_inputs:
                texts = {n: _each(bytes.decode, inputs[n]) for n in self._string_inputs}
                inputs = {**inputs, **texts}
            values = self._session.run(names, inputs)
        except Exception as err:
            raise InternalError(f"onnxruntime failed: {_first_line(err)}") from err
        answer = dict(zip(names, values, strict=True))
        for name in self._string_outputs.intersection(names):
            answer[name] = _each(str.encode, answer[name])
        return BatchResult(answer, self._model_version)


def _each(convert: Callable[[Any], Any], tensor: Tensor) -> Tensor:
    """ONNX Runtime's strings are text in Python, the protocol's are bytes."""
    result = np.empty(tensor.size, dtype=object)
    result[:] = [convert(element) for element in tensor.ravel()]
    return result.reshape(tensor.shape)


def _specs(nodes: list[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    specs = []
    for node in nodes:
        if node.type not in _DATATYPES:
            raise NotReadyError(f"tensor '{node.name}' has type {node.type}, which is not served")
        shape = tuple(d if isinstance(d, int) else -1 for d in node.shape)
        specs.append(TensorSpec(node.name, _DATATYPES[node.type], shape))
    return tuple(specs)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
