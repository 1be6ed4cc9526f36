"""GoogLeNet against the paper's table."""

import pytest
import torch
from torch.nn import functional

from atril_models import LayerCount, count_layers, create_model
from atril_models.googlenet import INCEPTION_BLOCKS, GoogLeNet, InceptionBlock

# Block, maps that come in, maps that go out, side, parameters.
BLOCKS = [
    ("3a", 192, 256, 28, 163_696),
    ("3b", 256, 480, 28, 388_736),
    ("4a", 480, 512, 14, 376_176),
    ("4b", 512, 512, 14, 449_160),
    ("4c", 512, 512, 14, 510_104),
    ("4d", 512, 528, 14, 605_376),
    ("4e", 528, 832, 14, 868_352),
    ("5a", 832, 832, 7, 1_043_456),
    ("5b", 832, 1024, 7, 1_444_080),
]


def _full_size_rows() -> tuple[LayerCount, ...]:
    with torch.device("meta"):
        network = create_model("googlenet")
        return count_layers(network, *network.example_inputs())


def _slim(*, auxiliary_heads: bool, side: int = 32) -> GoogLeNet:
    torch.manual_seed(0)
    return GoogLeNet(classes=5, side=side, channels=1, width=0.125, auxiliary_heads=auxiliary_heads)


@pytest.mark.parametrize(("block", "inputs", "outputs", "side", "parameters"), BLOCKS)
def test_block_counts_as_in_the_paper(
    block: str, inputs: int, outputs: int, side: int, parameters: int
) -> None:
    """Maps, their side and the parameters of each of the nine inception blocks."""
    rows = [row for row in _full_size_rows() if row.name.startswith(f"inception.{block}.")]
    last_of_branches = [rows[i].output_shape for i in (0, 2, 4, 6)]
    assert sum(row.parameters for row in rows) == parameters
    assert sum(shape[0] for shape in last_of_branches) == outputs
    assert {shape[1:] for shape in last_of_branches} == {(side, side)}
    assert rows[0].parameters == (inputs + 1) * INCEPTION_BLOCKS[block].conv1


def test_stem_has_three_convolutions_and_two_poolings() -> None:
    """Not a pooling after each convolution, as the lecture's text has it."""
    rows = [(r.name, r.output_shape, r.parameters) for r in _full_size_rows()[:5]]
    assert rows == [
        ("conv1", (64, 112, 112), 9_472),
        ("pool1", (64, 56, 56), 0),
        ("reduce2", (64, 56, 56), 4_160),
        ("conv2", (192, 56, 56), 110_784),
        ("pool2", (192, 28, 28), 0),
    ]


def test_total_without_and_with_auxiliary_heads() -> None:
    """6,998,552 parameters, and heads of 3,188,840 and 3,190,888 on blocks 4a and 4d."""
    with torch.device("meta"):
        network = create_model("googlenet", auxiliary_heads=True)
        heads = {
            name: sum(p.numel() for p in head.parameters())
            for name, head in network.auxiliary.items()
        }
    assert sum(row.parameters for row in _full_size_rows()) == 6_998_552
    assert heads == {"4a": 3_188_840, "4d": 3_190_888}
    assert sum(p.numel() for p in network.parameters()) == 13_378_280


def test_multiply_adds_are_the_papers_one_and_a_half_billion() -> None:
    """1.58 G; the paper designed for 1.5 G."""
    multiply_adds = sum(row.multiply_adds for row in _full_size_rows())
    assert multiply_adds / 1e9 == pytest.approx(1.583, abs=0.0005)


def test_inception_block_is_four_branches_side_by_side() -> None:
    """The block equals Figure 26 of the lecture written out."""
    torch.manual_seed(0)
    block = InceptionBlock(6, INCEPTION_BLOCKS["3a"])
    maps = torch.randn(2, 6, 7, 7)

    def conv(layer: torch.nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
        padding = layer.kernel_size[0] // 2
        return torch.conv2d(inputs, layer.weight, layer.bias, padding=padding).clamp(min=0)

    branches = [
        conv(block.conv1, maps),
        conv(block.conv3, conv(block.reduce3, maps)),
        conv(block.conv5, conv(block.reduce5, maps)),
        conv(block.project, functional.max_pool2d(maps, 3, stride=1, padding=1)),
    ]
    assert [branch.shape[1] for branch in branches] == [64, 128, 32, 32]
    torch.testing.assert_close(block(maps), torch.cat(branches, dim=1))


def test_auxiliary_logits_come_from_blocks_4a_and_4d() -> None:
    """The loss of each head reaches its own block and those before it, and none after it."""
    network = _slim(auxiliary_heads=True)
    _logits, auxiliary = network.logits_and_auxiliary(torch.randn(2, 1, 32, 32))
    assert [logits.shape for logits in auxiliary] == [(2, 5), (2, 5)]
    for logits, block in zip(auxiliary, ("4a", "4d"), strict=True):
        network.zero_grad()
        logits.sum().backward(retain_graph=True)
        reached = [
            name
            for name, inception in network.inception.items()
            if inception.conv1.weight.grad is not None
        ]
        assert reached == [name for name in INCEPTION_BLOCKS if name <= block]


def test_logits_are_the_same_with_and_without_the_heads() -> None:
    """Evaluation and export never run the heads, and what they do run is unchanged by them."""
    network = _slim(auxiliary_heads=True).eval()
    image = torch.randn(2, 1, 32, 32)
    logits, _auxiliary = network.logits_and_auxiliary(image)
    assert torch.equal(network(image), logits)
    bare = _slim(auxiliary_heads=False).eval()
    missing = bare.load_state_dict(network.state_dict(), strict=False)
    assert not missing.missing_keys
    assert {key.split(".")[0] for key in missing.unexpected_keys} == {"auxiliary"}
    assert torch.equal(bare(image), logits)


def test_without_heads_there_are_no_auxiliary_logits() -> None:
    """A trainer can ask any GoogLeNet, and adds up nothing."""
    network = _slim(auxiliary_heads=False)
    _logits, auxiliary = network.logits_and_auxiliary(torch.randn(2, 1, 32, 32))
    assert auxiliary == ()
    assert network.auxiliary_weight == 0.3


@pytest.mark.parametrize("side", [31, 96, 160])
def test_auxiliary_heads_adapt_to_the_picture(side: int) -> None:
    """Their pooling window is never larger than the maps."""
    network = _slim(auxiliary_heads=True, side=side)
    _logits, auxiliary = network.logits_and_auxiliary(torch.randn(1, 1, side, side))
    assert [logits.shape for logits in auxiliary] == [(1, 5), (1, 5)]
