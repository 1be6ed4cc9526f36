"""VGG against the paper's table."""

import pytest
import torch

from atril_models import LayerCount, count_layers, create_model
from atril_models.vgg import CONFIGURATIONS, VGG

FIRST_64, SECOND_64 = 1_792, 36_928
FIRST_128, SECOND_128 = 73_856, 147_584
FIRST_256, NEXT_256 = 295_168, 590_080
FIRST_512, NEXT_512 = 1_180_160, 2_359_808

CONVOLUTIONS = {
    "vgg11": [FIRST_64, FIRST_128, FIRST_256, NEXT_256, FIRST_512, *[NEXT_512] * 3],
    "vgg13": [
        FIRST_64, SECOND_64, FIRST_128, SECOND_128, FIRST_256, NEXT_256, FIRST_512, *[NEXT_512] * 3,
    ],
    "vgg16": [
        FIRST_64, SECOND_64, FIRST_128, SECOND_128, FIRST_256, *[NEXT_256] * 2, FIRST_512,
        *[NEXT_512] * 5,
    ],
    "vgg19": [
        FIRST_64, SECOND_64, FIRST_128, SECOND_128, FIRST_256, *[NEXT_256] * 3, FIRST_512,
        *[NEXT_512] * 7,
    ],
}  # fmt: skip


def _full_size_rows(name: str) -> tuple[LayerCount, ...]:
    with torch.device("meta"):
        network = create_model(name)
        return count_layers(network, *network.example_inputs())


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_layers_count_as_in_the_paper(name: str) -> None:
    """The parameters of every convolution and of the three dense layers, in order."""
    parameters = [row.parameters for row in _full_size_rows(name) if row.parameters]
    assert parameters == [*CONVOLUTIONS[name], 102_764_544, 16_781_312, 4_097_000]


@pytest.mark.parametrize(
    ("name", "parameters", "giga_multiply_adds"),
    [
        ("vgg11", 132_863_336, 7.61),
        ("vgg13", 133_047_848, 11.31),
        ("vgg16", 138_357_544, 15.47),
        ("vgg19", 143_667_240, 19.63),
    ],
)
def test_totals(name: str, parameters: int, giga_multiply_adds: float) -> None:
    """The paper's 133 to 144 million parameters, and the multiply-adds of a picture."""
    rows = _full_size_rows(name)
    assert sum(row.parameters for row in rows) == parameters
    multiply_adds = sum(row.multiply_adds for row in rows)
    assert multiply_adds / 1e9 == pytest.approx(giga_multiply_adds, abs=0.005)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_blocks_halve_the_picture(name: str) -> None:
    """Convolutions keep the size; after five poolings 512 maps of 7×7 are left."""
    pools = [r.output_shape for r in _full_size_rows(name) if r.kind == "MaxPool2d"]
    assert pools == [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]


@pytest.mark.parametrize(("letter", "layers"), [("A", 11), ("B", 13), ("D", 16), ("E", 19)])
def test_a_name_counts_the_layers_with_weights(letter: str, layers: int) -> None:
    """The number in VGG-11 is of convolutions and dense layers."""
    assert sum(CONFIGURATIONS[letter]) + 3 == layers


def test_memory_of_vgg_11() -> None:
    """531 MB in single precision, of which the first dense matrix alone has the lecture's 400."""
    rows = {row.name: row for row in _full_size_rows("vgg11")}
    assert 4 * sum(row.parameters for row in rows.values()) == 531_453_344
    assert 4 * rows["fc6"].multiply_adds == 411_041_792


def test_forward_follows_the_formula() -> None:
    """The network equals its layers written out one by one."""
    torch.manual_seed(0)
    net = VGG(CONFIGURATIONS["A"], classes=5, side=32, channels=1, width=0.0625).eval()
    image = torch.randn(2, 1, 32, 32)
    maps = image
    for name, layer in net.blocks.named_children():
        if name.startswith("conv"):
            maps = torch.conv2d(maps, layer.weight, layer.bias, padding=1).clamp(min=0)
        if name.startswith("pool"):
            maps = maps.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(-1, -2))
    features = maps.reshape(2, -1)
    features = (features @ net.fc6.weight.T + net.fc6.bias).clamp(min=0)
    features = (features @ net.fc7.weight.T + net.fc7.bias).clamp(min=0)
    logits = features @ net.fc8.weight.T + net.fc8.bias
    torch.testing.assert_close(net(image), logits)


@pytest.mark.parametrize("letter", CONFIGURATIONS)
def test_activations_neither_vanish_nor_explode_at_the_start(letter: str) -> None:
    """Freshly drawn, even nineteen layers give logits of the order of one: they can learn."""
    torch.manual_seed(0)
    net = VGG(CONFIGURATIONS[letter], classes=10, side=32, channels=1, width=0.25).eval()
    with torch.no_grad():
        logits = net(torch.randn(32, 1, 32, 32))
    assert 0.1 < float(logits.std()) < 10
