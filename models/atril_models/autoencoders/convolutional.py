"""The convolutional denoising autoencoder, and the halves that other convolutional ones share.

Dimensions: B batch, C channels, H height, W width, S stages, M maps.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from atril_models.architecture import Architecture, Family, ImageSpec
from atril_models.autoencoders.autoencoder import (
    MNIST_SHAPE,
    DeterministicAutoencoder,
    OutputUnit,
    image_spec,
)


def contracting(channels: int, widths: Sequence[int]) -> nn.Sequential:
    """For each width a 3×3 convolution and a 4×4 one of stride 2 that halves the picture, ReLU.

    Weights start from He's normal distribution, here as in `expanding`, and biases at 0.

    Shape:
        [B, channels, H, W] to [B, widths[-1], H / 2^S, W / 2^S].
    """
    layers: list[nn.Module] = []
    for before, width in pairwise([channels, *widths]):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 4, stride=2, padding=1), nn.ReLU()]
    return _initialised(layers)


def expanding(widths: Sequence[int], channels: int) -> nn.Sequential:
    """The mirror of `contracting`: transposed convolutions double the picture; the last is linear.

    Shape:
        [B, widths[-1], H / 2^S, W / 2^S] to [B, channels, H, W].
    """
    layers: list[nn.Module] = []
    for width, after in pairwise([*reversed(widths), channels]):
        layers += [nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(width, after, 3, padding=1), nn.ReLU()]
    return _initialised(layers[:-1])


def _initialised(layers: Sequence[nn.Module]) -> nn.Sequential:
    """Variance 2 / fan-in: a ReLU halves the second moment of what it gets (He et al. 2015).

    The fan-in of a transposed convolution is that of one output: of the kernel's positions only
    one in stride² meets an input.
    """
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            positions = prod(layer.kernel_size)
            if isinstance(layer, nn.ConvTranspose2d):
                positions //= prod(layer.stride)
            nn.init.normal_(layer.weight, std=(2 / (layer.in_channels * positions)) ** 0.5)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def contracted_shape(image: ImageSpec, widths: Sequence[int]) -> tuple[int, int, int]:
    """Shape of what `contracting` gives for a picture, without the batch.

    Raises:
        ValueError: no width or one below 1, or a side that cannot be halved so often.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths: expected one or more, each at least 1, got {tuple(widths)}")
    factor = 2 ** len(widths)
    if image.height % factor or image.width % factor:
        raise ValueError(
            f"image_shape: {len(widths)} stages need a height and width divisible by {factor}, "
            f"got {image.height}×{image.width}"
        )
    return (widths[-1], image.height // factor, image.width // factor)


class ConvolutionalAutoencoder(DeterministicAutoencoder):
    """Convolutions that halve the picture, and transposed ones that double it again.

    The code is a stack of maps; it keeps where things are.

    Source: Masci, Meier, Cireşan & Schmidhuber 2011, ICANN, with strides in place of pooling.

    Args:
        image: the picture's shape.
        widths: maps of each stage, the last being the code's.

    Raises:
        ValueError: as for `contracted_shape`.
    """

    def __init__(self, image: ImageSpec, widths: Sequence[int]) -> None:
        super().__init__(image, contracted_shape(image, widths), OutputUnit.SIGMOID)
        self.encoder = contracting(image.channels, widths)
        self.decoder = expanding(widths, image.channels)

    def encode(self, image: Tensor) -> Tensor:
        """The code of each picture, [B, M, H / 2^S, W / 2^S]."""
        code: Tensor = self.encoder(image)
        return code

    def decode_sums(self, code: Tensor) -> Tensor:
        """The picture of each code before the sigmoid."""
        sums: Tensor = self.decoder(code)
        return sums


def _denoising(
    image_shape: Sequence[int] = MNIST_SHAPE, widths: Sequence[int] = (32, 64)
) -> ConvolutionalAutoencoder:
    return ConvolutionalAutoencoder(image_spec(image_shape), widths)


ARCHITECTURES = (
    Architecture(
        name="conv-denoising-autoencoder",
        title="Convolutional denoising autoencoder",
        family=Family.AUTOENCODER,
        lecture_section="4.2.3",
        source="Masci, Meier, Cireşan & Schmidhuber 2011, ICANN; Vincent et al. 2010, JMLR 11",
        formula="Each stage: 3×3 convolution, 4×4 convolution of stride 2, ReLU after each; the "
        "decoder mirrors them with transposed convolutions and ends in a sigmoid. Takes the "
        "picture with noise; the loss compares with the clean one.",
        build=_denoising,
    ),
)
