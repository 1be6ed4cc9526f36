"""A recipe with its data: all that training, judging and publishing need to know of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atril_models import Network, create_model
from atril_training.export import Export
from atril_training.fitting import Fit, Reporter
from atril_training.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What the card says of the data.

    `checksums_sha256` are by file, `examples` by split; `held_out` says in words what the test
    split is, and `notes` whatever else matters to judge the figures.
    """

    name: str
    checksums_sha256: Mapping[str, str]
    examples: Mapping[str, int]
    held_out: str
    notes: Mapping[str, Any] = field(default_factory=dict)


class Course(ABC):
    """One recipe bound to its data, which was loaded when the course was made.

    The pipeline calls, in this order: `build`, `train`, `judge`, `baselines`, `exports`. The test
    split is seen by `judge`, `baselines` and the cases of `exports`, and by nothing before them.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    @abstractmethod
    def data(self) -> DataFacts:
        """What the card says of the data."""

    def options(self) -> Mapping[str, object]:
        """The network's options: the recipe's, and those that follow from the data."""
        return self.recipe.options

    def build(self) -> Network:
        """A fresh network, drawn from torch's default generator."""
        return create_model(self.recipe.architecture, **self.options())

    @abstractmethod
    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """Train the network where its parameters lie; one fit for each stage."""

    @abstractmethod
    def judge(self, network: Network) -> Mapping[str, float]:
        """Figures on the test split by name; the network is in eval mode, on its device."""

    @abstractmethod
    def baselines(self) -> Mapping[str, float]:
        """What simple methods reach on the test split, by the names that the bars give them."""

    @abstractmethod
    def exports(self, network: Network) -> tuple[Export, ...]:
        """What is published; the network is in eval mode, on the CPU, and may be untrained."""

    @abstractmethod
    def with_shuffled_targets(self, seed: int) -> "Course":
        """The same course, except that the targets to learn from are dealt out at random.

        Nothing can be learnt from it but the targets' distribution, so its bar must fail: the
        proof that a bar measures learning.
        """
