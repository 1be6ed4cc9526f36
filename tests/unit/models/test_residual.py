"""Residual blocks against their formula."""

import pytest
import torch
from torch import nn

from atril_models.residual import BasicBlock, Bottleneck


def _norm(layer: nn.BatchNorm2d, maps: torch.Tensor) -> torch.Tensor:
    """Batch normalisation in eval mode, written out."""
    scale = layer.weight / (layer.running_var + layer.eps).sqrt()
    shift = layer.bias - scale * layer.running_mean
    return maps * scale[:, None, None] + shift[:, None, None]


def _randomise_statistics(block: nn.Module) -> None:
    for layer in block.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)


@pytest.mark.parametrize("stride", [1, 2])
def test_basic_block_adds_two_convolutions_to_its_input(stride: int) -> None:
    """ReLU(P(x) + norm(conv(ReLU(norm(conv(x)))))), P a 1×1 convolution where shapes differ."""
    torch.manual_seed(0)
    block = BasicBlock(4, 4 * stride, stride=stride).eval()
    _randomise_statistics(block)
    x = torch.randn(2, 4, 9, 9)
    first, second = block.branch.conv1, block.branch.conv2
    inner = torch.conv2d(x, first.conv.weight, stride=stride, padding=1)
    inner = _norm(first.norm, inner).clamp(min=0)
    inner = _norm(second.norm, torch.conv2d(inner, second.conv.weight, padding=1))
    shortcut = x
    if stride == 2:
        projected = torch.conv2d(x, block.shortcut.conv.weight, stride=2)
        shortcut = _norm(block.shortcut.norm, projected)
    torch.testing.assert_close(block(x), (shortcut + inner).clamp(min=0))


def test_a_block_whose_branch_is_zero_passes_its_input_on() -> None:
    """With the last normalisation's scale and shift at 0 the block is ReLU(x)."""
    block = Bottleneck(8, 4, 8).eval()
    nn.init.zeros_(block.branch.conv3.norm.weight)
    nn.init.zeros_(block.branch.conv3.norm.bias)
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x.clamp(min=0))


def test_grouped_bottleneck_is_a_sum_of_transformations() -> None:
    """Figure 3 of the ResNeXt paper: x + Σ T_i(x), each T_i with its own 1×1, 3×3 and 1×1."""
    torch.manual_seed(0)
    block = Bottleneck(8, 12, 8, groups=3).eval()
    nn.init.ones_(block.branch.conv3.norm.weight)
    x = torch.randn(2, 8, 5, 5)
    conv1, conv2, conv3 = (getattr(block.branch, f"conv{i}") for i in (1, 2, 3))
    eps = conv1.norm.eps  # with a scale of 1, the normalisations only divide by √(1 + ε)
    total = x * (1 + eps) ** 0.5
    for group in range(3):
        maps = slice(4 * group, 4 * group + 4)
        path = torch.conv2d(x, conv1.conv.weight[maps]).clamp(min=0) / (1 + eps) ** 0.5
        path = torch.conv2d(path, conv2.conv.weight[maps], padding=1).clamp(min=0)
        total = total + torch.conv2d(path / (1 + eps) ** 0.5, conv3.conv.weight[:, maps])
    torch.testing.assert_close(block(x), total.clamp(min=0) / (1 + eps) ** 0.5)


@pytest.mark.parametrize(("side", "expected"), [(8, 4), (9, 5), (2, 1)])
def test_a_stride_of_two_halves_the_side_rounding_up(side: int, expected: int) -> None:
    """⌈side / 2⌉ in the branch and in the shortcut alike."""
    block = Bottleneck(4, 2, 6, stride=2)
    assert block(torch.zeros(2, 4, side, side)).shape == (2, 6, expected, expected)


def test_every_input_reaches_a_strided_bottleneck() -> None:
    """The stride is the 3×3 convolution's: no input is skipped, as by a strided 1×1."""
    torch.manual_seed(0)
    block = Bottleneck(4, 8, 6, stride=2).eval()
    nn.init.ones_(block.branch.conv3.norm.weight)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    block.branch(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum(dim=1) > 0).all())
