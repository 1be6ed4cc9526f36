"""What the catalogue says of one architecture."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One entry of the catalogue.

    `build` makes a freshly initialised module from torch's default generator. The module takes
    pictures [B, *image.shape] float32 and returns logits [B, classes].
    """

    name: str
    title: str
    lecture_section: str
    source: str
    build: Callable[[], nn.Module]
    image: ImageSpec
    classes: int
