"""The worked examples of lecture 3.1 and 3.2 (figures 11 to 16) and its formulas for shapes.

Where the lecture's text and figures differ, or one of them is wrong, the test holds the number that
follows from the equations and says which; the derivations are in docs/lectures/errata.md.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models.accounting import count_layers
from atril_models.convolution import output_side
from atril_models.layers import TrainableSubsampling

# Figure 11. The text's matrix has X[1,0] = 2; its own equations 3.2.2 and the figure have 1.
X = torch.tensor([[0.0, 1, 3, 5], [1, 4, 6, 8], [1, 2, 3, 4]])
V = torch.tensor([[1.0, 2], [2, 0]])
H = torch.tensor([[4.0, 15, 25], [11, 20, 28]])

# The first channel of Figure 14; its second is X and V of Figure 11.
X_14 = torch.tensor([[3.0, 2, 1, 1], [2, 0, 2, 3], [2, 1, 2, 1]])
V_14 = torch.tensor([[3.0, 1], [1, 0]])


def _correlate(
    x: Tensor, v: Tensor, *, padding: int = 0, stride: tuple[int, int] = (1, 1)
) -> Tensor:
    """PyTorch's `conv2d` of one map with one kernel; `padding` is that of one side."""
    return functional.conv2d(x[None, None], v[None, None], stride=stride, padding=padding)[0, 0]


def _sum_over_windows(x: Tensor, v: Tensor) -> Tensor:
    """Equation 3.2.1 with the window 0 … k - 1 of the lecture's example, one sum at a time."""
    rows, columns = (x.shape[axis] - v.shape[axis] + 1 for axis in (0, 1))
    return torch.stack(
        [
            torch.stack([(x[i : i + 2, j : j + 2] * v).sum() for j in range(columns)])
            for i in range(rows)
        ]
    )


def _convolve(f: Tensor, w: Tensor) -> Tensor:
    """Equation 3.1.4 for all (i, j) of which the sum has a term: the full convolution."""
    s = torch.zeros(f.shape[0] + w.shape[0] - 1, f.shape[1] + w.shape[1] - 1)
    for m, row in enumerate(f):
        for n, value in enumerate(row):
            s[m : m + w.shape[0], n : n + w.shape[1]] += value * w
    return s


def test_convolution_commutes() -> None:
    """Equation 3.1.3: f * w = w * f, for tensors of two dimensions too."""
    assert torch.equal(_convolve(X, V), _convolve(V, X))


def test_convolution_is_cross_correlation_with_the_flipped_kernel() -> None:
    """Equation 3.1.4 is PyTorch's `conv2d`, which is 3.1.5, with the kernel turned by 180°."""
    assert torch.equal(_convolve(X, V), _correlate(X, V.flip(0, 1), padding=1))


def test_cross_correlation_of_figure_11_is_not_its_convolution() -> None:
    """Flipped, the kernel of Figure 11 gives 8, 20, 30, 12, 19, 26 where no padding is needed."""
    inside = _convolve(X, V)[1:-1, 1:-1]
    assert inside.tolist() == [[8, 20, 30], [12, 19, 26]]
    assert not torch.equal(inside, H)


def test_cross_correlation_sums_the_shifted_input() -> None:
    """Equation 3.1.5 put right: Σ f(i + m, j + n) w(m, n); as printed, f(i, j) leaves the sum."""
    s = sum(
        V[m, n] * X[m : m + 2, n : n + 3] for m in range(2) for n in range(2)
    )  # every (i, j) at once
    assert torch.equal(torch.as_tensor(s), H)


def test_figure_11_and_equation_3_2_2() -> None:
    """4, 15, 25, 11, 20, 28: the sums of 3.2.2 and PyTorch's."""
    assert torch.equal(_correlate(X, V), H)
    assert torch.equal(_sum_over_windows(X, V), H)


def test_the_matrix_in_the_text_does_not_give_figure_11() -> None:
    """With X[1,0] = 2, as the text has it, H[0,0] would be 6 and H[1,0] 12."""
    text = X.clone()
    text[1, 0] = 2
    assert _correlate(text, V).tolist() == [[6, 15, 25], [12, 20, 28]]


def test_bias_shifts_every_output_alike() -> None:
    """Equation 3.2.1: U is one number, the same at all positions."""
    layer = nn.Conv2d(1, 1, 2)
    with torch.no_grad():
        layer.weight.copy_(V)
        layer.bias.fill_(10)
        assert torch.equal(layer(X[None])[0], H + 10)


def test_receptive_field_of_h_1_1() -> None:
    """Section 3.2: H[1,1] sees X[1,1], X[1,2], X[2,1] and X[2,2], and no other input."""
    x = X.clone().requires_grad_()
    ones = torch.ones(2, 2)  # V has a 0, which would hide X[2,2]
    _correlate(x, ones)[1, 1].backward()
    assert x.grad is not None
    assert x.grad.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_translating_the_input_translates_the_output() -> None:
    """Why U and V do not depend on (i, j): a picture moved down gives the same map moved down."""
    tall = functional.pad(X, (0, 0, 2, 2))
    moved = tall.roll(1, dims=0)
    assert torch.equal(_correlate(moved, V)[1:], _correlate(tall, V)[:-1])


def test_figure_12_padding() -> None:
    """A ring of zeros, p = 2 in all: 4×5 outputs; the first row is 0 0 2 6 10, not 0 0 3 6 10."""
    assert _correlate(X, V, padding=1).tolist() == [
        [0, 0, 2, 6, 10],
        [0, 4, 15, 25, 21],
        [2, 11, 20, 28, 16],
        [2, 5, 8, 11, 4],
    ]


def test_figure_13_stride() -> None:
    """Every third row and second column of Figure 12, with the 2 that is missing there."""
    strided = _correlate(X, V, padding=1, stride=(3, 2))
    assert strided.tolist() == [[0, 2, 10], [2, 8, 4]]
    assert torch.equal(strided, _correlate(X, V, padding=1)[::3, ::2])


def test_figure_14_two_input_channels() -> None:
    """Equation 3.2.6 sums over channels: H[1,1] is 3 + 20 = 23, not 40."""
    assert _correlate(X_14, V_14).tolist() == [[13, 7, 6], [8, 3, 11]]
    both = functional.conv2d(torch.stack((X_14, X))[None], torch.stack((V_14, V))[None])[0, 0]
    assert both.tolist() == [[17, 22, 31], [19, 23, 39]]
    assert torch.equal(both, _correlate(X_14, V_14) + H)


def test_figure_15_several_outputs() -> None:
    """Each output channel has kernels of its own: c_i · c_o · k_h · k_w weights, c_o biases."""
    layer = nn.Conv2d(2, 3, 2)
    with torch.no_grad():
        for scale in range(3):
            layer.weight[scale] = (scale + 1) * torch.stack((V_14, V))
        layer.bias.zero_()
        outputs = layer(torch.stack((X_14, X)))
    assert layer.weight.numel() == 2 * 3 * 2 * 2
    assert layer.bias.numel() == 3
    first = torch.tensor([[17.0, 22, 31], [19, 23, 39]])
    assert torch.equal(outputs, torch.stack((first, 2 * first, 3 * first)))


def test_figure_16_max_pooling() -> None:
    """max(0, 1, 1, 4) = 4 in the first window."""
    pooled = functional.max_pool2d(X[None], 2, stride=1)[0]
    assert pooled.tolist() == [[4, 6, 8], [4, 6, 8]]


def test_figure_16_average_pooling() -> None:
    """(0 + 1 + 1 + 4) / 4 = 1.5 in the first window."""
    pooled = functional.avg_pool2d(X[None], 2, stride=1)[0]
    assert pooled.tolist() == [[1.5, 3.5, 5.5], [2, 3.75, 5.25]]


def test_trained_pooling_of_section_3_2_3() -> None:
    """W·(0 + 1 + 1 + 4) + b before the activation: the sum, and two parameters a channel."""
    layer = TrainableSubsampling(1)
    with torch.no_grad():
        layer.weight.fill_(0.5)
        layer.bias.fill_(-1)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 2
    assert layer(X[None, None, :2, :2]).item() == 0.5 * 6 - 1


@pytest.mark.parametrize("rows", range(3, 9))
@pytest.mark.parametrize(
    ("kernel", "padding", "stride"), [(2, 0, 1), (3, 2, 1), (2, 2, 3), (3, 4, 2)]
)
def test_shape_formulas(rows: int, kernel: int, padding: int, stride: int) -> None:
    """Equations 3.2.3 to 3.2.5, in which `padding` counts the rows added on both sides."""
    one_side = padding // 2
    maps = _correlate(
        torch.zeros(rows, rows + 1), torch.zeros(kernel, kernel), padding=one_side,
        stride=(stride, stride),
    )  # fmt: skip
    expected = tuple((x - kernel + padding + stride) // stride for x in (rows, rows + 1))
    assert maps.shape == expected
    assert output_side(rows, kernel, stride=stride, padding=one_side) == expected[0]


def test_two_conventions_of_padding() -> None:
    """AlexNet's "p = 2" is a side's: by 3.2.5 its second convolution would give 25, not 27."""
    assert (27 - 5 + 2 + 1) // 1 == 25
    assert output_side(27, 5, padding=2) == 27


@pytest.mark.parametrize(("first", "second", "both"), [(3, 3, 5), (3, 5, 7), (2, 4, 5)])
def test_two_small_kernels_see_what_a_large_one_sees(first: int, second: int, both: int) -> None:
    """Equations 3.2.7 and 3.2.8: k = k1 + k2 - 1, in the shape and in the function."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    v1 = torch.randn(first, first, generator=generator, dtype=torch.float64)
    v2 = torch.randn(second, second, generator=generator, dtype=torch.float64)
    stacked = _correlate(_correlate(x, v1), v2)
    # Correlations in a row are one correlation, with the kernels' full convolution.
    kernel = _correlate(v1, v2.flip(0, 1), padding=second - 1)
    assert kernel.shape == (both, both)
    assert stacked.shape == (12 - both + 1,) * 2
    torch.testing.assert_close(_correlate(x, kernel), stacked)


def test_parameters_and_connections_of_a_convolution() -> None:
    """d·(c·k_h·k_w + 1), and so many for each output position; the lecture counts c biases."""
    layer = nn.Conv2d(6, 16, 5)
    (row,) = count_layers(layer, torch.zeros(1, 6, 14, 14))
    assert row.parameters == 16 * (6 * 25 + 1) == 2_416
    assert row.connections == 2_416 * 10 * 10
    assert 6 * 16 * (25 + 1) == 2_496  # section 3.2.4 as printed


def test_parameters_and_connections_of_a_pooling() -> None:
    """Section 3.2.4 put right: 2 parameters and k_h·k_w + 1 connections for each of d channels."""
    trained, plain = TrainableSubsampling(6), nn.MaxPool2d(2)
    (row,) = count_layers(trained, torch.zeros(1, 6, 28, 28))
    assert (row.parameters, row.connections) == (12, 6 * (4 + 1) * 14 * 14)
    (row,) = count_layers(plain, torch.zeros(1, 6, 28, 28))
    assert (row.parameters, row.connections) == (0, 6 * 4 * 14 * 14)
