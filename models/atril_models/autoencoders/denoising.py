"""The fully connected denoising autoencoder."""

from collections.abc import Sequence

from atril_models.architecture import Architecture, Family
from atril_models.autoencoders.autoencoder import MNIST_SHAPE, image_spec
from atril_models.autoencoders.dense import DenseAutoencoder


def _denoising(
    image_shape: Sequence[int] = MNIST_SHAPE,
    widths: Sequence[int] = (1000,),
    activation: str = "sigmoid",
    tied: bool = True,
) -> DenseAutoencoder:
    return DenseAutoencoder(
        image_spec(image_shape), widths, activations=(activation, activation), tied=tied
    )


ARCHITECTURES = (
    Architecture(
        name="denoising-autoencoder",
        title="Denoising autoencoder (DAE)",
        family=Family.AUTOENCODER,
        lecture_section="4.2.3",
        source="Vincent, Larochelle, Bengio & Manzagol 2008, ICML; Vincent et al. 2010, JMLR 11",
        formula="h = s(W x^ + b); x~ = s(W' h + c), x^ being the picture with Gaussian, "
        "salt-and-pepper or masking noise; the loss compares x~ with the clean x.",
        build=_denoising,
    ),
)
