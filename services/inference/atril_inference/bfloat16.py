"""Running models with BF16 tensors, which numpy does not have.

ONNX Runtime takes them as its own values made of 16-bit words; everything else goes the same way
with them. The values are copied, and only models that have BF16 tensors come here.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from atril_common.batching import Tensors
from atril_common.tensors import DTYPES, Tensor

BFLOAT16 = DTYPES["BF16"]

_ONNX_BFLOAT16 = 16
"""`TensorProto.BFLOAT16`."""


def run_with_bfloat16(
    session: ort.InferenceSession,
    names: Sequence[str],
    inputs: Tensors,
    run_options: ort.RunOptions | None,
) -> list[Tensor]:
    """`InferenceSession.run`, for tensors some of which are BF16."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in inputs.items()}
    feed = {name: _value(tensor) for name, tensor in contiguous.items()}
    return [_tensor(value) for value in session.run_with_ort_values(names, feed, run_options)]


def _value(tensor: Tensor) -> Any:
    """A value that shares the tensor's memory."""
    if tensor.dtype != BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy(tensor)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(tensor.view("<u2"), _ONNX_BFLOAT16)


def _tensor(value: Any) -> Tensor:
    """A copy of a value."""
    if value.element_type() != _ONNX_BFLOAT16:
        tensor: Tensor = value.numpy()
        return tensor
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(content, BFLOAT16).reshape(value.shape())
