"""Layers of the 1998 networks that PyTorch does not have.

Dimensions: B batch, C input maps, M output maps, K kernel side, L links of a connection table,
H and W height and width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class TableConv2d(nn.Module):
    """Convolution in which each output map sees only the input maps that a table names.

    One K × K kernel is held for each link of the table, so the module has exactly L·K² + M
    parameters. `forward` lays the kernels into a dense weight whose other kernels are zero and
    convolves once: one kernel call while training, and an ordinary convolution with a constant
    weight after export.

    Source: LeCun et al. 1998, §II-B and Table I; lecture 3.2.6, layer C3.

    Args:
        in_maps: number of input maps, C.
        table: for each output map, the input maps it is connected to.
        kernel_size: side of the square kernel, K.

    Shape:
        input [B, C, H, W] float32; returns [B, M, H - K + 1, W - K + 1].

    Raises:
        ValueError: the table is empty, a row is empty, names an input map twice or one that does
            not exist.
    """

    def __init__(self, in_maps: int, table: Sequence[Sequence[int]], kernel_size: int) -> None:
        super().__init__()
        _check_table(in_maps, table)
        self.in_maps = in_maps
        self.out_maps = len(table)
        self.kernel_size = kernel_size
        links = [row * in_maps + column for row, maps in enumerate(table) for column in maps]
        self.weight = nn.Parameter(torch.empty(len(links), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(self.out_maps))
        # Which link fills each kernel of the dense weight seen as [M·C, K, K]; L stands for none.
        kernels = torch.full((self.out_maps * in_maps,), len(links))
        kernels[links] = torch.arange(len(links))
        self.register_buffer("kernels", kernels, persistent=False)
        self.kernels: Tensor
        self._reset(table)

    def _reset(self, table: Sequence[Sequence[int]]) -> None:
        """Uniform in ±1/√(fan-in of the output map), the bound that `nn.Conv2d` uses."""
        with torch.no_grad():
            link = 0
            for row, maps in enumerate(table):
                bound = (len(maps) * self.kernel_size**2) ** -0.5
                self.weight[link : link + len(maps)].uniform_(-bound, bound)
                self.bias[row].uniform_(-bound, bound)
                link += len(maps)

    def dense_weight(self) -> Tensor:
        """The weight of the equivalent ordinary convolution, [M, C, K, K]."""
        # A zero kernel after the last link, then one gather: exporters fold both into a constant,
        # which they do not do with a scatter.
        links_or_zero = functional.pad(self.weight, (0, 0, 0, 0, 0, 1))
        dense = links_or_zero.index_select(0, self.kernels)
        return dense.view(self.out_maps, self.in_maps, self.kernel_size, self.kernel_size)

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve with stride 1 and no padding."""
        return functional.conv2d(maps, self.dense_weight(), self.bias)


class TrainableSubsampling(nn.Module):
    """Sum of each non-overlapping window, times one weight, plus one bias, a pair for each map.

    The sum, not the mean: with weight 1/K² and bias 0, which is where training starts, the layer
    is average pooling. The activation that follows belongs to the network.

    Source: LeCun et al. 1998, §II-B; lecture 3.2.6, layers S2 and S4.

    Args:
        maps: number of maps, C; the layer has 2·C parameters.
        window: side of the square window and its stride, K.

    Shape:
        input [B, C, H, W] float32; returns [B, C, H // K, W // K].

    Raises:
        ValueError: maps < 1 or window < 1.
    """

    def __init__(self, maps: int, window: int = 2) -> None:
        super().__init__()
        if maps < 1 or window < 1:
            raise ValueError(f"maps and window must be at least 1, got {maps} and {window}")
        self.window = window
        self.weight = nn.Parameter(torch.full((maps,), 1 / window**2))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, maps: Tensor) -> Tensor:
        """Sum, scale and shift each window."""
        # The window's area goes into the weight, where it costs nothing once exported.
        scale = (self.weight * self.window**2)[:, None, None]
        return functional.avg_pool2d(maps, self.window) * scale + self.bias[:, None, None]


def _check_table(in_maps: int, table: Sequence[Sequence[int]]) -> None:
    if not table:
        raise ValueError("the connection table has no rows; it needs one for each output map")
    for row, maps in enumerate(table):
        if not maps or len(set(maps)) != len(maps) or not set(maps) <= set(range(in_maps)):
            raise ValueError(
                f"connection table, output map {row}: expected one or more different input maps "
                f"from 0 to {in_maps - 1}, got {list(maps)}"
            )
