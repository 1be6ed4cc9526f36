"""The residual convolutional denoiser for photographs.

Dimensions: B batch, C channels, H height, W width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models.architecture import Architecture, Family, ImageSpec, Network

_FIRST_GAIN = 0.02
"""Of the last convolution: learning starts from the picture almost as it is."""

_EXAMPLE_SIDE = 40  # of the patches that the paper trains on; any size will do


class DnCNN(Network):
    """Predicts the noise of a picture, and takes it away: x~ = x^ - r(x^).

    r: a 3×3 convolution with ReLU; depth - 2 times a 3×3 convolution, batch normalisation, ReLU; a
    3×3 convolution. No convolution has a bias; all start from orthogonal weights (Saxe, McClelland
    & Ganguli 2014). The picture may have any height and width.

    With `downsampling` s > 1, the picture is first cut into s² interleaved pictures of 1/s the
    side, and put together again at the end, so that the network sees s times as far for 1/s² of
    the work (Zhang, Zuo & Zhang 2018, FFDNet, §III-B). Where s does not divide a side, the last
    row or column is repeated until it does, and what is too much is cut off.

    Source: Zhang, Zuo, Chen, Meng & Zhang 2017, IEEE TIP 26(7), §III.

    Shape:
        image [B, C, H, W] within 0 … 1, plus noise; returns the same shape.

    Raises:
        ValueError: depth < 2, or another option below 1.
    """

    def __init__(
        self, depth: int = 17, width: int = 64, channels: int = 1, downsampling: int = 1
    ) -> None:
        super().__init__()
        if depth < 2 or min(width, channels, downsampling) < 1:
            raise ValueError(
                "expected a depth of at least 2 and width, channels and downsampling of at least "
                f"1, got {depth}, {width}, {channels} and {downsampling}"
            )
        side = _EXAMPLE_SIDE * downsampling
        self.image = ImageSpec(channels, side, side)
        self.downsampling = downsampling
        pieces = channels * downsampling**2
        layers: list[nn.Module] = [_convolution(pieces, width), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [_convolution(width, width), nn.BatchNorm2d(width), nn.ReLU()]
        self.residual = nn.Sequential(*layers, _convolution(width, pieces, gain=_FIRST_GAIN))
        # One kernel for each of the s² places of a window: 1 there, and 0 elsewhere.
        places = torch.eye(downsampling**2).view(-1, 1, downsampling, downsampling)
        self.register_buffer("places", places.repeat(channels, 1, 1, 1), persistent=False)
        self.places: Tensor

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """`batch` empty pictures."""
        return (torch.zeros(batch, *self.image.shape),)

    def predict_noise(self, image: Tensor) -> Tensor:
        """r(x^): the noise that the network sees in each picture."""
        height, width = image.shape[-2:]
        noise = functional.pixel_shuffle(self.residual(self._pieces(image)), self.downsampling)
        return noise[..., :height, :width]

    def forward(self, image: Tensor) -> Tensor:
        """Each picture without its noise."""
        return image - self.predict_noise(image)

    def _pieces(self, image: Tensor) -> Tensor:
        """The interleaved pictures, [B, C·s², ⌈H / s⌉, ⌈W / s⌉].

        What `pixel_unshuffle` does where s divides both sides. The convolution with a stride of s
        also takes the sides that it does not, and stays a graph of any height and width.
        """
        if self.downsampling == 1:
            return image
        repeated = (0, self.downsampling - 1) * 2
        padded = functional.pad(image, repeated, mode="replicate")
        return functional.conv2d(
            padded, self.places, stride=self.downsampling, groups=self.image.channels
        )


def _convolution(channels: int, maps: int, gain: float = 1.0) -> nn.Conv2d:
    layer = nn.Conv2d(channels, maps, 3, padding=1, bias=False)
    nn.init.orthogonal_(layer.weight, gain)
    return layer


ARCHITECTURES = (
    Architecture(
        name="dncnn",
        title="DnCNN, residual denoiser for photographs",
        family=Family.AUTOENCODER,
        lecture_section="4.2.3",
        source="Zhang, Zuo, Chen, Meng & Zhang 2017, IEEE Trans. Image Processing 26(7)",
        formula="x~ = x^ - r(x^): r is a 3×3 convolution and ReLU, 15 times a 3×3 convolution, "
        "batch normalisation and ReLU, and a 3×3 convolution; 64 maps. r learns the noise.",
        build=DnCNN,
    ),
)
