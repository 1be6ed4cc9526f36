"""DenseNet-121.

Source: Huang, Liu, van der Maaten & Weinberger 2017, "Densely connected convolutional networks"
(arXiv:1608.06993), Table 1; named in lecture 3.2.8.

Dimensions: B batch; shapes are those of 224×224 pictures at width 1.
"""

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family
from atril_models.convolution import initialise_he, output_side, scaled
from atril_models.image_classifier import ImageClassifier

BLOCKS = (6, 12, 24, 16)
"""Dense layers in each block."""

GROWTH = 32
"""Maps that each dense layer adds."""

_BOTTLENECK = 4
_STEM_MAPS = 64


class DenseLayer(nn.Module):
    """Batch normalisation, ReLU, 1×1 to 4·growth maps; the same, 3×3 to `growth` new maps.

    Source: Huang et al. 2017, §3, DenseNet-B.

    Shape:
        maps [B, inputs, H, W]; returns [B, inputs + growth, H, W], what came in first.
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, _BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(_BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(_BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """What came in and the new maps."""
        new = self.conv1(torch.relu(self.norm1(maps)))
        new = self.conv2(torch.relu(self.norm2(new)))
        return torch.cat((maps, new), dim=1)


class Transition(nn.Module):
    """Batch normalisation, ReLU, 1×1 to half the maps, 2×2 average pooling.

    Source: Huang et al. 2017, §3, with compression θ = 0.5.

    Shape:
        maps [B, inputs, H, W]; returns [B, inputs // 2, H // 2, W // 2].
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, maps: Tensor) -> Tensor:
        """Half the maps at half the size."""
        halved: Tensor = self.pool(self.conv(torch.relu(self.norm(maps))))
        return halved


class DenseNet(ImageClassifier):
    """Blocks in which each layer sees the maps of all before it; 7,978,856 parameters.

    Args:
        classes, side, channels, width: see `ImageClassifier`; the width scales the stem's maps and
            the growth.

    Shape:
        image [B, channels, side, side] float32, side ≥ 29; returns logits [B, classes] float32.

    Raises:
        ValueError: as `ImageClassifier`.
    """

    def __init__(
        self, classes: int = 1000, side: int = 224, channels: int = 3, width: float = 1.0
    ) -> None:
        super().__init__(
            classes=classes, side=side, channels=channels, width=width, map_side=_map_side
        )
        growth = scaled(GROWTH, width)
        maps = scaled(_STEM_MAPS, width)
        self.conv1 = nn.Conv2d(channels, maps, 7, stride=2, padding=3, bias=False)
        self.norm1 = nn.BatchNorm2d(maps)
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1)
        self.blocks = nn.Sequential()
        for block, layers in enumerate(BLOCKS, start=1):
            for layer in range(1, layers + 1):
                self.blocks.add_module(f"dense{block}_{layer}", DenseLayer(maps, growth))
                maps += growth
            if block < len(BLOCKS):
                self.blocks.add_module(f"transition{block}", Transition(maps))
                maps //= 2
        self.norm5 = nn.BatchNorm2d(maps)
        self.pool5 = nn.AvgPool2d(self.map_side)
        self.fc = nn.Linear(maps, classes)
        initialise_he(self, self.fc)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of each class."""
        maps = self.pool1(torch.relu(self.norm1(self.conv1(image))))  # [B, 64, 56, 56]
        maps = torch.relu(self.norm5(self.blocks(maps)))  # [B, 1024, 7, 7]
        logits: Tensor = self.fc(self.pool5(maps).flatten(1))  # [B, classes]
        return logits


def _map_side(side: int) -> int:
    side = output_side(side, 7, stride=2, padding=3)
    side = output_side(side, 3, stride=2, padding=1)
    for _transition in BLOCKS[1:]:
        side = output_side(side, 2, stride=2)
    return side


ARCHITECTURES = (
    Architecture(
        name="densenet121",
        title="DenseNet-121",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.8",
        source="Huang, Liu, van der Maaten & Weinberger 2017, arXiv:1608.06993, Table 1",
        formula="Convolution 7×7/2, max pooling; four blocks of 6, 12, 24, 16 layers "
        "x_l = H([x_0, …, x_(l-1)]), H batch normalisation, ReLU, 1×1 and 3×3 convolution to 32 "
        "maps; between blocks 1×1 to half the maps and 2×2 average pooling; the mean of each map; "
        "a dense layer; softmax.",
        build=DenseNet,
    ),
)
