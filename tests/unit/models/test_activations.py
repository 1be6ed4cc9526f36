"""Activations, each against its definition and the properties that its paper or the lecture give.

In float64; expected numbers come from the formula written out, or from quadrature.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from atril_models.accounting import LayerCount, count_layers
from atril_models.activations import ACTIVATIONS, MAXOUT, Maxout, hidden_layer, leaky_relu

LOGITS = torch.linspace(-8, 8, 401, dtype=torch.float64)
SELU_LAMBDA = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772

DEFINITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + torch.exp(-z)),
    "tanh": lambda z: (torch.exp(z) - torch.exp(-z)) / (torch.exp(z) + torch.exp(-z)),
    "relu": lambda z: torch.where(z > 0, z, 0),
    "leaky-relu": lambda z: torch.where(z > 0, z, 0.01 * z),
    "prelu": lambda z: torch.where(z > 0, z, 0.25 * z),
    "elu": lambda z: torch.where(z > 0, z, torch.exp(z) - 1),
    "swish": lambda z: z / (1 + torch.exp(-z)),
    "gelu": lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    "selu": lambda z: SELU_LAMBDA * torch.where(z > 0, z, SELU_ALPHA * (torch.exp(z) - 1)),
}


def _apply(name: str, logits: Tensor) -> Tensor:
    output: Tensor = ACTIVATIONS[name].build().to(logits.dtype)(logits)
    return output


def _slope(name: str, at: float) -> float:
    logit = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    _apply(name, logit).sum().backward()
    assert logit.grad is not None
    return logit.grad.item()


def _normal_mean(function: Callable[[Tensor], Tensor]) -> float:
    """E[function(z)] of z ~ N(0, 1), by the trapezoidal rule on each side of 0."""
    mean = 0.0
    for low, high in ((-14.0, 0.0), (0.0, 14.0)):
        points = torch.linspace(low, high, 200_001, dtype=torch.float64)
        density = torch.exp(-(points**2) / 2) / math.sqrt(2 * math.pi)
        mean += torch.trapezoid(function(points) * density, points).item()
    return mean


def _minimum(name: str) -> tuple[float, float]:
    """Where the function is least, and its value there."""
    points = torch.linspace(-2, 0, 2_000_001, dtype=torch.float64)
    values = _apply(name, points)
    return points[values.argmin()].item(), values.min().item()


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_function_is_its_definition(name: str) -> None:
    """Each name gives the function of its equation, to a rounding error."""
    torch.testing.assert_close(
        _apply(name, LOGITS), DEFINITIONS[name](LOGITS), rtol=1e-14, atol=1e-15
    )


def test_sigmoid_is_steepest_at_a_quarter() -> None:
    """The slope is s(1 - s): exactly 0.25 at 0, and nowhere more (erratum 2.1.2: not 0.2)."""
    assert _slope("sigmoid", 0.0) == 0.25
    assert max(_slope("sigmoid", at) for at in LOGITS.tolist()) == 0.25
    value = _apply("sigmoid", torch.tensor([1.5], dtype=torch.float64)).item()
    assert _slope("sigmoid", 1.5) == pytest.approx(value * (1 - value), rel=1e-14)


def test_sigmoid_is_symmetric_and_finite() -> None:
    """s(-z) = 1 - s(z), and ±1000 gives 0 and 1 with no overflow."""
    torch.testing.assert_close(
        _apply("sigmoid", -LOGITS), 1 - _apply("sigmoid", LOGITS), rtol=0, atol=1e-15
    )
    assert _apply("sigmoid", torch.tensor([-1000.0, 1000.0])).tolist() == [0.0, 1.0]


def test_tanh_is_a_stretched_sigmoid() -> None:
    """Lecture 2.1.9: tanh(z) = 2(s(2z) - 1/2), with slope 1 at 0."""
    stretched = 2 * (_apply("sigmoid", 2 * LOGITS) - 0.5)
    torch.testing.assert_close(_apply("tanh", LOGITS), stretched, rtol=0, atol=1e-15)
    assert _slope("tanh", 0.0) == 1.0


def test_relu_has_no_slope_at_zero() -> None:
    """The derivative is 0 below zero and, by the lecture's convention, at it; 1 above."""
    assert [_slope("relu", at) for at in (-1.0, 0.0, 1.0)] == [0.0, 0.0, 1.0]


def test_a_dead_relu_is_frozen_not_zero() -> None:
    """A unit with no positive logit has output and gradients 0; its weights stay as they are."""
    layer = hidden_layer(2, 1, "relu")
    with torch.no_grad():
        layer.linear.weight.fill_(-1)
    output = layer(torch.rand(8, 2, generator=torch.Generator().manual_seed(0)))
    output.sum().backward()
    assert not output.any()
    assert not layer.linear.weight.grad.any()
    assert layer.linear.weight.tolist() == [[-1.0, -1.0]]


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 1.0])
def test_leaky_relu_is_a_maximum(slope: float) -> None:
    """Lecture 2.1.11: max(αz, z) is the piecewise function, for 0 ≤ α ≤ 1."""
    expected = torch.maximum(slope * LOGITS, LOGITS)
    torch.testing.assert_close(leaky_relu(slope)(LOGITS), expected, rtol=0, atol=0)


@pytest.mark.parametrize("slope", [-0.1, 1.5, math.nan])
def test_leaky_relu_refuses_slopes_for_which_it_is_no_maximum(slope: float) -> None:
    """Outside 0 … 1 the two forms of 2.1.11 are different functions."""
    with pytest.raises(ValueError, match=f"between 0 and 1, got {slope}"):
        leaky_relu(slope)


def test_prelu_learns_its_slope_from_negative_logits() -> None:
    """Starts at 0.25; its gradient is the sum of z · δ over z < 0 (He et al. 2015, eq. 10)."""
    prelu = ACTIVATIONS["prelu"].build().double()
    (slope,) = prelu.parameters()
    assert slope.tolist() == [0.25]
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(len(LOGITS), dtype=torch.float64, generator=generator)
    prelu(LOGITS).backward(delta)
    below = LOGITS < 0
    assert slope.grad is not None
    assert slope.grad.item() == pytest.approx((LOGITS * delta)[below].sum().item(), rel=1e-12)


def test_elu_saturates_at_minus_one_and_is_smooth() -> None:
    """The limit is -1, and the slope reaches 1 from both sides of 0."""
    assert _apply("elu", torch.tensor([-1000.0])).item() == -1.0
    assert _slope("elu", -1e-9) == pytest.approx(1.0, abs=1e-8)
    assert _slope("elu", 1e-9) == 1.0


def test_swish_dips_below_zero() -> None:
    """Least at z = -1.2785, where it is -0.278465."""
    where, value = _minimum("swish")
    assert where == pytest.approx(-1.2785, abs=5e-5)
    assert value == pytest.approx(-0.278465, abs=5e-7)


def test_gelu_is_the_exact_form() -> None:
    """Φ(1) at 1, least at -0.7518; its tanh approximation is off by up to 4.8e-4, but not more."""
    assert _apply("gelu", torch.tensor([1.0], dtype=torch.float64)).item() == pytest.approx(
        0.841345, abs=5e-7
    )
    where, value = _minimum("gelu")
    assert where == pytest.approx(-0.7518, abs=5e-5)
    assert value == pytest.approx(-0.169971, abs=5e-7)
    inner = math.sqrt(2 / math.pi) * (LOGITS + 0.044715 * LOGITS**3)
    approximation = LOGITS * (1 + torch.tanh(inner)) / 2
    difference = (_apply("gelu", LOGITS) - approximation).abs().max().item()
    assert 4e-4 < difference < 4.8e-4


def test_selu_keeps_a_standard_normal_standard() -> None:
    """For z ~ N(0, 1) the mean is 0 and the variance 1: the fixed point of the paper."""
    mean = _normal_mean(lambda z: _apply("selu", z))
    second = _normal_mean(lambda z: _apply("selu", z) ** 2)
    assert mean == pytest.approx(0, abs=1e-9)
    assert second == pytest.approx(1, abs=1e-9)


def _maxout_of(logits: list[float], pieces: int) -> list[float]:
    """Maxout of given logits: the layer with the identity for its weights."""
    layer = Maxout(len(logits), len(logits) // pieces, pieces).double()
    with torch.no_grad():
        layer.linear.weight.copy_(torch.eye(len(logits)))
    values: list[float] = layer(torch.tensor(logits, dtype=torch.float64)).tolist()
    return values


def test_maxout_has_no_zero_among_its_candidates() -> None:
    """maxout(-1, -2, -3) = -1; the lecture's 2.1.12 as printed would give 0."""
    assert _maxout_of([-1, -2, -3], pieces=3) == [-1]


def test_maxout_takes_consecutive_logits() -> None:
    """The example of 2.1.12: six logits are two units of three pieces."""
    assert _maxout_of([1, 5, 2, -4, -6, -3], pieces=3) == [5, -3]


def test_maxout_of_one_piece_is_linear() -> None:
    """With K = 1 the layer is its linear part."""
    layer = Maxout(3, 4, 1)
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(inputs), layer.linear(inputs))


def test_maxout_with_a_piece_of_zeros_is_a_relu() -> None:
    """max(z, 0): the ReLU is the case in which every other piece is 0."""
    layer = Maxout(3, 4, 2)
    with torch.no_grad():
        layer.linear.weight[1::2] = 0
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(inputs), torch.relu(layer.linear(inputs)[:, ::2]))


def test_maxout_counts_all_its_pieces() -> None:
    """H units of K pieces have K · H · (P + 1) parameters, each used once."""
    (row,) = count_layers(Maxout(5, 4, 3), torch.zeros(1, 5))
    assert row == LayerCount(
        name="",
        kind="Maxout",
        output_shape=(4,),
        neurons=4,
        parameters=3 * 4 * 6,
        connections=3 * 4 * 6,
        multiply_adds=3 * 4 * 5,
    )


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_maxout_refuses_sizes_below_one(sizes: tuple[int, int, int]) -> None:
    """The error names all three sizes."""
    inputs, units, pieces = sizes
    with pytest.raises(ValueError, match=f"at least 1, got {inputs}, {units} and {pieces}"):
        Maxout(inputs, units, pieces)


def _limits(inputs: int, units: int, activation: str) -> tuple[float, float]:
    """Standard deviation and largest magnitude of the weights that a layer starts with."""
    torch.manual_seed(0)
    weight = hidden_layer(inputs, units, activation).linear.weight
    return weight.std().item(), weight.abs().max().item()


@pytest.mark.parametrize(
    ("activation", "variance_times_inputs"),
    [
        ("relu", 2.0),
        ("leaky-relu", 2 / (1 + 0.01**2)),
        ("prelu", 2 / (1 + 0.25**2)),
        ("elu", 2.0),
        ("swish", 2.0),
        ("gelu", 2.0),
        ("selu", 1.0),
        ("identity", 1.0),
        (MAXOUT, 1.0),
    ],
)
def test_normal_initialisation_has_the_papers_variance(
    activation: str, variance_times_inputs: float
) -> None:
    """He: 2 / ((1 + a²) P), LeCun: 1 / P, within four standard errors of 80,000 draws."""
    deviation, _largest = _limits(200, 400, activation)
    expected = math.sqrt(variance_times_inputs / 200)
    assert deviation == pytest.approx(expected, rel=4 / math.sqrt(2 * 200 * 400))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_saturating_functions_start_within_glorots_limits(activation: str) -> None:
    """U(-a, a) with a = √(6 / (P + H)): none beyond it, the largest close to it, sd a / √3."""
    deviation, largest = _limits(200, 400, activation)
    limit = math.sqrt(6 / 600)
    assert 0.999 * limit < largest <= limit
    assert deviation == pytest.approx(limit / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize(
    ("activation", "pieces"),
    [("relu", 1), ("leaky-relu", 1), ("prelu", 1), ("selu", 1), (MAXOUT, 2), (MAXOUT, 4)],
)
def test_signal_keeps_its_size_through_twenty_layers(activation: str, pieces: int) -> None:
    """On the average of eight draws, 20 layers change the second moment by less than a half."""
    ratios = []
    for seed in range(8):
        torch.manual_seed(seed)
        layers = [hidden_layer(128, 128, activation, pieces=pieces) for _ in range(20)]
        signal = torch.randn(100, 128)
        with torch.no_grad():
            output = nn.Sequential(*layers)(signal)
        ratios.append((output.square().mean() / signal.square().mean()).item())
    assert 0.5 < sum(ratios) / len(ratios) < 1.5


@pytest.mark.parametrize("activation", [*ACTIVATIONS, MAXOUT])
def test_biases_start_at_zero_and_weights_differ(activation: str) -> None:
    """Lecture 7.8: constant biases, random weights; equal weights would keep all units equal."""
    linear = hidden_layer(7, 5, activation).linear
    assert not linear.bias.any()
    assert len(linear.weight.unique()) == linear.weight.numel()


def test_equal_units_stay_equal() -> None:
    """Units that start with the same weights get the same gradient: why weights are random."""
    layer = hidden_layer(3, 4, "tanh")
    nn.init.constant_(layer.linear.weight, 0.3)
    layer(torch.randn(6, 3, generator=torch.Generator().manual_seed(0))).sum().backward()
    gradient = layer.linear.weight.grad
    assert torch.equal(gradient, gradient[:1].expand_as(gradient))


def test_unknown_activation_lists_what_exists() -> None:
    """The error has the name that was asked for and those that could have been, maxout too."""
    with pytest.raises(ValueError, match=r"activation 'rleu': expected one of identity, .*maxout"):
        hidden_layer(2, 3, "rleu")


@pytest.mark.parametrize(("inputs", "units"), [(0, 3), (3, 0)])
def test_dense_layer_refuses_sizes_below_one(inputs: int, units: int) -> None:
    """The error names both sizes."""
    with pytest.raises(ValueError, match=f"at least 1, got {inputs} and {units}"):
        hidden_layer(inputs, units, "relu")
