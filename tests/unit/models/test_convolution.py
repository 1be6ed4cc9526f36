"""What convolutional networks share, against PyTorch's own layers and the papers' formulas."""

import math

import pytest
import torch
from torch import nn

from atril_models.convolution import (
    ResponseNorm,
    halved,
    initialise_he,
    output_side,
    scaled,
    smallest_side,
)


@pytest.mark.parametrize("side", range(12, 29))
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(11, 4, 0), (5, 1, 2), (3, 2, 0), (7, 2, 3), (2, 3, 1)]
)
def test_output_side_is_what_a_convolution_leaves(
    side: int, kernel: int, stride: int, padding: int
) -> None:
    """Equation 3.2.5 with p = 2·padding gives the sides of PyTorch's convolutions."""
    layer = nn.Conv2d(1, 1, kernel, stride=stride, padding=padding)
    with torch.device("meta"):
        maps = layer.to("meta")(torch.zeros(1, 1, side, side))
    assert output_side(side, kernel, stride=stride, padding=padding) == maps.shape[-1]


@pytest.mark.parametrize("side", range(2, 17))
def test_output_side_rounds_up_as_pooling_with_ceil(side: int) -> None:
    """With `ceil` the last window may reach over the edge, as in PyTorch's `ceil_mode`."""
    pooled = nn.MaxPool2d(3, stride=2, ceil_mode=True)(torch.zeros(1, 1, side, side))
    assert output_side(side, 3, stride=2, ceil=True) == pooled.shape[-1]


@pytest.mark.parametrize(("kernel", "stride"), [(11, 4), (3, 2), (3, 1)])
def test_output_side_is_below_one_where_no_window_fits(kernel: int, stride: int) -> None:
    """No picture smaller than the window leaves a map."""
    assert all(output_side(side, kernel, stride=stride) < 1 for side in range(kernel))


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_halved_is_a_padded_convolution_of_stride_two(kernel: int) -> None:
    """⌈side / 2⌉ whatever the odd window, and nothing of what cannot be halved."""
    sides = range(2, 20)
    expected = [output_side(s, kernel, stride=2, padding=kernel // 2) for s in sides]
    assert [halved(side) for side in sides] == expected
    assert (halved(1), halved(0)) == (0, 0)


def test_smallest_side_leaves_one_element() -> None:
    """The smallest picture for two halvings after a 5×5 window is 8×8: 4, 2, 1."""
    assert smallest_side(lambda side: output_side(side, 5) // 4) == 8


@pytest.mark.parametrize(
    ("maps", "width", "multiple", "expected"),
    [
        (96, 1.0, 1, 96),
        (96, 0.25, 1, 24),
        (10, 0.25, 1, 3),
        (9, 0.5, 1, 5),
        (96, 0.01, 1, 1),
        (384, 0.13, 2, 50),
        (96, 0.001, 2, 2),
        (64, 1.5, 32, 96),
    ],
)
def test_scaled_rounds_to_the_nearest_multiple(
    maps: int, width: float, multiple: int, expected: int
) -> None:
    """Halves go up, nothing falls below one multiple, and a width of 1 changes nothing."""
    assert scaled(maps, width, multiple) == expected


def test_response_norm_follows_the_formula_of_the_paper() -> None:
    """b_i = a_i / (2 + 10⁻⁴ · Σ a_j²)^0.75 with the sum, not the mean, of maps i - 2 … i + 2."""
    maps = 100 * torch.randn(2, 7, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.empty_like(maps)
    for i in range(7):
        energy = (maps[:, max(0, i - 2) : i + 3] ** 2).sum(dim=1)
        expected[:, i] = maps[:, i] / (2 + 1e-4 * energy) ** 0.75
    torch.testing.assert_close(ResponseNorm()(maps), expected)


def _relu_layers(depth: int, units: int) -> nn.Sequential:
    pairs = [(nn.Linear(units, units), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


def test_he_weights_keep_the_activations_through_twenty_layers() -> None:
    """The mean square after 20 ReLU layers is 0.5 to 2 of the input's; PyTorch's start loses it."""
    torch.manual_seed(0)
    inputs = torch.randn(256, 512)
    network = _relu_layers(depth=20, units=512)
    with torch.no_grad():
        assert float(network(inputs).square().mean()) < 1e-3
        initialise_he(network)
        # Half of the units are silent, and the others hold twice the variance of a linear layer's.
        assert 0.5 < float(network(inputs).square().mean()) < 2


def test_he_weights_have_the_variance_of_their_fan_in() -> None:
    """2 / fan-in, 1 / fan-in for the layers of logits, per group of a grouped one; biases 0."""
    torch.manual_seed(0)
    grouped, logits = nn.Conv2d(64, 256, 3, groups=4), nn.Linear(400, 500)
    initialise_he(nn.Sequential(grouped, logits), logits)
    assert float(grouped.weight.detach().std()) == pytest.approx(math.sqrt(2 / (16 * 9)), rel=0.02)
    assert float(logits.weight.detach().std()) == pytest.approx(math.sqrt(1 / 400), rel=0.02)
    assert not grouped.bias.any()
    assert not logits.bias.any()
