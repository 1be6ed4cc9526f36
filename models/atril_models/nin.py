"""Network in Network.

Source: Lin, Chen & Yan 2014, "Network in network" (arXiv:1312.4400); lecture 3.2.8.

Dimensions: B batch.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family
from atril_models.convolution import initialise_he, output_side, scaled
from atril_models.image_classifier import ImageClassifier


@dataclass(frozen=True, slots=True)
class Block:
    """A convolution and the two 1×1 convolutions after it; `None` maps are one for each class."""

    maps: tuple[int | None, int | None, int | None]
    kernel: int
    padding: int = 0


@dataclass(frozen=True, slots=True)
class NiNForm:
    """One published form.

    Args:
        blocks: with 3×3/2 max pooling between two.
        dropout_blocks: how many of the pooled blocks, counted from the last, have dropout after.
        ceil: whether pooling rounds sides up.
    """

    blocks: tuple[Block, ...]
    dropout_blocks: int
    ceil: bool


LECTURE = NiNForm(
    blocks=(
        Block((96, 96, 96), 11),
        Block((256, 256, 256), 5, padding=2),
        Block((384, 384, 384), 3, padding=1),
        Block((None, None, None), 3, padding=1),
    ),
    dropout_blocks=1,
    ceil=False,
)
"""The lecture's four blocks, with AlexNet's maps: 2,015,398 parameters for ten classes."""

CIFAR10 = NiNForm(
    blocks=(
        Block((192, 160, 96), 5, padding=2),
        Block((192, 192, 192), 5, padding=2),
        Block((192, 192, None), 3, padding=1),
    ),
    dropout_blocks=2,
    ceil=True,
)
"""The paper's for CIFAR-10: 966,986 parameters."""

IMAGENET = NiNForm(
    blocks=(*LECTURE.blocks[:3], Block((1024, 1024, None), 3, padding=1)),
    dropout_blocks=1,
    ceil=False,
)
"""The authors' for ImageNet (Caffe model zoo): 7,595,176 parameters."""


class NiN(ImageClassifier):
    """Blocks of a convolution and two 1×1 convolutions; no dense layer.

    The last block has one map for each class, whose mean over all positions is the class's logit.
    A ReLU follows the last convolution too, so that a class whose map is negative everywhere gets
    no gradient and is never learnt. From He's weights that happens to several classes of ten.
    Therefore a 1×1 convolution of as many maps as it gets starts as the identity plus a tenth of
    He's weights, and the layer that first makes the maps of the classes with biases of 1, the means
    of Krizhevsky et al. 2012, §5: all classes start alive.

    Args:
        form: `LECTURE`, `CIFAR10` or `IMAGENET`.
        classes, side, channels, width: see `ImageClassifier`.
        stem_stride: of the first convolution: 4 in the forms that begin as AlexNet does, which
            at 1 take pictures down to 25×25, and 1 in the paper's for CIFAR-10.

    Shape:
        image [B, channels, side, side] float32; returns logits [B, classes] float32, not negative,
        because a ReLU follows the last convolution too.

    Raises:
        ValueError: as `ImageClassifier`, or stem_stride < 1.
    """

    def __init__(
        self,
        form: NiNForm,
        /,
        classes: int,
        side: int,
        channels: int = 3,
        width: float = 1.0,
        stem_stride: int = 4,
    ) -> None:
        if stem_stride < 1:
            raise ValueError(f"stem_stride must be at least 1, got {stem_stride}")
        super().__init__(
            classes=classes,
            side=side,
            channels=channels,
            width=width,
            map_side=partial(_map_side, form, stem_stride),
        )
        self.blocks = nn.Sequential()
        maps = channels
        for number, block in enumerate(form.blocks, start=1):
            outputs = [classes if m is None else scaled(m, width) for m in block.maps]
            stride = stem_stride if number == 1 else 1
            self.blocks.add_module(f"block{number}", _nin_block(maps, outputs, block, stride))
            maps = outputs[-1]
            blocks_left = len(form.blocks) - number
            if blocks_left:
                pool = nn.MaxPool2d(3, stride=2, ceil_mode=form.ceil)
                self.blocks.add_module(f"pool{number}", pool)
                if blocks_left <= form.dropout_blocks:
                    self.blocks.add_module(f"dropout{number}", nn.Dropout(0.5))
        self.pool = nn.AvgPool2d(self.map_side)
        self._initialise()

    def _initialise(self) -> None:
        initialise_he(self)
        convolutions = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d)]
        for layer in convolutions:
            if layer.kernel_size == (1, 1) and layer.in_channels == layer.out_channels:
                _start_near_identity(layer)
        biases = [layer.bias for layer in convolutions[-3:] if layer.out_channels == self.classes]
        assert biases[0] is not None
        nn.init.ones_(biases[0])

    def forward(self, image: Tensor) -> Tensor:
        """Logits of each class."""
        maps = self.blocks(image)  # [B, classes, map_side, map_side]
        logits: Tensor = self.pool(maps).flatten(1)  # [B, classes]
        return logits


def _nin_block(maps: int, outputs: list[int], block: Block, stride: int) -> nn.Sequential:
    wide, *narrow = outputs
    layers = nn.Sequential()
    layers.add_module(
        "conv", nn.Conv2d(maps, wide, block.kernel, stride=stride, padding=block.padding)
    )
    layers.add_module("relu", nn.ReLU())
    for number, (before, after) in enumerate(pairwise([wide, *narrow]), start=1):
        layers.add_module(f"mlp{number}", nn.Conv2d(before, after, 1))
        layers.add_module(f"mlp_relu{number}", nn.ReLU())
    return layers


def _start_near_identity(layer: nn.Conv2d) -> None:
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.weight[:, :, 0, 0] += torch.eye(layer.in_channels, device=layer.weight.device)


def _map_side(form: NiNForm, stem_stride: int, side: int) -> int:
    stem, *others = form.blocks
    side = output_side(side, stem.kernel, stride=stem_stride, padding=stem.padding)
    for block in others:
        side = output_side(side, 3, stride=2, ceil=form.ceil)
        side = output_side(side, block.kernel, padding=block.padding)
    return side


ARCHITECTURES = (
    Architecture(
        name="nin",
        title="Network in Network",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.8",
        source="Lin, Chen & Yan 2014, arXiv:1312.4400, in the lecture's form",
        formula="Four blocks of a convolution (11×11/4, 5×5, 3×3, 3×3) and two of 1×1, each with "
        "ReLU; 3×3/2 max pooling between them; dropout 0.5 before the last, which has one map a "
        "class; the mean of each map; softmax.",
        build=partial(NiN, LECTURE, classes=10, side=227),
    ),
    Architecture(
        name="nin-cifar10",
        title="Network in Network for CIFAR-10",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.8",
        source="Lin, Chen & Yan 2014, arXiv:1312.4400, §4.2",
        formula="Three blocks of a convolution (5×5, 5×5, 3×3) and two of 1×1, each with ReLU; "
        "3×3/2 max pooling and dropout 0.5 between them; the last has one map a class; the mean "
        "of each map; softmax.",
        build=partial(NiN, CIFAR10, classes=10, side=32, stem_stride=1),
    ),
    Architecture(
        name="nin-imagenet",
        title="Network in Network for ImageNet",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.8",
        source="Lin, Chen & Yan 2014, arXiv:1312.4400, in the authors' form of the Caffe model zoo",
        formula="Four blocks of a convolution (11×11/4, 5×5, 3×3, 3×3) and two of 1×1, each with "
        "ReLU; 3×3/2 max pooling between them; dropout 0.5 before the last, of 1024, 1024 and one "
        "map a class; the mean of each map; softmax.",
        build=partial(NiN, IMAGENET, classes=1000, side=227),
    ),
)
