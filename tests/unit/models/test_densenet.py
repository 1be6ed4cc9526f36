"""DenseNet-121 against the published numbers."""

import pytest
import torch

from atril_models import LayerCount, count_layers, create_model
from atril_models.densenet import BLOCKS, GROWTH, DenseLayer, Transition


def _full_size_rows() -> tuple[LayerCount, ...]:
    with torch.device("meta"):
        network = create_model("densenet121")
        return count_layers(network, *network.example_inputs())


def test_total() -> None:
    """7,978,856 parameters and 2.83 G multiply-adds in the convolutions and the dense layer."""
    rows = _full_size_rows()
    assert sum(row.parameters for row in rows) == 7_978_856
    multiply_adds = sum(r.multiply_adds for r in rows if r.kind in ("Conv2d", "Linear"))
    assert multiply_adds / 1e9 == pytest.approx(2.83, abs=0.005)


def test_every_layer_counts_as_its_formula() -> None:
    """Parameters of each dense layer and transition, from the paper's table by hand arithmetic."""
    expected: list[int] = []
    maps = 64
    for block, layers in enumerate(BLOCKS):
        for _layer in range(layers):
            expected.append(2 * maps + maps * 4 * GROWTH + 2 * 4 * GROWTH + 9 * 4 * GROWTH * GROWTH)
            maps += GROWTH
        if block < len(BLOCKS) - 1:
            expected.append(2 * maps + maps * maps // 2)
            maps //= 2
    counted: dict[str, int] = {}
    for row in _full_size_rows():
        if row.name.startswith("blocks."):
            name = row.name.split(".")[1]
            counted[name] = counted.get(name, 0) + row.parameters
    assert list(counted.values()) == expected
    assert maps == 1024


def test_121_layers_have_weights_besides_the_norms() -> None:
    """120 convolutions and the dense layer."""
    kinds = [row.kind for row in _full_size_rows()]
    assert (kinds.count("Conv2d"), kinds.count("Linear")) == (120, 1)


def test_transitions_halve_maps_and_sides() -> None:
    """128 maps of 28×28, 256 of 14×14 and 512 of 7×7 go on to the next block."""
    pools = [
        r.output_shape for r in _full_size_rows() if "transition" in r.name and "pool" in r.name
    ]
    assert pools == [(128, 28, 28), (256, 14, 14), (512, 7, 7)]


def test_a_dense_layer_keeps_what_came_in() -> None:
    """The maps of all layers before stay as they are, in front of the new ones."""
    torch.manual_seed(0)
    layer = DenseLayer(6, 4).eval()
    maps = torch.randn(2, 6, 5, 5)
    outputs = layer(maps)
    assert outputs.shape == (2, 10, 5, 5)
    assert torch.equal(outputs[:, :6], maps)


def test_the_normalisation_comes_before_the_convolution() -> None:
    """Norm, ReLU, convolution: where all maps are negative after the norm, nothing is added."""
    layer = DenseLayer(6, 4).eval()
    torch.nn.init.constant_(layer.norm1.bias, -100.0)
    maps = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    assert not layer(maps)[:, 6:].any()


def test_a_transition_averages_windows() -> None:
    """The 2×2 mean of the 1×1 convolution's maps, whose number is half."""
    torch.manual_seed(0)
    layer = Transition(6).eval()
    maps = torch.randn(2, 6, 4, 4)
    mixed = torch.conv2d(layer.norm(maps).clamp(min=0), layer.conv.weight)
    expected = mixed.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-1, -2))
    torch.testing.assert_close(layer(maps), expected)
