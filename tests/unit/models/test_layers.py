"""Layers of 1998, against sums done by hand and against ordinary convolutions."""

import pytest
import torch
from torch.nn import functional

from atril_models.layers import TableConv2d, TrainableSubsampling


def test_subsampling_gives_weight_times_sum_plus_bias() -> None:
    """Each output is w·(a + b + c + d) + bias of its map: the sum of the window, not its mean."""
    layer = TrainableSubsampling(2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0]))
        layer.bias.copy_(torch.tensor([1.0, 3.0]))
    maps = torch.tensor(
        [[[[1.0, 2, 3, 4], [5, 6, 7, 8]], [[1.0, 0, 0, 0], [0, 0, 0, 10]]]]
    )  # [1, 2, 2, 4]

    pooled = layer(maps)

    # 0.5·(1+2+5+6)+1 = 8, 0.5·(3+4+7+8)+1 = 12; -2·1+3 = 1, -2·10+3 = -17
    assert pooled.tolist() == [[[[8.0, 12.0]], [[1.0, -17.0]]]]


def test_subsampling_starts_as_average_pooling() -> None:
    """With the weights it is built with, the layer is plain average pooling."""
    maps = torch.randn(3, 6, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(TrainableSubsampling(6)(maps), functional.avg_pool2d(maps, 2))


@pytest.mark.parametrize(("maps", "window"), [(0, 2), (6, 0)])
def test_subsampling_refuses_sizes_below_one(maps: int, window: int) -> None:
    """The error names both sizes that were given."""
    with pytest.raises(ValueError, match=f"at least 1, got {maps} and {window}"):
        TrainableSubsampling(maps, window)


def test_output_map_sees_only_the_maps_of_its_row() -> None:
    """Changing an input map changes exactly the output maps that the table connects to it."""
    table = ((0, 2), (1,), (0, 1, 2))
    layer = TableConv2d(3, table, 3)
    maps = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    before = layer(maps)
    for changed in range(3):
        other = maps.clone()
        other[:, changed] += 1
        moved = (layer(other) != before).any(dim=(0, 2, 3)).tolist()
        assert moved == [changed in row for row in table]


def test_table_convolution_is_a_sum_of_single_map_convolutions() -> None:
    """Output map = bias + sum over its links of the input map convolved with the link's kernel."""
    table = ((2, 0), (1,))
    layer = TableConv2d(3, table, 3)
    maps = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    link = 0
    for row, connected in enumerate(table):
        expected = layer.bias[row].expand(2, 4, 4)
        for source in connected:
            kernel = layer.weight[link][None, None]
            expected = expected + functional.conv2d(maps[:, source : source + 1], kernel)[:, 0]
            link += 1
        torch.testing.assert_close(layer(maps)[:, row], expected)


def test_only_connected_kernels_are_parameters_and_all_learn() -> None:
    """A 2-link table of 3 × 3 kernels has 2·9 + 2 parameters, and each gets a gradient."""
    layer = TableConv2d(2, ((0,), (1,)), 3)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 2 * 9 + 2
    layer(torch.ones(1, 2, 4, 4)).sum().backward()
    assert all(bool((parameter.grad != 0).all()) for parameter in layer.parameters())


def test_state_holds_only_what_is_learnt() -> None:
    """The layout of the table is code, not state: a checkpoint has weight and bias alone."""
    assert set(TableConv2d(2, ((0,), (1,)), 3).state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((), "no rows"),
        (((0,), ()), r"output map 1: expected .* from 0 to 2, got \[\]"),
        (((0, 0),), r"output map 0: expected one or more different .* got \[0, 0\]"),
        (((0, 3),), r"output map 0: .* got \[0, 3\]"),
        (((-1,),), r"output map 0: .* got \[-1\]"),
    ],
    ids=["no rows", "empty row", "twice", "too high", "negative"],
)
def test_impossible_tables_are_refused(table: tuple[tuple[int, ...], ...], message: str) -> None:
    """The error names the row, what it holds and what is allowed."""
    with pytest.raises(ValueError, match=message):
        TableConv2d(3, table, 5)
