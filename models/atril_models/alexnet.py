"""AlexNet.

Source: Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional
neural networks", NeurIPS 25; lecture 3.2.7.

Dimensions: B batch; shapes are those of 227×227 pictures at width 1.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family
from atril_models.convolution import ResponseNorm, initialise_he, output_side, scaled
from atril_models.image_classifier import ImageClassifier


@dataclass(frozen=True, slots=True)
class AlexNetForm:
    """What the paper's network and the lecture's differ in.

    Args:
        groups: into which the second, fourth and fifth convolution are divided; the paper's two
            lived on a graphics card each.
        response_norm: whether local response normalisation follows the first two.
    """

    groups: int
    response_norm: bool


ORIGINAL = AlexNetForm(groups=2, response_norm=True)
"""The paper's: 60,965,224 parameters."""

LECTURE = AlexNetForm(groups=1, response_norm=False)
"""Figure 22 of the lecture: 62,378,344 parameters; see docs/lectures/errata.md for its sums."""


class AlexNet(ImageClassifier):
    """Five convolutions and three dense layers.

    The pictures are 227×227: the paper prints 224, of which its own maps of 55×55 cannot be made.

    The weights start as He's and not as N(0, 0.01²) with biases of 1, which the paper needed: in a
    slim form of that start the activations shrink from layer to layer, and it does not learn.

    Args:
        form: `ORIGINAL` or `LECTURE`.
        classes, side, channels, width: see `ImageClassifier`; maps are rounded to multiples of the
            form's groups.
        stem_stride: of the first convolution; a smaller one than the published 4 lets the network
            take small pictures, down to 25×25 at 1.

    Shape:
        image [B, channels, side, side] float32; returns logits [B, classes] float32.

    Raises:
        ValueError: as `ImageClassifier`, or stem_stride < 1.
    """

    def __init__(
        self,
        form: AlexNetForm,
        /,
        classes: int = 1000,
        side: int = 227,
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
            map_side=partial(_map_side, stem_stride),
        )
        groups = form.groups
        norm = ResponseNorm if form.response_norm else nn.Identity
        maps = [scaled(count, width, groups) for count in (96, 256, 384, 384, 256)]
        units = scaled(4096, width)
        self.conv1 = nn.Conv2d(channels, maps[0], 11, stride=stem_stride)
        self.norm1 = norm()
        self.pool1 = nn.MaxPool2d(3, stride=2)
        self.conv2 = nn.Conv2d(maps[0], maps[1], 5, padding=2, groups=groups)
        self.norm2 = norm()
        self.pool2 = nn.MaxPool2d(3, stride=2)
        self.conv3 = nn.Conv2d(maps[1], maps[2], 3, padding=1)
        self.conv4 = nn.Conv2d(maps[2], maps[3], 3, padding=1, groups=groups)
        self.conv5 = nn.Conv2d(maps[3], maps[4], 3, padding=1, groups=groups)
        self.pool5 = nn.MaxPool2d(3, stride=2)
        self.fc6 = nn.Linear(maps[4] * self.map_side**2, units)
        self.fc7 = nn.Linear(units, units)
        self.fc8 = nn.Linear(units, classes)
        self.dropout = nn.Dropout(0.5)
        initialise_he(self, self.fc8)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of each class."""
        maps = torch.relu(self.conv1(image))  # [B, 96, 55, 55]
        maps = self.pool1(self.norm1(maps))  # [B, 96, 27, 27]
        maps = torch.relu(self.conv2(maps))  # [B, 256, 27, 27]
        maps = self.pool2(self.norm2(maps))  # [B, 256, 13, 13]
        maps = torch.relu(self.conv3(maps))  # [B, 384, 13, 13]
        maps = torch.relu(self.conv4(maps))  # [B, 384, 13, 13]
        maps = torch.relu(self.conv5(maps))  # [B, 256, 13, 13]
        features = self.pool5(maps).flatten(1)  # [B, 256·6·6]
        features = self.dropout(torch.relu(self.fc6(features)))  # [B, 4096]
        features = self.dropout(torch.relu(self.fc7(features)))  # [B, 4096]
        logits: Tensor = self.fc8(features)  # [B, classes]
        return logits


def _map_side(stem_stride: int, side: int) -> int:
    side = output_side(side, 11, stride=stem_stride)
    for _pool in range(3):
        side = output_side(side, 3, stride=2)
    return side


ARCHITECTURES = (
    Architecture(
        name="alexnet",
        title="AlexNet",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.7",
        source="Krizhevsky, Sutskever & Hinton 2012, NeurIPS 25",
        formula="Convolutions 11×11/4, 5×5, 3×3, 3×3, 3×3 with ReLU, the second, fourth and fifth "
        "in two groups; b_i = a_i / (2 + 1e-4 · sum over 5 maps of a²)^0.75 after the first two; "
        "3×3/2 max pooling after the first, second and fifth; two dense layers with ReLU and "
        "dropout 0.5; a dense layer; softmax.",
        build=partial(AlexNet, ORIGINAL),
    ),
    Architecture(
        name="alexnet-ungrouped",
        title="AlexNet, every convolution over all maps",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.7",
        source="Krizhevsky, Sutskever & Hinton 2012, as in the lecture's Figure 22",
        formula="Convolutions 11×11/4, 5×5, 3×3, 3×3, 3×3 with ReLU; 3×3/2 max pooling after the "
        "first, second and fifth; two dense layers with ReLU and dropout 0.5; "
        "a dense layer; softmax.",
        build=partial(AlexNet, LECTURE),
    ),
)
