"""What the catalogue says of one architecture, and what every architecture can say of itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor, nn


class Family(StrEnum):
    """The chapter of the lectures that an architecture belongs to."""

    FEEDFORWARD = "feed-forward"
    CONVOLUTIONAL = "convolutional"
    AUTOENCODER = "autoencoder"
    RECURRENT = "recurrent"
    SEQUENCE_TO_SEQUENCE = "sequence to sequence"


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """Shape of the picture that a network takes, without the batch: [channels, height, width]."""

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(channels, height, width)`."""
        return (self.channels, self.height, self.width)


class Network(nn.Module, ABC):
    """A module that knows what it takes.

    Counting, exporting and describing run it on its own example, so that none of them needs to
    know to which family it belongs.
    """

    @abstractmethod
    def example_inputs(self, batch: int = 1) -> tuple[Tensor, ...]:
        """Zeros of the shapes and types that `forward` takes, `batch` of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One entry of the catalogue.

    Args:
        name: lower case, digits and hyphens; the name that its model is published under.
        title: the name that people write.
        family: the chapter.
        lecture_section: such as `3.2.6`.
        source: the paper.
        formula: what the network computes, in words and plain-text formulas, a few lines at most.
        build: makes a freshly initialised network from torch's default generator. Its keyword
            arguments are the options, all of which have defaults; the defaults give the
            published form. It raises ValueError for a value that makes no network.
    """

    name: str
    title: str
    family: Family
    lecture_section: str
    source: str
    formula: str
    build: Callable[..., Network]
