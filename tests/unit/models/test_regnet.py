"""RegNetX-400MF against the published numbers."""

import pytest
import torch

from atril_models import LayerCount, count_layers, create_model
from atril_models.regnet import REGNETX_400MF, RegNetForm, RegNetX

# Blocks and maps of RegNetX-800MF and 3.2GF with their parameters, from the paper's Table 2.
OTHER_FORMS = [
    (RegNetForm(16, 56, 35.73, 2.28, 16), ((1, 64), (3, 128), (7, 288), (5, 672))),
    (RegNetForm(25, 88, 26.31, 2.25, 48), ((2, 96), (6, 192), (15, 432), (2, 1008))),
]


def _full_size_rows() -> tuple[LayerCount, ...]:
    with torch.device("meta"):
        network = create_model("regnetx400mf")
        return count_layers(network, *network.example_inputs())


def test_the_line_is_quantised_to_four_stages() -> None:
    """24 + 24.48·j becomes 1, 2, 7 and 12 blocks of 32, 64, 160 and 400 maps."""
    assert REGNETX_400MF.stages() == ((1, 32), (2, 64), (7, 160), (12, 400))


@pytest.mark.parametrize(("form", "stages"), OTHER_FORMS, ids=["800MF", "3.2GF"])
def test_the_rule_gives_other_published_forms_too(
    form: RegNetForm, stages: tuple[tuple[int, int], ...]
) -> None:
    """Depths and widths of two more networks of the paper's Table 2."""
    assert form.stages() == stages


def test_total() -> None:
    """5,495,976 parameters and 0.41 G multiply-adds in the convolutions and the dense layer."""
    rows = _full_size_rows()
    assert sum(row.parameters for row in rows) == 5_495_976
    multiply_adds = sum(r.multiply_adds for r in rows if r.kind in ("Conv2d", "Linear"))
    assert multiply_adds / 1e9 == pytest.approx(0.414, abs=0.0005)


def test_every_block_counts_as_its_formula() -> None:
    """Parameters of each block from its maps by hand arithmetic; groups have 16 maps."""
    expected: list[int] = []
    inputs = 32
    for blocks, maps in REGNETX_400MF.stages():
        for block in range(blocks):
            # Each stage's first block halves the side, so that its input is projected.
            projection = (inputs + 2) * maps if block == 0 else 0
            expected.append((inputs + 2 + 9 * 16 + 2 + maps + 2) * maps + projection)
            inputs = maps
    counted: dict[str, int] = {}
    for row in _full_size_rows():
        if row.name.startswith("stages."):
            name = row.name.split(".")[1]
            counted[name] = counted.get(name, 0) + row.parameters
    assert list(counted.values()) == expected


def test_slim_form_keeps_the_number_of_groups() -> None:
    """A quarter of the width has 2, 4, 10 and 25 groups as before, of 4 maps each."""
    network = RegNetX(REGNETX_400MF, classes=10, side=32, width=0.25)
    grouped = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert sorted({layer.groups for layer in grouped}) == [2, 4, 10, 25]
    assert {layer.out_channels // layer.groups for layer in grouped} == {4}
