"""What every autoencoder has: an encoder, a decoder and the whole, each of which can be exported.

Dimensions: B batch, C channels, H height, W width.
"""

from abc import abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor, nn

from atril_models.architecture import ImageSpec, Network

MNIST_SHAPE = (1, 28, 28)
"""`(channels, height, width)` of the pictures that the published forms were made for."""


class OutputUnit(StrEnum):
    """What turns the last layer's sums into a picture, and so which loss belongs to it.

    The values are names of activations.
    """

    LINEAR = "identity"
    """The mean of a Gaussian: squared error."""
    SIGMOID = "sigmoid"
    """The mean of a Bernoulli: cross-entropy; the picture stays within 0 … 1."""


class Autoencoder(Network):
    """A picture into a code, and the code into a picture: z = f(x), x~ = g(z).

    Source: lecture 4, Figure 28.

    Args:
        image: the picture's shape.
        code_shape: of one code, without the batch.

    Shape:
        `encode` takes pictures [B, C, H, W] within 0 … 1; `decode` takes codes [B, *code_shape]
        and returns pictures [B, C, H, W].
    """

    encoder_outputs: ClassVar[tuple[str, ...]]
    """Names of what `encode` returns."""
    whole_outputs: ClassVar[tuple[str, ...]]
    """Names of what `forward` returns."""

    def __init__(self, image: ImageSpec, code_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.image = image
        self.code_shape = code_shape

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The code of each picture, or the parameters of its distribution."""

    @abstractmethod
    def decode(self, code: Tensor) -> Tensor:
        """The picture of each code."""

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """`batch` empty pictures."""
        return (torch.zeros(batch, *self.image.shape),)

    def example_codes(self, batch: int = 1) -> tuple[Tensor]:
        """`batch` codes of zeros: what `decode` takes."""
        return (torch.zeros(batch, *self.code_shape),)


class DeterministicAutoencoder(Autoencoder):
    """An autoencoder in which each picture has one code and each code one picture.

    `decode_sums` gives what the output unit is applied to. A cross-entropy is computed from it
    without the rounding that a sigmoid near 0 or 1 brings.
    """

    encoder_outputs = ("code",)
    whole_outputs = ("reconstruction",)

    def __init__(
        self, image: ImageSpec, code_shape: tuple[int, ...], output_unit: OutputUnit
    ) -> None:
        super().__init__(image, code_shape)
        self.output_unit = output_unit

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """The code of each picture."""

    @abstractmethod
    def decode_sums(self, code: Tensor) -> Tensor:
        """The picture of each code before the output unit, [B, C, H, W]."""

    def output(self, sums: Tensor) -> Tensor:
        """The output unit, of each element."""
        return torch.sigmoid(sums) if self.output_unit is OutputUnit.SIGMOID else sums

    def decode(self, code: Tensor) -> Tensor:
        """The picture of each code."""
        return self.output(self.decode_sums(code))

    def forward(self, image: Tensor) -> Tensor:
        """The reconstruction of each picture."""
        return self.decode(self.encode(image))


class EncoderPart(nn.Module):
    """An autoencoder's encoder alone, as it is exported."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What `encode` returns."""
        return self.autoencoder.encode(image)


class DecoderPart(nn.Module):
    """An autoencoder's decoder alone, as it is exported."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, code: Tensor) -> Tensor:
        """What `decode` returns."""
        return self.autoencoder.decode(code)


def image_spec(shape: Sequence[int]) -> ImageSpec:
    """A picture's shape from an option `(channels, height, width)`.

    Raises:
        ValueError: not three sizes of at least 1.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"image_shape: expected (channels, height, width), each at least 1, got {tuple(shape)}"
        )
    return ImageSpec(*shape)
