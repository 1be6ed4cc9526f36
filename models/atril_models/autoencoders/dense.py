"""Fully connected autoencoders.

Dimensions: B batch, C channels, H height, W width, D = C·H·W inputs, Z code size.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models.accounting import Work, count_work, weighted_sums
from atril_models.activations import ACTIVATIONS
from atril_models.architecture import Architecture, Family, ImageSpec
from atril_models.autoencoders.autoencoder import (
    MNIST_SHAPE,
    DeterministicAutoencoder,
    OutputUnit,
    image_spec,
)


class TransposedLinear(nn.Module):
    """A dense layer that shares the transposed weight of another: y = W' h + c.

    Only the bias is its own.

    Source: "tied weights", Vincent et al. 2010, §2.2.

    Shape:
        [..., out features of the other] to [..., in features of the other].
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = nn.Parameter(torch.zeros(linear.in_features))

    def forward(self, hidden: Tensor) -> Tensor:
        """Multiply by the transposed weight and add the bias."""
        return functional.linear(hidden, self.weight.t(), self.bias)


@count_work.register
def _(layer: TransposedLinear, output_shape: tuple[int, ...]) -> Work:
    return weighted_sums(layer.weight.numel(), layer.bias.numel(), prod(output_shape[:-1]))


class DenseAutoencoder(DeterministicAutoencoder):
    """An encoder of dense layers, and a decoder with the same widths in reverse.

    h_1 = s(W_1 x + b_1), …, z = s_z(W_n h_{n-1} + b_n); the decoder mirrors it, and its last layer
    is followed by the output unit.

    Source: lecture 4, equation 4.0.1.

    Args:
        image: the picture's shape.
        widths: units of each encoder layer, the last being the code size.
        activations: of hidden layers and of the code, two names in `ACTIVATIONS`.
        output_unit: of the decoder's last layer.
        tied: the decoder's weights are the encoder's, transposed; only its biases are its own.

    Raises:
        ValueError: no width or one below 1, or an unknown activation.
    """

    def __init__(
        self,
        image: ImageSpec,
        widths: Sequence[int],
        *,
        activations: tuple[str, str] = ("sigmoid", "identity"),
        output_unit: OutputUnit = OutputUnit.SIGMOID,
        tied: bool = False,
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths: expected one or more, each at least 1, got {tuple(widths)}")
        for name in activations:
            if name not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise ValueError(f"unknown activation '{name}': expected one of {known}")
        super().__init__(image, (widths[-1],), output_unit)
        hidden, code = activations
        names = [hidden] * (len(widths) - 1)
        sizes = [prod(image.shape), *widths]
        linears = [
            _linear_for(*pair, name)
            for pair, name in zip(pairwise(sizes), [*names, code], strict=True)
        ]
        mirrors = [
            _mirror_of(linear, name, tied=tied)
            for linear, name in zip(reversed(linears), [*names, output_unit.value], strict=True)
        ]
        self.encoder = nn.ModuleList(map(_followed_by, linears, [*names, code]))
        self.decoder = nn.Sequential(*map(_followed_by, mirrors, names), mirrors[-1])

    def layer_activations(self, image: Tensor) -> tuple[Tensor, ...]:
        """Activations of each encoder layer [B, width], the code being the last."""
        features = image.flatten(1)  # [B, D]
        activations: list[Tensor] = []
        for layer in self.encoder:
            features = layer(features)
            activations.append(features)
        return tuple(activations)

    def encode(self, image: Tensor) -> Tensor:
        """The code of each picture, [B, Z]."""
        return self.layer_activations(image)[-1]

    def decode_sums(self, code: Tensor) -> Tensor:
        """The picture of each code before the output unit."""
        sums: Tensor = self.decoder(code)  # [B, D]
        return sums.view(-1, *self.image.shape)


def _linear_for(inputs: int, units: int, activation: str) -> nn.Linear:
    """A dense layer whose weights start as fits the activation after it; its biases start at 0."""
    linear = nn.Linear(inputs, units)
    ACTIVATIONS[activation].initialise(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _mirror_of(linear: nn.Linear, activation: str, *, tied: bool) -> nn.Module:
    if tied:
        return TransposedLinear(linear)
    return _linear_for(linear.out_features, linear.in_features, activation)


def _followed_by(layer: nn.Module, activation: str) -> nn.Sequential:
    parts = {"linear": layer, "activation": ACTIVATIONS[activation].build()}
    return nn.Sequential(OrderedDict(parts))


def _linear(image_shape: Sequence[int] = MNIST_SHAPE, code_size: int = 32) -> DenseAutoencoder:
    return DenseAutoencoder(
        image_spec(image_shape),
        (code_size,),
        activations=("identity", "identity"),
        output_unit=OutputUnit.LINEAR,
    )


def _deep(
    image_shape: Sequence[int] = MNIST_SHAPE,
    widths: Sequence[int] = (1000, 500, 250, 30),
    activation: str = "sigmoid",
) -> DenseAutoencoder:
    return DenseAutoencoder(image_spec(image_shape), widths, activations=(activation, "identity"))


ARCHITECTURES = (
    Architecture(
        name="linear-autoencoder",
        title="Linear autoencoder",
        family=Family.AUTOENCODER,
        lecture_section="4.1",
        source="Bourlard & Kamp 1988, Biol. Cybern. 59; Baldi & Hornik 1989, Neural Networks 2",
        formula="z = W x + b; x~ = V z + c. With squared error its optimum is the projection on "
        "the first principal components: V W = U U', c = mean - U U' mean when b = 0.",
        build=_linear,
    ),
    Architecture(
        name="deep-autoencoder",
        title="Deep autoencoder 784-1000-500-250-30",
        family=Family.AUTOENCODER,
        lecture_section="4.1",
        source="Hinton & Salakhutdinov 2006, Science 313",
        formula="h_i = s(W_i h_{i-1} + b_i) for 1000, 500 and 250 units; z = W_4 h_3 + b_4 with "
        "30; the decoder mirrors it and ends in a sigmoid. s is the sigmoid unless another is "
        "chosen.",
        build=_deep,
    ),
)
