"""Runs in buffers that stay where they are, for batches of fixed sizes.

On a GPU a run copies its inputs to the device and its outputs back. Here each size of batch has its
buffers on the device once and for all, bound to the session, and its inputs are gathered in
page-locked memory, from which the device copies at its full rate. A batch runs in the smallest size
that holds it; the rows that it does not fill are computed and dropped, as rows of a batch do not
know of each other. So the device meets the same few shapes for ever: its arena does not grow, and
each size can be captured as a CUDA graph of its own.

On the CPU there is nothing to copy to, and a plain run serves single requests better
(`benchmarks/io_binding.py`); it works there all the same, which is how the tests run it.
"""

import logging
import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from atril_common.batching import Tensors
from atril_common.tensors import DTYPES, Tensor, TensorSpec
from atril_inference.session_options import SessionOptions

logger = logging.getLogger(__name__)

GRAPH_ID = "gpu_graph_id"
"""Option of a run: which CUDA graph it is; runs with -1 are neither captured nor replayed."""

_ORT_DEVICES = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}


class _Host(NamedTuple):
    """Memory of the host: a view of it, and what owns it."""

    view: Tensor
    owner: object


class _Input(NamedTuple):
    """A buffer on the device, and the host's memory that it is filled from."""

    name: str
    device: ort.OrtValue
    host: _Host


class _Bucket(NamedTuple):
    """One size of batch: its buffers, bound to the session, and the options of its runs."""

    size: int
    inputs: tuple[_Input, ...]
    outputs: dict[str, ort.OrtValue]
    binding: ort.IOBinding
    run_options: ort.RunOptions | None


class BucketRunner:
    """Runs batches in the smallest bucket that holds them; one at a time, from any thread."""

    def __init__(self, session: ort.InferenceSession, buckets: Sequence[_Bucket]) -> None:
        self._session = session
        self._buckets = sorted(buckets, key=lambda bucket: bucket.size)
        self._sizes = [bucket.size for bucket in self._buckets]
        self._lock = threading.Lock()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of batch that have buffers, ascending."""
        return tuple(self._sizes)

    def run(self, names: Sequence[str], inputs: Tensors) -> list[Tensor] | None:
        """The outputs of these names for a batch; None where it is larger than every bucket."""
        rows = len(next(iter(inputs.values())))
        index = bisect_left(self._sizes, rows)
        if index == len(self._buckets):
            return None
        bucket = self._buckets[index]
        with self._lock:
            for name, device, host in bucket.inputs:
                host.view[:rows] = inputs[name]
                device.update_inplace(host.view)
            self._session.run_with_iobinding(bucket.binding, bucket.run_options)
            # On the CPU this is the buffer itself, which the next run overwrites: hence the copy.
            return [bucket.outputs[name].numpy()[:rows].copy() for name in names]


def bind_buckets(
    session: ort.InferenceSession,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    sizes: Sequence[int],
    options: SessionOptions,
) -> BucketRunner | None:
    """Buffers for each size of batch.

    Args:
        session: where they are bound.
        inputs: of the graph, the first dimension of each being the batch.
        outputs: likewise.
        sizes: sizes of batch.
        options: the device, and whether each size is captured as a CUDA graph.

    Returns:
        None where a shape is not fixed but for the batch, or holds what numpy does not, or the
        graph does not answer a row for each row: such a model is run without buffers of its own.
    """
    if not all(_is_fixed(spec) for spec in (*inputs, *outputs)):
        return None
    pinned = _pinned_memory(options)
    buckets = [
        _bucket(session, inputs, outputs, size, (options, pinned, number))
        for number, size in enumerate(sorted(set(sizes)), start=1)
    ]
    runner = BucketRunner(session, buckets)
    try:
        for bucket in buckets:
            runner.run([], {i.name: i.host.view for i in bucket.inputs})
    except Exception as err:  # noqa: BLE001  # onnxruntime's errors share no base class
        logger.warning("buckets_unusable", extra={"reason": str(err)})
        return None
    logger.info(
        "buckets_bound",
        extra={
            "sizes": runner.sizes,
            "device": options.device,
            "pinned": pinned is not None,
            "cuda_graphs": options.cuda_graphs,
        },
    )
    return runner


def _is_fixed(spec: TensorSpec) -> bool:
    batch, *inner = spec.shape or (0,)
    return batch == -1 and -1 not in inner and spec.datatype not in ("BYTES", "BF16")


def _bucket(
    session: ort.InferenceSession,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    size: int,
    where: tuple[SessionOptions, "ort.OrtMemoryInfo | None", int],
) -> _Bucket:
    options, pinned, graph_id = where
    binding = session.io_binding()
    filled = []
    for spec in inputs:
        device = _on_device(spec, size, options)
        binding.bind_ortvalue_input(spec.name, device)
        filled.append(_Input(spec.name, device, _on_host(spec, size, pinned)))
    answered = {spec.name: _on_device(spec, size, options) for spec in outputs}
    for name, value in answered.items():
        binding.bind_ortvalue_output(name, value)
    run_options = None
    if options.cuda_graphs:
        run_options = ort.RunOptions()
        run_options.add_run_config_entry(GRAPH_ID, str(graph_id))
    return _Bucket(size, tuple(filled), answered, binding, run_options)


def _on_device(spec: TensorSpec, size: int, options: SessionOptions) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_shape_and_type(
        [size, *spec.shape[1:]],
        DTYPES[spec.datatype],
        _ORT_DEVICES[options.device],
        options.device_id,
    )


def _on_host(spec: TensorSpec, size: int, pinned: "ort.OrtMemoryInfo | None") -> _Host:
    """Zeros: rows that no batch has filled yet are computed too."""
    shape, dtype = [size, *spec.shape[1:]], DTYPES[spec.datatype]
    if pinned is None:
        zeros = np.zeros(shape, dtype)
        return _Host(zeros, zeros)
    value = ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, memory_info=pinned)
    view = value.numpy()
    view[:] = 0
    return _Host(view, value)


def _pinned_memory(options: SessionOptions) -> "ort.OrtMemoryInfo | None":
    """Page-locked memory of the host that belongs to the device, where ONNX Runtime has it."""
    if options.device == "cpu":
        return None
    for device in ort.get_ep_devices():
        if device.ep_name == "CUDAExecutionProvider":
            memory = device.memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)
            if memory is not None and memory.device_id == options.device_id:
                return memory
    return None
