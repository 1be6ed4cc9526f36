"""GoogLeNet (Inception v1).

Source: Szegedy et al. 2015, "Going deeper with convolutions" (arXiv:1409.4842), Table 1 and
Figure 3; lecture 3.2.8.

Dimensions: B batch; shapes are those of 224×224 pictures at width 1.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family
from atril_models.convolution import ResponseNorm, initialise_he, output_side, scaled
from atril_models.image_classifier import ImageClassifier


@dataclass(frozen=True, slots=True)
class InceptionMaps:
    """Maps of each convolution of a block; `reduce_*` are the 1×1 before the 3×3 and the 5×5."""

    conv1: int
    reduce3: int
    conv3: int
    reduce5: int
    conv5: int
    project: int

    @property
    def outputs(self) -> int:
        """Maps of the four branches together."""
        return self.conv1 + self.conv3 + self.conv5 + self.project


INCEPTION_BLOCKS: Mapping[str, InceptionMaps] = MappingProxyType(
    {
        "3a": InceptionMaps(64, 96, 128, 16, 32, 32),
        "3b": InceptionMaps(128, 128, 192, 32, 96, 64),
        "4a": InceptionMaps(192, 96, 208, 16, 48, 64),
        "4b": InceptionMaps(160, 112, 224, 24, 64, 64),
        "4c": InceptionMaps(128, 128, 256, 24, 64, 64),
        "4d": InceptionMaps(112, 144, 288, 32, 64, 64),
        "4e": InceptionMaps(256, 160, 320, 32, 128, 128),
        "5a": InceptionMaps(256, 160, 320, 32, 128, 128),
        "5b": InceptionMaps(384, 192, 384, 48, 128, 128),
    }
)
"""Table 1 of the paper."""

_POOLED_AFTER = ("3b", "4e")
_AUXILIARY_AFTER = ("4a", "4d")


class InceptionBlock(nn.Module):
    """Four branches side by side, their maps one after the other.

    1×1; 1×1 then 3×3; 1×1 then 5×5; 3×3 max pooling then 1×1. All keep the size; a ReLU follows
    each convolution.

    Source: Szegedy et al. 2015, Figure 2(b); lecture 3.2.8, Figure 26.

    Shape:
        maps [B, inputs, H, W]; returns [B, maps.outputs, H, W].
    """

    def __init__(self, inputs: int, maps: InceptionMaps) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, maps.conv1, 1)
        self.reduce3 = nn.Conv2d(inputs, maps.reduce3, 1)
        self.conv3 = nn.Conv2d(maps.reduce3, maps.conv3, 3, padding=1)
        self.reduce5 = nn.Conv2d(inputs, maps.reduce5, 1)
        self.conv5 = nn.Conv2d(maps.reduce5, maps.conv5, 5, padding=2)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.project = nn.Conv2d(inputs, maps.project, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """The maps of all branches."""
        branches = (
            self.conv1(maps),
            self.conv3(torch.relu(self.reduce3(maps))),
            self.conv5(torch.relu(self.reduce5(maps))),
            self.project(self.pool(maps)),
        )
        return torch.relu(torch.cat(branches, dim=1))


class AuxiliaryHead(nn.Module):
    """A classifier on the maps half way, whose loss reaches the layers before it directly.

    5×5/3 average pooling, 1×1 convolution to 128 maps, a dense layer of 1024, dropout 0.7, logits.
    Where the maps are smaller than the window, the window is as large as they are.

    Source: Szegedy et al. 2015, §5.

    Shape:
        maps [B, inputs, side, side]; returns logits [B, classes].
    """

    def __init__(self, inputs: int, side: int, *, classes: int, width: float) -> None:
        super().__init__()
        window = min(5, side)
        maps, units = scaled(128, width), scaled(1024, width)
        self.pool = nn.AvgPool2d(window, stride=3)
        self.conv = nn.Conv2d(inputs, maps, 1)
        self.fc1 = nn.Linear(maps * output_side(side, window, stride=3) ** 2, units)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(units, classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Logits of each class."""
        features = torch.relu(self.conv(self.pool(maps))).flatten(1)  # [B, 128·4·4]
        features = self.dropout(torch.relu(self.fc1(features)))  # [B, 1024]
        logits: Tensor = self.fc2(features)
        return logits


class GoogLeNet(ImageClassifier):
    """A stem of three convolutions and two poolings, nine inception blocks and one dense layer.

    6,998,552 parameters. With `auxiliary_heads` it holds two more classifiers, which sit on blocks
    4a and 4d and which training alone uses (13,378,280 parameters together): whoever trains takes
    the logits of all three from `logits_and_auxiliary` and adds to the loss of the first those of
    the others times `auxiliary_weight`. `forward`, and with it evaluation and export, never runs
    them.

    Args:
        classes, side, channels, width: see `ImageClassifier`.
        auxiliary_heads: whether to hold them.

    Attributes:
        auxiliary_weight: what the loss of each auxiliary head counts in training, 0.3.

    Shape:
        image [B, channels, side, side] float32, side ≥ 31; returns logits [B, classes] float32.

    Raises:
        ValueError: as `ImageClassifier`.
    """

    auxiliary_weight: float = 0.3

    def __init__(
        self,
        classes: int = 1000,
        side: int = 224,
        channels: int = 3,
        width: float = 1.0,
        auxiliary_heads: bool = False,
    ) -> None:
        super().__init__(
            classes=classes, side=side, channels=channels, width=width, map_side=_map_side
        )
        maps = [scaled(count, width) for count in (64, 64, 192)]
        self.conv1 = nn.Conv2d(channels, maps[0], 7, stride=2, padding=3)
        self.pool1 = _pool()
        self.norm1 = ResponseNorm()
        self.reduce2 = nn.Conv2d(maps[0], maps[1], 1)
        self.conv2 = nn.Conv2d(maps[1], maps[2], 3, padding=1)
        self.norm2 = ResponseNorm()
        self.pool2 = _pool()
        self.inception = nn.ModuleDict()
        self.pools = nn.ModuleDict()
        self.auxiliary = nn.ModuleDict()
        outputs: list[nn.Module] = []
        last = maps[-1]
        for name, published in INCEPTION_BLOCKS.items():
            block_maps = _scaled_block(published, width)
            self.inception[name] = InceptionBlock(last, block_maps)
            last = block_maps.outputs
            if name in _POOLED_AFTER:
                self.pools[name] = _pool()
            if auxiliary_heads and name in _AUXILIARY_AFTER:
                head = AuxiliaryHead(last, _stage4_side(side), classes=classes, width=width)
                self.auxiliary[name] = head
                outputs.append(head.fc2)
        self.pool5 = nn.AvgPool2d(self.map_side)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(last, classes)
        initialise_he(self, self.fc, *outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of each class; the auxiliary heads are not run."""
        logits, _none = self._run(image, heads={})
        return logits

    def logits_and_auxiliary(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits as `forward` gives them, and those of each auxiliary head, the lower first."""
        return self._run(image, heads=dict(self.auxiliary.items()))

    def _run(
        self, image: Tensor, heads: Mapping[str, nn.Module]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        maps = self.norm1(self.pool1(torch.relu(self.conv1(image))))  # [B, 64, 56, 56]
        maps = torch.relu(self.conv2(torch.relu(self.reduce2(maps))))  # [B, 192, 56, 56]
        maps = self.pool2(self.norm2(maps))  # [B, 192, 28, 28]
        auxiliary = []
        for name, block in self.inception.items():
            maps = block(maps)
            if name in heads:
                auxiliary.append(heads[name](maps))
            if name in self.pools:
                maps = self.pools[name](maps)
        features = self.dropout(self.pool5(maps).flatten(1))  # [B, 1024]
        return self.fc(features), tuple(auxiliary)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _scaled_block(maps: InceptionMaps, width: float) -> InceptionMaps:
    return InceptionMaps(*(scaled(count, width) for count in astuple(maps)))


def _stage4_side(side: int) -> int:
    """Side of the maps of blocks 4a to 4e: a convolution, then three poolings, halve it."""
    side = output_side(side, 7, stride=2, padding=3)
    for _pooling in range(3):
        side = output_side(side, 3, stride=2, ceil=True)
    return side


def _map_side(side: int) -> int:
    return output_side(_stage4_side(side), 3, stride=2, ceil=True)


ARCHITECTURES = (
    Architecture(
        name="googlenet",
        title="GoogLeNet",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.8",
        source="Szegedy et al. 2015, arXiv:1409.4842, Table 1",
        formula="Stem: convolution 7×7/2, max pooling, LRN, 1×1, 3×3, LRN, max pooling; nine "
        "inception blocks [1×1 | 1×1, 3×3 | 1×1, 5×5 | max pooling, 1×1], max pooling after the "
        "second and the seventh; the mean of each map; dropout 0.4; a dense layer; softmax. ReLU "
        "after each convolution. In training, loss + 0.3 · the losses of two auxiliary heads.",
        build=GoogLeNet,
    ),
)
