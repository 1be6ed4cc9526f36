"""What every network that classifies pictures of a chosen size has in common."""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from atril_models.architecture import ImageSpec, Network
from atril_models.convolution import smallest_side


@runtime_checkable
class HasAuxiliaryHeads(Protocol):
    """A network with further classifiers half way, which only training uses.

    The loss to minimise is that of the logits plus `auxiliary_weight` times that of each auxiliary
    head's; `forward`, and with it evaluation and export, does not run the heads.
    """

    auxiliary_weight: float

    def logits_and_auxiliary(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits [B, classes] as `forward` gives them, and those of each head."""
        ...


class ImageClassifier(Network):
    """A network from square pictures to logits.

    Its options have the same names in all architectures: `classes`; `side` and `channels` of the
    pictures; `width`, a factor on the maps of every convolution and the units of every hidden dense
    layer, rounded as `scaled` says, with which a slim form learns small pictures on a processor.

    Args:
        classes: number of logits.
        side: height and width of a picture in pixels.
        channels: of a picture.
        width: checked here, used by the network itself.
        map_side: side of the last map for a side of the picture; below 1 where there is none.

    Attributes:
        classes: number of logits.
        image: what it takes.
        map_side: side of its last map.

    Raises:
        ValueError: classes < 2; channels < 1; width is not a positive number; or the picture is
            too small, and the text names the smallest.
    """

    def __init__(
        self,
        *,
        classes: int,
        side: int,
        channels: int,
        width: float,
        map_side: Callable[[int], int],
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
        if channels < 1:
            raise ValueError(f"a picture needs at least 1 channel, got {channels}")
        if not (width > 0 and math.isfinite(width)):
            raise ValueError(f"width must be a positive number, got {width}")
        smallest = smallest_side(map_side)
        if side < smallest:
            raise ValueError(
                f"{type(self).__name__} needs pictures of at least {smallest}×{smallest}, "
                f"got {side}×{side}"
            )
        self.classes = classes
        self.image = ImageSpec(channels=channels, height=side, width=side)
        self.map_side = map_side(side)

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """`batch` empty pictures."""
        return (torch.zeros(batch, *self.image.shape),)
