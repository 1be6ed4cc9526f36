"""Network in Network against the published forms."""

import pytest
import torch

from atril_models import LayerCount, count_layers, create_model
from atril_models.nin import CIFAR10, LECTURE, NiN

PARAMETERS = {
    "nin": [
        34_944, 9_312, 9_312, 614_656, 65_792, 65_792, 885_120, 147_840, 147_840, 34_570, 110, 110,
    ],
    "nin-cifar10": [14_592, 30_880, 15_456, 460_992, 37_056, 37_056, 331_968, 37_056, 1_930],
    "nin-imagenet": [
        34_944, 9_312, 9_312, 614_656, 65_792, 65_792, 885_120, 147_840, 147_840, 3_539_968,
        1_049_600, 1_025_000,
    ],
}  # fmt: skip


def _full_size_rows(name: str, **options: int) -> tuple[LayerCount, ...]:
    with torch.device("meta"):
        network = create_model(name, **options)
        return count_layers(network, *network.example_inputs())


@pytest.mark.parametrize("name", PARAMETERS)
def test_layers_count_as_published(name: str) -> None:
    """The parameters of every convolution in order."""
    parameters = [row.parameters for row in _full_size_rows(name) if row.parameters]
    assert parameters == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("nin", {}, 2_015_398),
        ("nin", {"channels": 1}, 1_992_166),
        ("nin-cifar10", {}, 966_986),
        ("nin-imagenet", {}, 7_595_176),
    ],
)
def test_totals(name: str, options: dict[str, int], parameters: int) -> None:
    """The lecture's network on colour and on grey pictures, and the paper's two."""
    assert sum(row.parameters for row in _full_size_rows(name, **options)) == parameters


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("nin", [55, 27, 27, 13, 13, 6, 6, 1]),
        ("nin-cifar10", [32, 16, 16, 8, 8, 1]),
        ("nin-imagenet", [55, 27, 27, 13, 13, 6, 6, 1]),
    ],
)
def test_sides_of_the_maps(name: str, sides: list[int]) -> None:
    """The stem's maps, then each pooling's and each block's, down to one position."""
    rows = _full_size_rows(name)
    kept = [r for r in rows if "mlp" not in r.name]
    assert [row.output_shape[-1] for row in kept] == sides


def test_a_1x1_convolution_is_a_dense_layer_at_every_position() -> None:
    """Section 3.2.8: one matrix, shared by all positions, mixes the maps of each."""
    torch.manual_seed(0)
    layer = NiN(LECTURE, classes=5, side=67, width=0.125).blocks.block1.mlp1
    maps = torch.randn(2, layer.in_channels, 4, 4)
    dense = torch.nn.functional.linear(
        maps.movedim(1, -1), layer.weight[:, :, 0, 0], layer.bias
    ).movedim(-1, 1)
    torch.testing.assert_close(layer(maps), dense)


def test_logits_are_the_means_of_one_map_a_class() -> None:
    """No dense layer: the last block's maps, averaged over all positions."""
    torch.manual_seed(0)
    net = NiN(CIFAR10, classes=7, side=16, width=0.125, stem_stride=1).eval()
    image = torch.randn(2, 3, 16, 16)
    maps = net.blocks(image)
    assert maps.shape == (2, 7, 4, 4)
    torch.testing.assert_close(net(image), maps.mean(dim=(2, 3)))


def test_dropout_stands_between_blocks() -> None:
    """After the last pooling alone in the lecture's form, after both in the paper's."""
    lecture = NiN(LECTURE, classes=5, side=67, width=0.125).blocks
    paper = NiN(CIFAR10, classes=5, side=32, width=0.125, stem_stride=1).blocks
    assert [name for name, _ in lecture.named_children() if "dropout" in name] == ["dropout3"]
    assert [name for name, _ in paper.named_children()] == [
        "block1", "pool1", "dropout1", "block2", "pool2", "dropout2", "block3",
    ]  # fmt: skip


def test_stride_below_one_is_refused() -> None:
    """The error names the option."""
    with pytest.raises(ValueError, match="stem_stride must be at least 1, got 0"):
        NiN(LECTURE, classes=5, side=67, stem_stride=0)
