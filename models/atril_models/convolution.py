"""What the convolutional networks share: window arithmetic, widths, initial weights, LRN."""

import math
from collections.abc import Callable
from itertools import count

from torch import Tensor, nn
from torch.nn import functional

_NORM_MAPS = 5
_NORM_BIAS = 2.0
_NORM_SCALE = 1e-4
_NORM_EXPONENT = 0.75


def output_side(
    side: int, kernel: int, *, stride: int = 1, padding: int = 0, ceil: bool = False
) -> int:
    """Side of the map that a square window leaves of a square one; below 1 where none fits.

    Source: lecture equation 3.2.5, ⌊(x - k + p + s) / s⌋. There p counts all rows that padding
    adds; `padding` counts those of one side, as sections 3.2.7 and 3.2.8 and PyTorch do, so that
    p = 2·padding.

    Args:
        side: of the input.
        kernel: side of the window.
        stride: from one window to the next.
        padding: rows added on each side.
        ceil: round up, so that the last window may reach over the edge; pooling only.
    """
    reach = side + 2 * padding - kernel
    return (-(-reach // stride) if ceil else reach // stride) + 1


def halved(side: int) -> int:
    """Side of the map that a padded window of odd side leaves at stride 2.

    0 where there is nothing left to halve, a side below 2.
    """
    return (side + 1) // 2 if side >= 2 else 0


def smallest_side(map_side: Callable[[int], int]) -> int:
    """The smallest picture of which a network's last map still has one element."""
    return next(side for side in count(1) if map_side(side) >= 1)


def scaled(maps: int, width: float, multiple: int = 1) -> int:
    """`maps` times `width`, rounded to the nearest multiple (halves up) and at least one.

    Args:
        maps: of the published form; a multiple of `multiple`, so that a width of 1 changes nothing.
        width: positive factor.
        multiple: what the result is divisible by, such as the groups of a convolution.
    """
    return multiple * max(1, math.floor(maps * width / multiple + 0.5))


class ResponseNorm(nn.Module):
    """Local response normalisation with AlexNet's constants.

    b_i = a_i / (2 + 10⁻⁴ · Σ_j a_j²)^0.75, the sum over the 5 maps around map i.

    PyTorch's own layer takes the mean of the five squares where the paper takes their sum, and has
    no deterministic gradient on a GPU.

    Source: Krizhevsky, Sutskever & Hinton 2012, §3.3.

    Shape:
        maps [B, C, H, W]; returns the same.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Divide each map by the energy around it."""
        squares = maps.square().flatten(2).unsqueeze(1)  # [B, 1, C, H·W]
        means = functional.avg_pool2d(
            squares, (_NORM_MAPS, 1), stride=1, padding=(_NORM_MAPS // 2, 0)
        )
        energy = (_NORM_MAPS * means).view_as(maps)
        return maps / (_NORM_BIAS + _NORM_SCALE * energy) ** _NORM_EXPONENT


def initialise_he(network: nn.Module, *outputs: nn.Module) -> None:
    """Draw weights that keep the size of the activations through any number of ReLU layers.

    Normal with variance 2 / fan-in, or 1 / fan-in where no ReLU follows; biases 0.
    Layers of other kinds, such as normalisations, stay as they are.

    Source: He, Zhang, Ren & Sun 2015 (arXiv:1502.01852), §2.2.

    Args:
        network: the whole of it.
        outputs: its layers that no ReLU follows, those of logits.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            linear = any(layer is output for output in outputs)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if linear else "relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
