"""LeNet-5 against the paper's and the lecture's numbers."""

import pytest
import torch

from atril_models import LayerCount, Network, count_layers, create_model
from atril_models.lenet import C3_CONNECTIONS, LeNet5

# Table I of LeCun et al. 1998, written down row by row: S2 maps down, C3 maps across.
TABLE_1 = """
    X . . . X X X . . X X X X . X X
    X X . . . X X X . . X X X X . X
    X X X . . . X X X . . X . X X X
    . X X X . . X X X X . . X . X X
    . . X X X . . X X X X . X X . X
    . . . X X X . . X X X X . X X X
"""


def _rows(network: Network) -> tuple[LayerCount, ...]:
    return count_layers(network, *network.example_inputs())


def _column_of_table_1(column: int) -> tuple[int, ...]:
    rows = [line.split() for line in TABLE_1.strip().splitlines()]
    return tuple(row for row, marks in enumerate(rows) if marks[column] == "X")


@pytest.mark.parametrize("column", range(16))
def test_c3_map_is_connected_as_in_table_1_of_the_paper(column: int) -> None:
    """Each C3 map sees the S2 maps that the paper marks; a count alone would not show a slip."""
    assert C3_CONNECTIONS[column] == _column_of_table_1(column)


def test_c3_table_is_balanced() -> None:
    """60 links: six maps of 3, nine of 4, one of 6; every S2 map is used ten times."""
    assert [len(maps) for maps in C3_CONNECTIONS] == [3] * 6 + [4] * 9 + [6]
    used = [sum(source in maps for maps in C3_CONNECTIONS) for source in range(6)]
    assert used == [10] * 6


def test_layers_count_as_in_the_lecture() -> None:
    """Shape, neurons, parameters and connections of every layer are those of section 3.2.6."""
    rows = _rows(create_model("lenet5"))
    counts = [(r.name, r.output_shape, r.neurons, r.parameters, r.connections) for r in rows]
    assert counts == [
        ("c1", (6, 28, 28), 4704, 156, 122304),
        ("s2", (6, 14, 14), 1176, 12, 5880),
        ("c3", (16, 10, 10), 1600, 1516, 151600),
        ("s4", (16, 5, 5), 400, 32, 2000),
        ("c5", (120, 1, 1), 120, 48120, 48120),
        ("f6", (84,), 84, 10164, 10164),
        ("output", (10,), 10, 850, 850),
    ]


def test_parameters_before_the_output_are_the_papers_60000() -> None:
    """The paper's 60,000 trainable parameters, and 340,908 connections with its 840 fixed codes."""
    rows = _rows(create_model("lenet5"))[:-1]
    assert sum(row.parameters for row in rows) == 60_000
    assert sum(row.connections for row in rows) + 840 == 340_908


@pytest.mark.parametrize(("name", "expected"), [("lenet5", 60_850), ("lenet5-modern", 61_706)])
def test_parameters_add_up(name: str, expected: int) -> None:
    """`p.numel()` over all parameters gives the total of the layer table."""
    model = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert sum(row.parameters for row in _rows(model)) == expected


def test_modern_variant_has_a_dense_c3_and_pools_without_parameters() -> None:
    """2,416 parameters in C3, none in S2 and S4."""
    rows = {row.name: row.parameters for row in _rows(LeNet5(simplified=True))}
    assert (rows["s2"], rows["c3"], rows["s4"]) == (0, 2416, 0)


def test_forward_follows_the_formula_of_the_lecture() -> None:
    """The network equals conv, tanh, w·sum + b, tanh … written out layer by layer."""
    torch.manual_seed(0)
    net = LeNet5().eval()
    image = torch.randn(2, 1, 32, 32)

    def subsample(layer: torch.nn.Module, maps: torch.Tensor) -> torch.Tensor:
        summed = maps.unfold(2, 2, 2).unfold(3, 2, 2).sum(dim=(-1, -2))
        return summed * layer.weight[:, None, None] + layer.bias[:, None, None]

    maps = torch.tanh(net.c1(image))
    maps = torch.tanh(subsample(net.s2, maps))
    maps = torch.tanh(net.c3(maps))
    maps = torch.tanh(subsample(net.s4, maps)).reshape(2, 400)
    features = torch.tanh(maps @ net.c5.weight.reshape(120, 400).T + net.c5.bias)
    features = torch.tanh(features @ net.f6.weight.T + net.f6.bias)
    logits = features @ net.output.weight.T + net.output.bias

    torch.testing.assert_close(net(image), logits)


def test_fewer_than_two_classes_are_refused() -> None:
    """The error says how many were asked for."""
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        LeNet5(classes=1)
