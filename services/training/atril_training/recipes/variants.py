"""What a variant of a published model in another precision may lose against the model itself."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Precision(StrEnum):
    """Of the weights and activations of a variant; the suffix of its name."""

    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Loss:
    """How much worse a figure on the test split may be than the FP32 model's.

    `at_most` is in the figure's units, or, if `relative`, a share of the FP32 model's figure.
    """

    metric: str
    at_most: float
    better: Literal["higher", "lower"]
    relative: bool = False

    def bound(self, fp32: float) -> float:
        """The worst figure that passes."""
        allowed = self.at_most * abs(fp32) if self.relative else self.at_most
        return fp32 - allowed if self.better == "higher" else fp32 + allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantBars:
    """What a variant must reach to be published.

    Args:
        precision: of its weights and activations; inputs and outputs stay FP32.
        losses: against the FP32 model, on the test split.
        tolerance: largest absolute difference of an output, as a share of the largest absolute
            value that the FP32 model answers on the same inputs.
        argmax_agreement: share of the examples for which the largest entry is the same one, where
            an output names a class.
    """

    precision: Precision
    losses: tuple[Loss, ...]
    tolerance: float
    argmax_agreement: float


PICTURE_CLASSIFIER_VARIANTS = (
    VariantBars(
        precision=Precision.FP16,
        losses=(Loss("test_accuracy", 0.005, "higher"),),
        tolerance=0.02,
        argmax_agreement=0.99,
    ),
    VariantBars(
        precision=Precision.INT8,
        losses=(Loss("test_accuracy", 0.005, "higher"),),
        tolerance=0.5,
        argmax_agreement=0.98,
    ),
)
"""Half a point of accuracy at most; a difference in a probability matters if it turns a class."""

RECONSTRUCTION_VARIANTS = (
    VariantBars(
        precision=Precision.FP16,
        losses=(Loss("test_squared_error", 0.01, "lower", relative=True),),
        tolerance=0.02,
        argmax_agreement=0.0,
    ),
    VariantBars(
        precision=Precision.INT8,
        losses=(Loss("test_squared_error", 0.1, "lower", relative=True),),
        tolerance=0.5,
        argmax_agreement=0.0,
    ),
)
"""A hundredth, or a tenth, of the squared error; no output names a class."""
