"""LeNet-5.

Source: LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document
recognition", Proc. IEEE 86(11), §II-B; lecture 3.2.6.

Dimensions: B batch.
"""

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family, ImageSpec, Network
from atril_models.layers import TableConv2d, TrainableSubsampling

C3_CONNECTIONS: tuple[tuple[int, ...], ...] = (
    # six maps see three contiguous maps of S2,
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    # six see four contiguous ones,
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    # three see four with gaps,
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    # and one sees all.
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip
"""For each of the 16 maps of C3, the maps of S2 it is connected to: Table I of the paper.

Table 1 of the lecture has the same 60 links in other cells and leaves the last map without any;
see docs/lectures/errata.md.
"""


class LeNet5(Network):
    """LeNet-5 in the lecture's form, or with the simplifications that are usual today.

    The lecture's form has the paper's partly connected C3 and trainable sub-sampling followed by
    an activation, and 60,850 parameters. It differs from the paper in two things, as the lecture
    does: the activation is plain tanh where the paper has 1.7159·tanh(2a/3), and the output is a
    linear layer under a softmax (850 parameters) where the paper has distances to fixed codes.

    With `simplified`, C3 is fully connected and the pooling is a plain average with no activation
    after it: 61,706 parameters, the network that most libraries call LeNet.

    Shape:
        image [B, 1, 32, 32] float32; returns logits [B, classes] float32.

    Raises:
        ValueError: classes < 2.
    """

    def __init__(self, classes: int = 10, *, simplified: bool = False) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
        self.classes = classes
        self.image = ImageSpec(channels=1, height=32, width=32)
        self.simplified = simplified
        self.c1 = nn.Conv2d(1, 6, 5)
        self.s2 = nn.AvgPool2d(2) if simplified else TrainableSubsampling(6)
        self.c3 = nn.Conv2d(6, 16, 5) if simplified else TableConv2d(6, C3_CONNECTIONS, 5)
        self.s4 = nn.AvgPool2d(2) if simplified else TrainableSubsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """`batch` empty pictures."""
        return (torch.zeros(batch, *self.image.shape),)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of each class."""
        maps = torch.tanh(self.c1(image))  # [B, 6, 28, 28]
        maps = self._pool(self.s2, maps)  # [B, 6, 14, 14]
        maps = torch.tanh(self.c3(maps))  # [B, 16, 10, 10]
        maps = self._pool(self.s4, maps)  # [B, 16, 5, 5]
        features = torch.tanh(self.c5(maps)).flatten(1)  # [B, 120]
        features = torch.tanh(self.f6(features))  # [B, 84]
        logits: Tensor = self.output(features)  # [B, classes]
        return logits

    def _pool(self, layer: nn.Module, maps: Tensor) -> Tensor:
        pooled: Tensor = layer(maps)
        return pooled if self.simplified else torch.tanh(pooled)


def _simplified(classes: int = 10) -> LeNet5:
    return LeNet5(classes, simplified=True)


def _original(classes: int = 10) -> LeNet5:
    return LeNet5(classes)


ARCHITECTURES = (
    Architecture(
        name="lenet5",
        title="LeNet-5",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.6",
        source="LeCun, Bottou, Bengio & Haffner 1998, Proc. IEEE 86(11), §II-B",
        formula="Three 5×5 convolutions with tanh, the second partly connected, between them "
        "trainable sub-sampling tanh(w · sum of 2×2 + b); two dense layers; softmax.",
        build=_original,
    ),
    Architecture(
        name="lenet5-modern",
        title="LeNet-5, fully connected C3 and plain average pooling",
        family=Family.CONVOLUTIONAL,
        lecture_section="3.2.6",
        source="LeCun, Bottou, Bengio & Haffner 1998, simplified as in most libraries",
        formula="Three full 5×5 convolutions with tanh, 2×2 average pooling between them; "
        "two dense layers; softmax.",
        build=_simplified,
    ),
)
