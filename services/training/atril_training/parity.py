"""Whether ONNX Runtime computes what PyTorch computes, on real inputs of many sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors
from torch import Tensor

from atril_common.errors import RefusedError
from atril_training.export import BATCH_DIMENSION, Export, OutputSpec, ParityCase

SIZES_NEEDED = 3

_SMALLEST_DENOMINATOR = 1e-6

# ONNX Runtime's errors have no base class of their own; these are what a graph can cause.
_GRAPH_ERRORS = (
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
)


@dataclass(frozen=True, slots=True)
class OutputParity:
    """PyTorch against ONNX Runtime on one output, the largest difference over all batches.

    A relative difference is |torch - onnx| / max(|torch|, 1e-6), element by element.
    `argmax_agreement` is the share of rows whose largest entry is the same one; None where that is
    not asked for.
    """

    name: str
    max_abs: float
    max_rel: float
    tolerance: float
    argmax_agreement: float | None


@dataclass(frozen=True, slots=True)
class CaseParity:
    """All outputs at one size of the inputs."""

    sizes: Mapping[str, int]
    examples: int
    outputs: tuple[OutputParity, ...]


@dataclass(frozen=True, slots=True)
class ParityRecord:
    """What was compared."""

    cases: tuple[CaseParity, ...]

    @property
    def max_abs(self) -> float:
        """The largest absolute difference of all."""
        return max(output.max_abs for case in self.cases for output in case.outputs)

    def failures(self, argmax_agreement: float = 1.0) -> tuple[str, ...]:
        """Every figure that misses its bar, in words; none when all is well.

        Args:
            argmax_agreement: share of the examples whose largest entry must be the same one.
        """
        return tuple(
            text
            for case in self.cases
            for output in case.outputs
            for text in _failures(case, output, argmax_agreement)
        )


def measure_parity(export: Export, onnx_model: bytes) -> ParityRecord:
    """Run both on the same inputs.

    Raises:
        ValueError: the export's cases do not prove enough, see `Export`.
        RefusedError: ONNX Runtime does not load or run the file.
    """
    check_coverage(export)
    try:
        session = open_session(onnx_model)
        cases = tuple(_compare(export, session, case) for case in export.cases)
    except _GRAPH_ERRORS as err:
        raise RefusedError(f"ONNX Runtime refuses the exported graph: {err}") from err
    return ParityRecord(cases)


def open_session(onnx_model: bytes) -> onnxruntime.InferenceSession:
    """A session on one thread of the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx_model, options, providers=["CPUExecutionProvider"])


def check_coverage(export: Export) -> None:
    """Check that the cases prove that the free dimensions are free.

    Raises:
        ValueError: they do not; the text names the dimension and the sizes.
    """
    traced: dict[str, int] = {}
    for spec, tensor in zip(export.inputs, export.example, strict=True):
        traced.update(
            (dim, size)
            for dim, size in zip(spec.dims, tensor.shape, strict=True)
            if isinstance(dim, str)
        )
    for dim, traced_size in traced.items():
        sizes = sorted({case.sizes[dim] for case in export.cases})
        beyond = dim == BATCH_DIMENSION or sizes[-1] > traced_size
        if len(sizes) < SIZES_NEEDED or 1 not in sizes or not beyond:
            raise ValueError(
                f"parity is measured with '{dim}' of {sizes}: expected at least {SIZES_NEEDED} "
                f"sizes, 1 among them, and one over the {traced_size} it was traced with"
            )


def _compare(export: Export, session: onnxruntime.InferenceSession, case: ParityCase) -> CaseParity:
    names = [spec.name for spec in export.inputs]
    expected, answered, examples = [], [], 0
    for batch in case.batches:
        with torch.no_grad():
            outputs = export.module(*batch)
        tensors = (outputs,) if isinstance(outputs, Tensor) else outputs
        expected.append([tensor.numpy() for tensor in tensors])
        feed = {
            name: tensor.contiguous().numpy() for name, tensor in zip(names, batch, strict=True)
        }
        answered.append(session.run([spec.name for spec in export.outputs], feed))
        examples += len(batch[0])
    return CaseParity(
        case.sizes,
        examples,
        tuple(
            _output(spec, [e[i] for e in expected], [a[i] for a in answered])
            for i, spec in enumerate(export.outputs)
        ),
    )


def _output(
    spec: OutputSpec,
    expected: Sequence[NDArray[np.generic]],
    answered: Sequence[NDArray[np.generic]],
) -> OutputParity:
    for mine, other in zip(expected, answered, strict=True):
        if mine.shape != other.shape:
            raise RefusedError(
                f"ONNX Runtime answers '{spec.name}' of shape {list(other.shape)} where PyTorch "
                f"answers {list(mine.shape)}"
            )
    ours = np.concatenate([array.reshape(-1, _last(array)) for array in expected])
    theirs = np.concatenate([array.reshape(-1, _last(array)) for array in answered])
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    scale = np.maximum(np.abs(ours.astype(np.float64)), _SMALLEST_DENOMINATOR)
    agreement = (
        float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))) if spec.same_argmax else None
    )
    return OutputParity(
        name=spec.name,
        max_abs=float(np.max(difference, initial=0.0)),
        max_rel=float(np.max(difference / scale, initial=0.0)),
        tolerance=spec.tolerance,
        argmax_agreement=agreement,
    )


def _last(array: NDArray[np.generic]) -> int:
    return array.shape[-1] if array.ndim > 1 else 1


def _failures(case: CaseParity, output: OutputParity, argmax_agreement: float) -> list[str]:
    at = ", ".join(f"{name} {size}" for name, size in case.sizes.items())
    failures = []
    if not output.max_abs <= output.tolerance:  # a NaN fails too
        failures.append(
            f"{output.name} max abs difference {output.max_abs:.3g} at {at}, at most "
            f"{output.tolerance:.3g} allowed"
        )
    agreement = output.argmax_agreement
    if agreement is not None and not agreement >= argmax_agreement:
        required = "all" if argmax_agreement == 1.0 else f"at least {argmax_agreement:g}"
        failures.append(
            f"{output.name} argmax agreement {agreement:.4f} at {at}, {required} required"
        )
    return failures
