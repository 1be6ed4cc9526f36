"""VGG-11, 13, 16 and 19.

Source: Simonyan & Zisserman 2015, "Very deep convolutional networks for large-scale image
recognition" (arXiv:1409.1556), Table 1; lecture 3.2.8.

Dimensions: B batch; shapes are those of 224×224 pictures at width 1.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family
from atril_models.convolution import initialise_he, output_side, scaled
from atril_models.image_classifier import ImageClassifier

CONFIGURATIONS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"A": (1, 1, 2, 2, 2), "B": (2, 2, 2, 2, 2), "D": (2, 2, 3, 3, 3), "E": (2, 2, 4, 4, 4)}
)
"""Convolutions in each of the five blocks, by the paper's letter."""

_MAPS = (64, 128, 256, 512, 512)


class VGG(ImageClassifier):
    """Blocks of 3×3 convolutions, each block halved by max pooling, and three dense layers.

    The weights start as He's: the paper could train its deeper configurations only from the weights
    of a shallower one, and names in the end a start that does without (Glorot & Bengio 2010), of
    which He's is the form for ReLU.

    Args:
        convolutions: how many in each block; a value of `CONFIGURATIONS`.
        classes, side, channels, width: see `ImageClassifier`.

    Shape:
        image [B, channels, side, side] float32, side ≥ 32; returns logits [B, classes] float32.

    Raises:
        ValueError: as `ImageClassifier`.
    """

    def __init__(
        self,
        convolutions: tuple[int, ...],
        /,
        classes: int = 1000,
        side: int = 224,
        channels: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__(
            classes=classes, side=side, channels=channels, width=width, map_side=_map_side
        )
        self.blocks = nn.Sequential()
        maps = channels
        for block, (layers, published) in enumerate(zip(convolutions, _MAPS, strict=True), start=1):
            for layer in range(1, layers + 1):
                before, maps = maps, scaled(published, width)
                self.blocks.add_module(
                    f"conv{block}_{layer}", nn.Conv2d(before, maps, 3, padding=1)
                )
                self.blocks.add_module(f"relu{block}_{layer}", nn.ReLU())
            self.blocks.add_module(f"pool{block}", nn.MaxPool2d(2))
        units = scaled(4096, width)
        self.fc6 = nn.Linear(maps * self.map_side**2, units)
        self.fc7 = nn.Linear(units, units)
        self.fc8 = nn.Linear(units, classes)
        self.dropout = nn.Dropout(0.5)
        initialise_he(self, self.fc8)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of each class."""
        features = self.blocks(image).flatten(1)  # [B, 512·7·7]
        features = self.dropout(torch.relu(self.fc6(features)))  # [B, 4096]
        features = self.dropout(torch.relu(self.fc7(features)))  # [B, 4096]
        logits: Tensor = self.fc8(features)  # [B, classes]
        return logits


def _map_side(side: int) -> int:
    for _block in _MAPS:
        side = output_side(side, 2, stride=2)
    return side


def _entry(layers: int, letter: str) -> Architecture:
    convolutions = CONFIGURATIONS[letter]
    counts = ", ".join(map(str, convolutions))
    return Architecture(
        name=f"vgg{layers}",
        title=f"VGG-{layers}",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.8",
        source=f"Simonyan & Zisserman 2015, arXiv:1409.1556, Table 1, configuration {letter}",
        formula=f"Five blocks of {counts} 3×3 convolutions with ReLU, padded to keep the size, "
        "and 2×2 max pooling; two dense layers with ReLU and dropout 0.5; a dense layer; softmax.",
        build=partial(VGG, convolutions),
    )


ARCHITECTURES = (_entry(11, "A"), _entry(13, "B"), _entry(16, "D"), _entry(19, "E"))
