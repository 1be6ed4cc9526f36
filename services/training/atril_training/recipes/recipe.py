"""What every recipe has: a network with its options, how it is optimised, and its bars."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from atril_training.recipes.variants import VariantBars


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityBar:
    """What a figure on the test split must reach for the model to be published.

    Args:
        metric: name of the figure.
        bound: the worst value that passes.
        better: whether a higher or a lower value is better.
        baseline: name of the simple method that the bar is set beyond. It is measured on the same
            split, and a bar that it reaches by itself proves nothing and fails.
    """

    metric: str
    bound: float
    better: Literal["higher", "lower"]
    baseline: str

    def is_met(self, value: float) -> bool:
        """Whether a value passes; NaN never does."""
        return value >= self.bound if self.better == "higher" else value <= self.bound

    def failures(
        self, figures: Mapping[str, float], baselines: Mapping[str, float]
    ) -> tuple[str, ...]:
        """What is wrong, in words; nothing when the bar is met and the baseline is not."""
        value, simple = figures[self.metric], baselines[self.baseline]
        side = "at least" if self.better == "higher" else "at most"
        texts = []
        if not self.is_met(value):
            texts.append(
                f"{self.metric} is {figure_text(value)}, the bar is {side} "
                f"{figure_text(self.bound)}, missed by {figure_text(abs(value - self.bound))}"
            )
        if self.is_met(simple):
            texts.append(
                f"the bar of {self.metric} is {side} {figure_text(self.bound)}, which "
                f"{self.baseline} reaches with {figure_text(simple)}: it proves nothing"
            )
        return tuple(texts)


def figure_text(value: float) -> str:
    """A figure with four decimals, or with three digits where those would hardly show it."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.01 else f"{value:.3g}"


def at_least(metric: str, bound: float, *, baseline: str) -> QualityBar:
    """A bar for a figure that should be high."""
    return QualityBar(metric=metric, bound=bound, better="higher", baseline=baseline)


def at_most(metric: str, bound: float, *, baseline: str) -> QualityBar:
    """A bar for a figure that should be low."""
    return QualityBar(metric=metric, bound=bound, better="lower", baseline=baseline)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """How the weights are found.

    Args:
        epochs: passes over the training split.
        batch_size: examples a step.
        peak_learning_rate: reached after the warm-up.
        optimizer: AdamW with decoupled weight decay, SGD with momentum, or, where a course says
            so, L-BFGS on all examples at once, an epoch being a round of some iterations.
        betas: AdamW's decay of the mean and of the mean square; SGD's momentum is the first.
        weight_decay: on weights of two and more dimensions; biases, normalisations and slopes of
            activations have none (lecture 7.1.6 and 9.1: the penalty is on weights alone).
        schedule: what the rate does after the warm-up: half a cosine down to zero, or nothing, or
            falling with the root of the step (Vaswani et al. 2017, §5.3).
        warm_up_fraction: part of all steps in which the rate rises from zero.
        clip_norm: gradients longer than this are shortened to it; None leaves them.
    """

    epochs: int
    batch_size: int
    peak_learning_rate: float
    optimizer: Literal["adamw", "sgd", "lbfgs"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["cosine", "constant", "inverse_sqrt"] = "cosine"
    warm_up_fraction: float = 0.2
    clip_norm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one architecture is trained on one data set.

    Args:
        architecture: name in the catalogue.
        dataset: name in `datasets.DATASETS`.
        options: of the network, beside those that follow from the data.
        optimization: how the weights are found.
        bars: what must be reached on the test split.
        seed: of the initial weights, the order of the examples and every other random draw.
        threads: how many the processor's work is divided among. It belongs to the recipe because
            sums added up in another order give other weights; networks this small gain little
            from a second one, and two crawl where other work has the cores.
        variants: the precisions that the model may be published in besides, and what each may lose.
    """

    architecture: str
    dataset: str
    options: Mapping[str, object] = field(default_factory=dict)
    optimization: Optimization
    bars: tuple[QualityBar, ...]
    seed: int = 0
    threads: int = 1
    variants: tuple[VariantBars, ...] = ()

    @property
    def title(self) -> str:
        """For progress and errors."""
        return f"{self.architecture} on {self.dataset}"
