"""RegNetX-400MF.

Source: Radosavovic, Kosaraju, Girshick, He & Dollár 2020, "Designing network design spaces"
(arXiv:2003.13678), Figure 4 and Table 2: the regular networks of the AnyNet that lecture 3.2.8
names.

Dimensions: B batch; shapes are those of 224×224 pictures at width 1.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family
from atril_models.convolution import halved, initialise_he, scaled
from atril_models.image_classifier import ImageClassifier
from atril_models.residual import Bottleneck, ConvNorm

_STEM_MAPS = 32
_QUANTUM = 8


@dataclass(frozen=True, slots=True)
class RegNetForm:
    """The parameters of the design space.

    Block j is to have initial_maps + slope · j maps; see `stages` for what it gets.

    Args:
        depth: number of blocks, d.
        initial_maps: w_0.
        slope: w_a.
        ratio: of the maps of one stage to those of the one before, w_m.
        group_maps: maps of one group of a 3×3 convolution, g.
    """

    depth: int
    initial_maps: int
    slope: float
    ratio: float
    group_maps: int

    def stages(self) -> tuple[tuple[int, int], ...]:
        """(blocks, maps) of each stage.

        u_j = w_0 + w_a·j is rounded to the nearest w_0·w_m^s with a whole s, that to a multiple of
        8, and that to a multiple of g, halves up; blocks of equal width are a stage.

        Source: Radosavovic et al. 2020, equations 2 to 4.
        """
        widths: dict[int, int] = {}
        for block in range(self.depth):
            wanted = self.initial_maps + self.slope * block
            power = round(math.log(wanted / self.initial_maps, self.ratio))
            quantised = _QUANTUM * round(self.initial_maps * self.ratio**power / _QUANTUM)
            widths[quantised] = widths.get(quantised, 0) + 1
        return tuple((blocks, scaled(maps, 1, self.group_maps)) for maps, blocks in widths.items())


REGNETX_400MF = RegNetForm(depth=22, initial_maps=24, slope=24.48, ratio=2.54, group_maps=16)
"""Blocks 1, 2, 7, 12 with 32, 64, 160, 400 maps: 5,495,976 parameters, as torchvision's.

The last width is a tie: its 392 maps are 24.5 groups. The authors' code rounds halves to even and
has 384 maps there, 5,157,512 parameters.
"""


class RegNetX(ImageClassifier):
    """A 3×3 convolution, stages of bottlenecks as wide inside as outside, one dense layer.

    Args:
        form: `REGNETX_400MF`.
        classes, side, channels, width: see `ImageClassifier`; the width scales the maps of a group
            and leaves their number.

    Shape:
        image [B, channels, side, side] float32, side ≥ 17; returns logits [B, classes] float32.

    Raises:
        ValueError: as `ImageClassifier`.
    """

    def __init__(
        self,
        form: RegNetForm,
        /,
        classes: int = 1000,
        side: int = 224,
        channels: int = 3,
        width: float = 1.0,
    ) -> None:
        stages = form.stages()
        super().__init__(
            classes=classes,
            side=side,
            channels=channels,
            width=width,
            map_side=partial(_map_side, len(stages)),
        )
        group_maps = scaled(form.group_maps, width)
        maps = scaled(_STEM_MAPS, width)
        self.stem = ConvNorm(channels, maps, 3, stride=2)
        self.stages = nn.Sequential()
        for stage, (blocks, published) in enumerate(stages, start=1):
            groups = published // form.group_maps
            for block in range(1, blocks + 1):
                inputs, maps = maps, groups * group_maps
                layer = Bottleneck(inputs, maps, maps, stride=2 if block == 1 else 1, groups=groups)
                self.stages.add_module(f"stage{stage}_{block}", layer)
        self.pool = nn.AvgPool2d(self.map_side)
        self.fc = nn.Linear(maps, classes)
        initialise_he(self, self.fc)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of each class."""
        maps = torch.relu(self.stem(image))  # [B, 32, 112, 112]
        maps = self.stages(maps)  # [B, 400, 7, 7]
        logits: Tensor = self.fc(self.pool(maps).flatten(1))  # [B, classes]
        return logits


def _map_side(stages: int, side: int) -> int:
    for _halving in range(1 + stages):
        side = halved(side)
    return side


ARCHITECTURES = (
    Architecture(
        name="regnetx400mf",
        title="RegNetX-400MF",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.8",
        source="Radosavovic, Kosaraju, Girshick, He & Dollár 2020, arXiv:2003.13678, Table 2",
        formula="Convolution 3×3/2; four stages of 1, 2, 7, 12 blocks ReLU(x + F(x)) with 32, 64, "
        "160, 400 maps, the quantised line 24 + 24.48·j; F convolutions 1×1, 3×3 in groups of 16 "
        "maps, 1×1; the mean of each map; a dense layer; softmax. Batch normalisation after each "
        "convolution.",
        build=partial(RegNetX, REGNETX_400MF),
    ),
)
