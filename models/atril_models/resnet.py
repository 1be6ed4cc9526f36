"""ResNet-18, ResNet-50 and ResNeXt-50.

Source: He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition"
(arXiv:1512.03385), Table 1; Xie, Girshick, Dollár, Tu & He 2017, "Aggregated residual
transformations for deep neural networks" (arXiv:1611.05431), Table 1; named in lecture 3.2.8.

Dimensions: B batch; shapes are those of 224×224 pictures at width 1.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family
from atril_models.convolution import halved, initialise_he, scaled
from atril_models.image_classifier import ImageClassifier
from atril_models.residual import BasicBlock, Bottleneck, ConvNorm

_STAGE_MAPS = (64, 128, 256, 512)
_EXPANSION = 4
_HALVINGS = 5


@dataclass(frozen=True, slots=True)
class ResNetForm:
    """One published form.

    Args:
        blocks: how many in each of the four stages.
        bottleneck: whether a block is a bottleneck, with four times the stage's maps at its end.
        cardinality: groups of the bottleneck's 3×3 convolution.
        group_maps: maps of one such group in the first stage; doubled in each stage.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    cardinality: int = 1
    group_maps: int = 64


RESNET18 = ResNetForm((2, 2, 2, 2), bottleneck=False)
"""11,689,512 parameters."""

RESNET50 = ResNetForm((3, 4, 6, 3), bottleneck=True)
"""25,557,032 parameters."""

RESNEXT50 = ResNetForm((3, 4, 6, 3), bottleneck=True, cardinality=32, group_maps=4)
"""ResNeXt-50 32×4d: 25,028,904 parameters."""


class ResNet(ImageClassifier):
    """A 7×7 convolution and max pooling, four stages of residual blocks, one dense layer.

    Args:
        form: `RESNET18`, `RESNET50` or `RESNEXT50`.
        classes, side, channels, width: see `ImageClassifier`; of a ResNeXt, the width scales the
            number of groups inside its blocks and leaves their maps.

    Shape:
        image [B, channels, side, side] float32, side ≥ 17; returns logits [B, classes] float32.

    Raises:
        ValueError: as `ImageClassifier`.
    """

    def __init__(
        self,
        form: ResNetForm,
        /,
        classes: int = 1000,
        side: int = 224,
        channels: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__(
            classes=classes, side=side, channels=channels, width=width, map_side=_map_side
        )
        maps = scaled(_STAGE_MAPS[0], width)
        self.stem = ConvNorm(channels, maps, 7, stride=2)
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.Sequential()
        for stage, blocks in enumerate(form.blocks):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_{block + 1}"
                layer, maps = _residual_block(form, maps, stage, stride, width)
                self.stages.add_module(name, layer)
        self.pool5 = nn.AvgPool2d(self.map_side)
        self.fc = nn.Linear(maps, classes)
        initialise_he(self, self.fc)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of each class."""
        maps = self.pool1(torch.relu(self.stem(image)))  # [B, 64, 56, 56]
        maps = self.stages(maps)  # [B, 512 or 2048, 7, 7]
        logits: Tensor = self.fc(self.pool5(maps).flatten(1))  # [B, classes]
        return logits


def _residual_block(
    form: ResNetForm, inputs: int, stage: int, stride: int, width: float
) -> tuple[nn.Module, int]:
    """The block, and how many maps it gives."""
    maps = scaled(_STAGE_MAPS[stage], width)
    if not form.bottleneck:
        return BasicBlock(inputs, maps, stride=stride), maps
    if form.cardinality == 1:
        groups, inner = 1, maps
    else:
        groups = scaled(form.cardinality, width)
        inner = groups * form.group_maps * 2**stage
    outputs = _EXPANSION * maps
    return Bottleneck(inputs, inner, outputs, stride=stride, groups=groups), outputs


def _map_side(side: int) -> int:
    for _halving in range(_HALVINGS):
        side = halved(side)
    return side


ARCHITECTURES = (
    Architecture(
        name="resnet18",
        title="ResNet-18",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.8",
        source="He, Zhang, Ren & Sun 2016, arXiv:1512.03385, Table 1",
        formula="Convolution 7×7/2, max pooling; four stages of 2 blocks ReLU(x + F(x)), F two 3×3 "
        "convolutions; the mean of each map; a dense layer; softmax. Batch normalisation after "
        "each convolution; x passes a 1×1 convolution where the shape changes.",
        build=partial(ResNet, RESNET18),
    ),
    Architecture(
        name="resnet50",
        title="ResNet-50",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.8",
        source="He, Zhang, Ren & Sun 2016, arXiv:1512.03385, Table 1",
        formula="Convolution 7×7/2, max pooling; four stages of 3, 4, 6, 3 blocks ReLU(x + F(x)), "
        "F convolutions 1×1, 3×3, 1×1; the mean of each map; a dense layer; softmax. Batch "
        "normalisation after each convolution; x passes a 1×1 convolution where the shape changes.",
        build=partial(ResNet, RESNET50),
    ),
    Architecture(
        name="resnext50",
        title="ResNeXt-50 32×4d",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.8",
        source="Xie, Girshick, Dollár, Tu & He 2017, arXiv:1611.05431, Table 1",
        formula="ResNet-50 with the 3×3 convolution of each block in 32 groups, of 4, 8, 16 and 32 "
        "maps in the four stages: x + the sum of 32 transformations of x.",
        build=partial(ResNet, RESNEXT50),
    ),
)
