"""What regularised autoencoders add to their reconstruction loss.

Dimensions: B batch, D inputs, Z code size.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.func import jacrev, vmap

SparsityDistance = Callable[[Tensor, float], Tensor]
"""How far each unit's mean activation [Z] is from the target: returns [Z]."""


def sigmoid_jacobian_norm(hidden: Tensor, weight: Tensor) -> Tensor:
    """Squared Frobenius norm of dh/dx for h = s(W x + b), in closed form.

    sum_j (h_j (1 - h_j))² sum_i W_ji²: the slope of a sigmoid is h (1 - h), so that row j of the
    Jacobian is h_j (1 - h_j) times row j of W.

    Source: Rifai et al. 2011, §3; lecture equation 4.2.2.

    Shape:
        hidden [B, Z], weight [Z, D]; returns [B].
    """
    slopes = (hidden * (1 - hidden)).square()  # [B, Z]
    return slopes @ weight.square().sum(dim=1)


def jacobian_norm(encode: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Squared Frobenius norm of d encode/dx of each picture, for any encoder, by autograd.

    It can itself be differentiated. It holds the whole Jacobian, Z × D numbers a picture.

    Source: lecture equation 4.2.2.

    Args:
        encode: from pictures [B, ...] to codes [B, ...]; a picture's code depends on no other's.
        image: [B, ...].

    Shape:
        returns [B].
    """

    def code_of_one(picture: Tensor) -> Tensor:
        return encode(picture.unsqueeze(0)).squeeze(0)

    jacobians: Tensor = vmap(jacrev(code_of_one))(image)  # [B, *code, *picture]
    return jacobians.flatten(1).square().sum(dim=1)


def absolute_distance(mean_activation: Tensor, target: float) -> Tensor:
    """|rho_hat - rho|: with target 0 and no negative activation, the mean L1 norm."""
    return (mean_activation - target).abs()


def squared_distance(mean_activation: Tensor, target: float) -> Tensor:
    """(rho_hat - rho)²."""
    return (mean_activation - target).square()


def bernoulli_divergence(mean_activation: Tensor, target: float) -> Tensor:
    """KL(rho || rho_hat) = rho log(rho / rho_hat) + (1 - rho) log((1 - rho) / (1 - rho_hat)).

    In nats; zero where rho_hat is the target. Its slope is
    -rho / rho_hat + (1 - rho) / (1 - rho_hat), without bound as a unit dies, which the divergence
    the other way round does not have; see docs/lectures/errata.md.

    Raises:
        ValueError: the target does not lie between 0 and 1.
    """
    if not 0 < target < 1:
        raise ValueError(f"target: expected a mean activation between 0 and 1, got {target}")
    rho = torch.as_tensor(target, dtype=mean_activation.dtype)
    on = torch.xlogy(rho, rho / mean_activation)
    off = torch.xlogy(1 - rho, (1 - rho) / (1 - mean_activation))
    return on + off


SPARSITY_DISTANCES: Mapping[str, SparsityDistance] = MappingProxyType(
    {"l1": absolute_distance, "l2": squared_distance, "kl": bernoulli_divergence}
)
"""The functions s of lecture 4.2.2, by name."""


def sparsity_penalty(activations: Tensor, target: float, distance: SparsityDistance) -> Tensor:
    """Sum over the units of a layer of how far each is, on average, from the target.

    rho_hat_j is the mean of unit j over the *examples*, as in Ng's notes: a unit is rarely on. The
    lecture's equation 4.2.4 averages the units of one example; see docs/lectures/errata.md.

    Source: A. Ng, CS294A lecture notes, "Sparse autoencoder"; lecture equation 4.2.5.

    Args:
        activations: of one layer, [B, Z]; for "kl" within 0 … 1.
        target: the mean activation wanted, rho.
        distance: one of `SPARSITY_DISTANCES`.

    Shape:
        returns a scalar.
    """
    return distance(activations.mean(dim=0), target).sum()
