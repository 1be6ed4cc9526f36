"""Sparse autoencoders: by keeping the k largest units, and by a penalty.

Dimensions: B batch, D inputs, Z code size.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family, ImageSpec
from atril_models.autoencoders.autoencoder import (
    MNIST_SHAPE,
    DeterministicAutoencoder,
    OutputUnit,
    image_spec,
)
from atril_models.autoencoders.dense import DenseAutoencoder, TransposedLinear


def keep_largest(activations: Tensor, count: int) -> Tensor:
    """Keep the `count` largest of each row and set the others to zero, their gradients too.

    Largest, not largest in absolute value; exactly `count` are kept, also among equals.

    Source: supp_k of Makhzani & Frey 2013, §2.

    Shape:
        [B, Z]; returns the same.
    """
    kept = activations.topk(count, dim=1, sorted=False).indices
    mask = torch.zeros_like(activations).scatter(1, kept, 1.0)
    return activations * mask


class KSparseAutoencoder(DeterministicAutoencoder):
    """A tied linear autoencoder of which only the k largest hidden units are kept.

    z = W x + b; z_j = 0 for all but the k largest; x~ = W' z + c. In eval mode the alpha·k largest.

    Source: Makhzani & Frey 2013, "k-Sparse Autoencoders", §2; lecture 4.2.2.

    Args:
        image: the picture's shape.
        code_size: number of hidden units.
        k: units that are active while learning.
        alpha: how many times more are active afterwards.

    Raises:
        ValueError: k is not between 1 and code_size, or alpha < 1.
    """

    def __init__(self, image: ImageSpec, code_size: int, *, k: int, alpha: float) -> None:
        super().__init__(image, (code_size,), OutputUnit.LINEAR)
        if not 1 <= k <= code_size:
            raise ValueError(f"k: expected 1 to {code_size} (the code size), got {k}")
        if alpha < 1:
            raise ValueError(f"alpha: expected at least 1, got {alpha}")
        self.k = k
        self.alpha = alpha
        self.encoder = nn.Linear(prod(image.shape), code_size)
        self.decoder = TransposedLinear(self.encoder)
        self._learning_k = k

    @property
    def active_units(self) -> int:
        """How many units are kept in the mode that the network is in."""
        if self.training:
            return self._learning_k
        return min(self.code_shape[0], round(self.alpha * self.k))

    def anneal(self, k: int) -> None:
        """Learn with so many active units from now on.

        Learning starts with many, so that every unit gets a gradient and none stays unused, and
        ends with `k` (Makhzani & Frey 2013, §4.2.1).

        Raises:
            ValueError: not between `self.k` and the code size.
        """
        if not self.k <= k <= self.code_shape[0]:
            raise ValueError(f"k: expected {self.k} to {self.code_shape[0]}, got {k}")
        self._learning_k = k

    def encode(self, image: Tensor) -> Tensor:
        """The sparse code of each picture, [B, Z]."""
        return keep_largest(self.encoder(image.flatten(1)), self.active_units)

    def margin(self, image: Tensor) -> Tensor:
        """By how much the last unit that is kept exceeds the first that is not, [B].

        Infinite where all are kept. Where it is as small as the rounding of a sum, which of the two
        is kept depends on the order of the summation, and so does the reconstruction.
        """
        count = self.active_units
        if count == self.code_shape[0]:
            return image.new_full((len(image),), torch.inf)
        largest = self.encoder(image.flatten(1)).topk(count + 1, dim=1).values
        margin: Tensor = largest[:, count - 1] - largest[:, count]
        return margin

    def decode_sums(self, code: Tensor) -> Tensor:
        """The picture of each code; the output is linear."""
        sums: Tensor = self.decoder(code)
        return sums.view(-1, *self.image.shape)


def _k_sparse(
    image_shape: Sequence[int] = MNIST_SHAPE,
    code_size: int = 1000,
    k: int = 25,
    alpha: float = 3.0,
) -> KSparseAutoencoder:
    return KSparseAutoencoder(image_spec(image_shape), code_size, k=k, alpha=alpha)


def _sparse(
    image_shape: Sequence[int] = MNIST_SHAPE, widths: Sequence[int] = (1000,)
) -> DenseAutoencoder:
    return DenseAutoencoder(image_spec(image_shape), widths, activations=("sigmoid", "sigmoid"))


def _penalised(name: str, title: str, distance: str) -> Architecture:
    return Architecture(
        name=name,
        title=title,
        family=Family.AUTOENCODER,
        lecture_section="4.2.2",
        source="A. Ng 2011, CS294A lecture notes, Sparse autoencoder",
        formula="h = s(W x + b); x~ = s(V h + c). Trained with beta · sum_j s(rho_hat_j, rho), "
        f"rho_hat_j the mean of unit j over the examples and s = {distance}.",
        build=_sparse,
    )


ARCHITECTURES = (
    Architecture(
        name="k-sparse-autoencoder",
        title="k-sparse autoencoder",
        family=Family.AUTOENCODER,
        lecture_section="4.2.2",
        source="Makhzani & Frey 2013, arXiv:1312.5663",
        formula="z = W x + b, of which all but the k largest are set to zero (alpha·k at test "
        "time); x~ = W' z + c.",
        build=_k_sparse,
    ),
    _penalised(
        "sparse-autoencoder", "Sparse autoencoder (SAE), KL penalty", "KL(rho || rho_hat_j)"
    ),
    _penalised(
        "sparse-autoencoder-l1", "Sparse autoencoder (SAE), L1 penalty", "|rho_hat_j - rho|"
    ),
    _penalised(
        "sparse-autoencoder-l2", "Sparse autoencoder (SAE), L2 penalty", "(rho_hat_j - rho)²"
    ),
)
