"""An FP32 graph in FP16 or INT8; its inputs and outputs stay FP32."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from atril_training.export import IR_VERSION, strip_metadata

QUANTIZED_OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul"),
    *("Relu", "MaxPool", "GlobalAveragePool", "Concat"),
)
"""Operators computed in INT8: those that multiply by weights, and those that pass values on."""

CALIBRATION_BATCH_SIZE = 32


def to_float16(onnx_model: bytes) -> bytes:
    """Weights and activations in FP16; operators that lose too much by it stay FP32."""
    model = onnx.load_model_from_string(onnx_model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights too small for FP16 become the smallest there is
        converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    converted.topological_sort()  # the casts of the inputs are put last
    return _finished(converted.model)


def to_int8(onnx_model: bytes, calibration: NDArray[np.float32]) -> bytes:
    """Weights and activations in INT8, with Q and DQ nodes (static quantisation).

    Args:
        onnx_model: the FP32 graph, which has one input.
        calibration: real values of the input, none of the test split; the range of each activation
            is the smallest and the largest value that it has with them. Weights have a range of
            their own for each channel.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, prepared, quantized = (Path(folder) / f"{n}.onnx" for n in ("fp32", "p", "int8"))
        given.write_bytes(onnx_model)
        quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            _Batches(_input_name(onnx_model), calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return _finished(onnx.load(quantized))


def _input_name(onnx_model: bytes) -> str:
    return str(onnx.load_model_from_string(onnx_model).graph.input[0].name)


def _finished(model: onnx.ModelProto) -> bytes:
    strip_metadata(model)
    model.producer_name, model.producer_version = "atril", ""
    model.ir_version = min(model.ir_version, IR_VERSION)
    return bytes(model.SerializeToString(deterministic=True))


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """The calibration data in batches."""

    def __init__(self, name: str, data: NDArray[np.float32]) -> None:
        self._batches: Iterator[Mapping[str, NDArray[np.float32]]] = (
            {name: data[start : start + CALIBRATION_BATCH_SIZE]}
            for start in range(0, len(data), CALIBRATION_BATCH_SIZE)
        )

    def get_next(self) -> Mapping[str, NDArray[np.float32]] | None:
        """The next batch, None at the end."""
        return next(self._batches, None)
