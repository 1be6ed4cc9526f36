"""ResNet and ResNeXt against the published numbers."""

from collections import Counter

import pytest
import torch

from atril_models import LayerCount, count_layers, create_model
from atril_models.resnet import RESNET50, RESNEXT50, ResNet


def _full_size_rows(name: str) -> tuple[LayerCount, ...]:
    with torch.device("meta"):
        network = create_model(name)
        return count_layers(network, *network.example_inputs())


def _basic_block(inputs: int, maps: int) -> int:
    """Parameters: two 3×3, a 1×1 where the maps change; two numbers a map for each norm."""
    projection = (inputs + 2) * maps if inputs != maps else 0
    return (9 * inputs + 2) * maps + (9 * maps + 2) * maps + projection


def _bottleneck(inputs: int, inner: int, outputs: int, group: int) -> int:
    projection = (inputs + 2) * outputs if inputs != outputs else 0
    return (inputs + 2 + 9 * group + 2) * inner + (inner + 2) * outputs + projection


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50"])
def test_every_block_counts_as_its_formula(name: str) -> None:
    """Parameters of each residual block, from the paper's table by hand arithmetic."""
    expected: list[int] = []
    inputs = 64
    blocks = (2, 2, 2, 2) if name == "resnet18" else (3, 4, 6, 3)
    for stage, count in enumerate(blocks):
        maps = 64 * 2**stage
        inner, group = (2 * maps, 4 * 2**stage) if name == "resnext50" else (maps, maps)
        for _block in range(count):
            if name == "resnet18":
                expected.append(_basic_block(inputs, maps))
                inputs = maps
            else:
                expected.append(_bottleneck(inputs, inner, 4 * maps, group))
                inputs = 4 * maps
    counted: Counter[str] = Counter()
    for row in _full_size_rows(name):
        if row.name.startswith("stages."):
            counted[row.name.split(".")[1]] += row.parameters
    assert list(counted.values()) == expected


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", [147_968, 525_568, 2_099_712, 8_393_728]),
        ("resnet50", [215_808, 1_219_584, 7_098_368, 14_964_736]),
    ],
)
def test_stages_count_as_in_torchvision(name: str, stages: list[int]) -> None:
    """Parameters of `layer1` to `layer4` of the library that most weights are published for."""
    counted = [0, 0, 0, 0]
    for row in _full_size_rows(name):
        if row.name.startswith("stages.stage"):
            counted[int(row.name.removeprefix("stages.stage")[0]) - 1] += row.parameters
    assert counted == stages


@pytest.mark.parametrize(
    ("name", "parameters", "giga_multiply_adds"),
    [
        ("resnet18", 11_689_512, 1.81),
        ("resnet50", 25_557_032, 4.09),
        ("resnext50", 25_028_904, 4.23),
    ],
)
def test_totals(name: str, parameters: int, giga_multiply_adds: float) -> None:
    """Parameters, and the multiply-adds of the convolutions and the dense layer."""
    rows = _full_size_rows(name)
    assert sum(row.parameters for row in rows) == parameters
    multiply_adds = sum(r.multiply_adds for r in rows if r.kind in ("Conv2d", "Linear"))
    assert multiply_adds / 1e9 == pytest.approx(giga_multiply_adds, abs=0.005)


@pytest.mark.parametrize(("name", "maps"), [("resnet18", 512), ("resnet50", 2048)])
def test_maps_before_the_head(name: str, maps: int) -> None:
    """The stem and each stage but the first halve the picture: 224, 112, 56, 28, 14, 7."""
    rows = [row for row in _full_size_rows(name) if row.kind == "Conv2d"]
    sides = sorted({row.output_shape[-1] for row in rows}, reverse=True)
    assert sides == [112, 56, 28, 14, 7]
    assert rows[-1].output_shape == (maps, 7, 7)


def test_cardinality_is_32_and_groups_widen() -> None:
    """32 groups of 4, 8, 16 and 32 maps in the four stages."""
    with torch.device("meta"):
        network = ResNet(RESNEXT50)
    grouped = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert {layer.groups for layer in grouped} == {32}
    assert sorted({layer.out_channels // 32 for layer in grouped}) == [4, 8, 16, 32]


def test_slim_resnext_keeps_the_maps_of_a_group() -> None:
    """A quarter of the width has 8 groups of the same 4 to 32 maps."""
    network = ResNet(RESNEXT50, classes=10, side=32, width=0.25)
    grouped = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert {layer.groups for layer in grouped} == {8}
    assert sorted({layer.out_channels // 8 for layer in grouped}) == [4, 8, 16, 32]


def test_bottlenecks_without_cardinality_have_no_groups() -> None:
    """ResNet-50's 3×3 convolutions see all maps, whatever the width."""
    network = ResNet(RESNET50, classes=10, side=32, width=0.25)
    assert all(m.groups == 1 for m in network.modules() if isinstance(m, torch.nn.Conv2d))
