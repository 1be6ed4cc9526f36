"""Blocks that add to their input what they compute from it.

Dimensions: B batch, H and W height and width, s stride.
"""

import torch
from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """A convolution without bias, padded to keep the size at stride 1, and batch normalisation."""

    def __init__(
        self, inputs: int, maps: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, maps, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(maps)


class _Residual(nn.Module):
    """ReLU(x + F(x)); the sum is of P(x) = 1×1 convolution of x where F changes the shape.

    The scale of F's last normalisation starts at 0, and with it F, so that a network of any depth
    starts as its shortcuts alone (Goyal et al. 2017, arXiv:1706.02677, §5.1).
    """

    def __init__(self, *layers: ConvNorm, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        nn.init.zeros_(layers[-1].norm.weight)
        self.branch = nn.Sequential()
        for number, layer in enumerate(layers, start=1):
            if number > 1:
                self.branch.add_module(f"relu{number - 1}", nn.ReLU())
            self.branch.add_module(f"conv{number}", layer)
        same_shape = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same_shape else ConvNorm(inputs, outputs, 1, stride=stride)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(self.shortcut(maps) + self.branch(maps))


class BasicBlock(_Residual):
    """Two 3×3 convolutions, the first with the stride.

    Source: He, Zhang, Ren & Sun 2016 (arXiv:1512.03385), Figure 5 left.

    Shape:
        maps [B, inputs, H, W]; returns [B, maps, ⌈H / s⌉, ⌈W / s⌉].
    """

    def __init__(self, inputs: int, maps: int, *, stride: int = 1) -> None:
        super().__init__(
            ConvNorm(inputs, maps, 3, stride=stride),
            ConvNorm(maps, maps, 3),
            inputs=inputs,
            outputs=maps,
            stride=stride,
        )


class Bottleneck(_Residual):
    """1×1 to `inner` maps, 3×3 in groups with the stride, 1×1 to `outputs` maps.

    The stride is the 3×3 convolution's, as in most libraries since 2017 and in RegNet; the first
    ResNet had it in the first 1×1, which leaves three of four inputs unseen.

    Source: He, Zhang, Ren & Sun 2016 (arXiv:1512.03385), Figure 5 right; the groups: Xie, Girshick,
    Dollár, Tu & He 2017 (arXiv:1611.05431), Figure 3(c).

    Args:
        inputs: maps that come in.
        inner: maps of the first two convolutions, a multiple of `groups`.
        outputs: maps that go out.
        stride: s.
        groups: into which the 3×3 convolution is divided.

    Shape:
        maps [B, inputs, H, W]; returns [B, outputs, ⌈H / s⌉, ⌈W / s⌉].
    """

    def __init__(
        self, inputs: int, inner: int, outputs: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            ConvNorm(inputs, inner, 1),
            ConvNorm(inner, inner, 3, stride=stride, groups=groups),
            ConvNorm(inner, outputs, 1),
            inputs=inputs,
            outputs=outputs,
            stride=stride,
        )
