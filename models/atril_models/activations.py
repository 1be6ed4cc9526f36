"""Activation functions by name, and hidden layers whose weights start as their activation needs.

Source: lecture 2.1.2, equations 2.1.4 and 2.1.9 to 2.1.12; each entry names its paper.

Dimensions: B batch, P inputs, H units of the layer, K pieces of a maxout unit.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from statistics import NormalDist
from types import MappingProxyType

from torch import Tensor, nn

from atril_models.accounting import Work, count_work, weighted_sums

LEAKY_SLOPE = 0.01
"""Of the leaky ReLU below zero: Maas, Hannun & Ng 2013."""

PRELU_INITIAL_SLOPE = 0.25
"""Of the parametric ReLU below zero, before it is learnt: He et al. 2015, §2.1."""

MAXOUT = "maxout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A function of one logit.

    Args:
        formula: in plain text.
        source: the lecture's equation or the paper.
        build: makes the module.
        initialise: draws the weight [H, P] of the dense layer before it, in place.
    """

    formula: str
    source: str
    build: Callable[[], nn.Module]
    initialise: Callable[[Tensor], Tensor]


def glorot_uniform(weight: Tensor) -> Tensor:
    """Fill with U(-a, a), a = √(6 / (P + H)): for functions with slope 1, or nearly, at 0.

    Source: Glorot & Bengio 2010, equation 16.

    Shape: weight [H, P], changed in place and returned.
    """
    return nn.init.xavier_uniform_(weight)


def he_normal(weight: Tensor, slope: float = 0.0) -> Tensor:
    """Fill with N(0, 2 / ((1 + slope²) P)): a ReLU halves the second moment of what it gets.

    Source: He, Zhang, Ren & Sun 2015, equations 10 and 15.

    Args:
        weight: [H, P], changed in place and returned.
        slope: of the function below zero.
    """
    return nn.init.kaiming_normal_(weight, a=slope, nonlinearity="leaky_relu")


def lecun_normal(weight: Tensor) -> Tensor:
    """Fill with N(0, 1 / P): logits keep the second moment of the inputs.

    Source: LeCun, Bottou, Orr & Müller 1998, equation 16; for SELU Klambauer et al. 2017, §3.

    Shape: weight [H, P], changed in place and returned.
    """
    return nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


def leaky_relu(slope: float = LEAKY_SLOPE) -> nn.LeakyReLU:
    """max(slope · z, z): lecture 2.1.11.

    Raises:
        ValueError: the slope is not between 0 and 1, where the maximum would be another function
            than slope · z below zero and z above.
    """
    if not 0 <= slope <= 1:
        raise ValueError(f"the slope of a leaky ReLU must lie between 0 and 1, got {slope}")
    return nn.LeakyReLU(slope)


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "identity": Activation(
            formula="z",
            source="lecture 2.1.2 and 2.2.6: hidden layers of it add nothing to a linear network",
            build=nn.Identity,
            initialise=lecun_normal,
        ),
        "sigmoid": Activation(
            formula="1 / (1 + exp(-z))",
            source="lecture 2.1.4",
            build=nn.Sigmoid,
            initialise=glorot_uniform,
        ),
        "tanh": Activation(
            formula="2 sigmoid(2z) - 1",
            source="lecture 2.1.9",
            build=nn.Tanh,
            initialise=glorot_uniform,
        ),
        "relu": Activation(
            formula="max(0, z)",
            source="lecture 2.1.10; Nair & Hinton 2010",
            build=nn.ReLU,
            initialise=he_normal,
        ),
        "leaky-relu": Activation(
            formula=f"max({LEAKY_SLOPE} z, z)",
            source="lecture 2.1.11; Maas, Hannun & Ng 2013",
            build=leaky_relu,
            initialise=partial(he_normal, slope=LEAKY_SLOPE),
        ),
        "prelu": Activation(
            formula=f"max(0, z) + a min(0, z), a learnt, one a layer, from {PRELU_INITIAL_SLOPE}",
            source="lecture 2.1.2; He, Zhang, Ren & Sun 2015",
            build=partial(nn.PReLU, init=PRELU_INITIAL_SLOPE),
            initialise=partial(he_normal, slope=PRELU_INITIAL_SLOPE),
        ),
        "elu": Activation(
            formula="z above 0, exp(z) - 1 below",
            source="lecture 2.1.2; Clevert, Unterthiner & Hochreiter 2016",
            build=nn.ELU,
            initialise=he_normal,
        ),
        "swish": Activation(
            formula="z sigmoid(z)",
            source="lecture 2.1.2; Ramachandran, Zoph & Le 2017 with β = 1",
            build=nn.SiLU,
            initialise=he_normal,
        ),
        "gelu": Activation(
            formula="z Φ(z), Φ the distribution function of N(0, 1)",
            source="lecture 2.1.2; Hendrycks & Gimpel 2016",
            build=nn.GELU,
            initialise=he_normal,
        ),
        "selu": Activation(
            formula="λ z above 0, λ α (exp(z) - 1) below; λ = 1.0507…, α = 1.6732…",
            source="lecture 2.1.2; Klambauer, Unterthiner, Mayr & Hochreiter 2017",
            build=nn.SELU,
            initialise=lecun_normal,
        ),
    }
)
"""The functions of one logit by name; maxout, which takes several, is the layer `Maxout`."""


class Maxout(nn.Module):
    """Each unit is the largest of K linear functions of the input.

    h_j = max over i = 1 … K of (w_ij · x + b_ij)

    There is no 0 among the candidates: with one it could not be negative, and would be a ReLU of
    the maxout. The pieces of a unit are consecutive logits: unit 1 has z_1 … z_K.

    The weights start from N(0, 1 / (P m)), m the second moment of the largest of K standard normal
    numbers (1 for one or two, 1.28 for three), so that the second moment of the output is that of
    the input; biases start at 0.

    Source: Goodfellow et al. 2013, §3; lecture 2.1.12, where the 0 is an erratum.

    Shape:
        input [..., P] float32; returns [..., H].

    Raises:
        ValueError: inputs, units or pieces < 1.
    """

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        if min(inputs, units, pieces) < 1:
            raise ValueError(
                f"inputs, units and pieces of a maxout layer must be at least 1, got {inputs}, "
                f"{units} and {pieces}"
            )
        self.units = units
        self.pieces = pieces
        self.linear = nn.Linear(inputs, units * pieces)
        nn.init.normal_(
            self.linear.weight, std=(inputs * _second_moment_of_largest(pieces)) ** -0.5
        )
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """The largest logit of each unit."""
        logits: Tensor = self.linear(inputs)  # [..., H·K]
        pieces = logits.view(*logits.shape[:-1], self.units, self.pieces)  # [..., H, K]
        return pieces.amax(dim=-1)


def hidden_layer(inputs: int, units: int, activation: str, *, pieces: int = 2) -> nn.Module:
    """A dense layer and its activation, by name; its biases start at 0.

    The weights start as fits the activation: He's normal for the ReLU and its relatives (PReLU,
    ELU, Swish and GELU among them), Glorot's uniform for sigmoid and tanh, LeCun's normal for SELU.

    Args:
        inputs: P.
        units: H.
        activation: a name in `ACTIVATIONS`, or `maxout`.
        pieces: of a maxout unit; other activations have none.

    Shape:
        the layer takes [..., P] float32 and returns [..., H].

    Raises:
        ValueError: there is no such activation; inputs, units or pieces < 1.
    """
    if activation == MAXOUT:
        return Maxout(inputs, units, pieces)
    if activation not in ACTIVATIONS:
        known = ", ".join((*ACTIVATIONS, MAXOUT))
        raise ValueError(f"unknown activation '{activation}': expected one of {known}")
    if min(inputs, units) < 1:
        raise ValueError(
            f"inputs and units of a dense layer must be at least 1, got {inputs} and {units}"
        )
    linear = nn.Linear(inputs, units)
    ACTIVATIONS[activation].initialise(linear.weight)
    nn.init.zeros_(linear.bias)
    parts = {"linear": linear, "activation": ACTIVATIONS[activation].build()}
    return nn.Sequential(OrderedDict(parts))


@count_work.register
def _(layer: Maxout, output_shape: tuple[int, ...]) -> Work:
    """Every piece is computed; choosing the largest takes no parameter."""
    weights, biases = layer.linear.weight.numel(), layer.linear.bias.numel()
    return weighted_sums(weights, biases, prod(output_shape[:-1]))


@cache
def _second_moment_of_largest(count: int) -> float:
    """E[max(z_1 … z_count)²] of independent standard normal numbers.

    The trapezoidal rule on ∫ z² · count · φ(z) Φ(z)^(count-1) dz, whose error is below 1e-12 at
    this step because the integrand is smooth and vanishes at both ends.
    """
    normal, step = NormalDist(), 0.05
    points = (step * i for i in range(-240, 241))
    return step * sum(z**2 * count * normal.pdf(z) * normal.cdf(z) ** (count - 1) for z in points)
