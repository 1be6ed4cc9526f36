"""The contractive autoencoder.

Dimensions: B batch, D inputs, Z code size.
"""

from collections.abc import Sequence

from torch import Tensor

from atril_models.architecture import Architecture, Family, ImageSpec
from atril_models.autoencoders.autoencoder import MNIST_SHAPE, image_spec
from atril_models.autoencoders.dense import DenseAutoencoder, TransposedLinear
from atril_models.autoencoders.penalties import sigmoid_jacobian_norm


class ContractiveAutoencoder(DenseAutoencoder):
    """One tied sigmoid layer whose Jacobian is kept small while it learns.

    h = s(W x + b), x~ = s(W' h + c); J = loss + lambda · E ||dh/dx||².

    Source: Rifai et al. 2011, §3; lecture 4.2.1, equations 4.2.1 and 4.2.2.

    Args:
        image: the picture's shape.
        code_size: number of hidden units.

    Raises:
        ValueError: code_size < 1.
    """

    def __init__(self, image: ImageSpec, code_size: int) -> None:
        super().__init__(image, (code_size,), activations=("sigmoid", "sigmoid"), tied=True)

    def squared_jacobian_norm(self, image: Tensor) -> Tensor:
        """||dh/dx||² of each picture in closed form, [B]."""
        tied = self.decoder[-1]
        assert isinstance(tied, TransposedLinear)
        return sigmoid_jacobian_norm(self.encode(image), tied.weight)


def _contractive(
    image_shape: Sequence[int] = MNIST_SHAPE, code_size: int = 1000
) -> ContractiveAutoencoder:
    return ContractiveAutoencoder(image_spec(image_shape), code_size)


ARCHITECTURES = (
    Architecture(
        name="contractive-autoencoder",
        title="Contractive autoencoder (CAE)",
        family=Family.AUTOENCODER,
        lecture_section="4.2.1",
        source="Rifai, Vincent, Muller, Glorot & Bengio 2011, ICML",
        formula="h = s(W x + b); x~ = s(W' h + c). Trained with the penalty "
        "lambda · sum_j (h_j (1 - h_j))² sum_i W_ji², the squared Frobenius norm of dh/dx.",
        build=_contractive,
    ),
)
