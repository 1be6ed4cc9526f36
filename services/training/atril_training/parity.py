"""Whether ONNX Runtime computes what PyTorch computes, on real pictures.

Dimensions: N pictures, B batch, C channels, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors
from torch import nn

from atril_common.errors import RefusedError
from atril_training.export import INPUT_NAME, LOGITS_NAME, PROBABILITIES_NAME

BATCH_SIZES = (1, 7, 64)
"""One, an odd one, and the largest that is served."""

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
class ParityBar:
    """The largest absolute differences allowed, and the least share of equal answers."""

    logits_abs: float = 1e-4
    probabilities_abs: float = 1e-5
    argmax_agreement: float = 1.0


@dataclass(frozen=True, slots=True)
class BatchParity:
    """PyTorch against ONNX Runtime at one batch size, the largest difference over all batches.

    A relative difference is |torch - onnx| / max(|torch|, 1e-6), element by element.
    `argmax_agreement` is the share of pictures given the same class by both.
    """

    batch_size: int
    examples: int
    logits_max_abs: float
    logits_max_rel: float
    probabilities_max_abs: float
    probabilities_max_rel: float
    argmax_agreement: float


@dataclass(frozen=True, slots=True)
class ParityRecord:
    """What was compared, and the bar it had to meet."""

    bar: ParityBar
    batches: tuple[BatchParity, ...]

    def failures(self) -> tuple[str, ...]:
        """Every figure that misses the bar, in words; none when all is well."""
        return tuple(text for batch in self.batches for text in _failures(batch, self.bar))


def measure_parity(
    module: nn.Module,
    onnx_model: bytes,
    pictures: NDArray[np.float32],
    *,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    bar: ParityBar | None = None,
) -> ParityRecord:
    """Run both on the same pictures at each batch size.

    Args:
        module: what was exported; answers (logits, probabilities).
        onnx_model: the exported file.
        pictures: normalised, [N, C, H, W]; those that fill no batch are left out.
        batch_sizes: how many pictures at once.
        bar: what the record must meet; the standard one where None.

    Raises:
        ValueError: fewer pictures than the largest batch.
        RefusedError: ONNX Runtime does not load or run the file.
    """
    if len(pictures) < max(batch_sizes):
        raise ValueError(f"parity needs at least {max(batch_sizes)} pictures, got {len(pictures)}")
    try:
        session = onnxruntime.InferenceSession(onnx_model, providers=["CPUExecutionProvider"])
        batches = tuple(_compare(module, session, pictures, size) for size in batch_sizes)
    except _GRAPH_ERRORS as err:
        raise RefusedError(f"ONNX Runtime refuses the exported graph: {err}") from err
    return ParityRecord(bar=bar or ParityBar(), batches=batches)


def _compare(
    module: nn.Module,
    session: onnxruntime.InferenceSession,
    pictures: NDArray[np.float32],
    batch_size: int,
) -> BatchParity:
    count = len(pictures) - len(pictures) % batch_size
    expected, answered = [], []
    for start in range(0, count, batch_size):
        batch = np.ascontiguousarray(pictures[start : start + batch_size])
        with torch.no_grad():
            expected.append([output.numpy() for output in module(torch.from_numpy(batch))])
        answered.append(session.run([LOGITS_NAME, PROBABILITIES_NAME], {INPUT_NAME: batch}))
    torch_logits, torch_probs = (np.concatenate(parts) for parts in zip(*expected, strict=True))
    onnx_logits, onnx_probs = (np.concatenate(parts) for parts in zip(*answered, strict=True))
    return BatchParity(
        batch_size=batch_size,
        examples=count,
        logits_max_abs=_max_abs(torch_logits, onnx_logits),
        logits_max_rel=_max_rel(torch_logits, onnx_logits),
        probabilities_max_abs=_max_abs(torch_probs, onnx_probs),
        probabilities_max_rel=_max_rel(torch_probs, onnx_probs),
        argmax_agreement=float(np.mean(torch_logits.argmax(axis=1) == onnx_probs.argmax(axis=1))),
    )


def _max_abs(expected: NDArray[np.float32], answered: NDArray[np.float32]) -> float:
    return float(np.max(np.abs(expected - answered)))


def _max_rel(expected: NDArray[np.float32], answered: NDArray[np.float32]) -> float:
    scale = np.maximum(np.abs(expected), _SMALLEST_DENOMINATOR)
    return float(np.max(np.abs(expected - answered) / scale))


def _failures(batch: BatchParity, bar: ParityBar) -> list[str]:
    limits = (
        ("logits max abs difference", batch.logits_max_abs, bar.logits_abs),
        ("probabilities max abs difference", batch.probabilities_max_abs, bar.probabilities_abs),
    )
    failures = [
        f"{name} {got:.3g} at batch {batch.batch_size}, at most {most:.3g} allowed"
        for name, got, most in limits
        if not got <= most  # a NaN fails too
    ]
    if not batch.argmax_agreement >= bar.argmax_agreement:
        failures.append(
            f"argmax agreement {batch.argmax_agreement:.4f} at batch {batch.batch_size}, "
            f"at least {bar.argmax_agreement:.4f} required"
        )
    return failures
