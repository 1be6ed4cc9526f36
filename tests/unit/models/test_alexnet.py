"""AlexNet against the paper's and the lecture's numbers."""

import pytest
import torch
from torch.nn import functional

from atril_models import LayerCount, count_layers, create_model
from atril_models.alexnet import LECTURE, ORIGINAL, AlexNet

# Name, output shape, parameters of the paper's form, parameters of the lecture's Figure 22 (with
# the sums of its dense layers put right, see docs/lectures/errata.md).
LAYERS = [
    ("conv1", (96, 55, 55), 34_944, 34_944),
    ("pool1", (96, 27, 27), 0, 0),
    ("conv2", (256, 27, 27), 307_456, 614_656),
    ("pool2", (256, 13, 13), 0, 0),
    ("conv3", (384, 13, 13), 885_120, 885_120),
    ("conv4", (384, 13, 13), 663_936, 1_327_488),
    ("conv5", (256, 13, 13), 442_624, 884_992),
    ("pool5", (256, 6, 6), 0, 0),
    ("fc6", (4096,), 37_752_832, 37_752_832),
    ("fc7", (4096,), 16_781_312, 16_781_312),
    ("fc8", (1000,), 4_097_000, 4_097_000),
]


def _full_size_rows(name: str) -> tuple[LayerCount, ...]:
    with torch.device("meta"):
        network = create_model(name)
        return count_layers(network, *network.example_inputs())


def test_layers_of_the_original_count_as_in_the_paper() -> None:
    """Shape and parameters of every layer, the second, fourth and fifth convolution in groups."""
    rows = [(r.name, r.output_shape, r.parameters) for r in _full_size_rows("alexnet")]
    assert rows == [(name, shape, parameters) for name, shape, parameters, _ in LAYERS]


def test_layers_of_the_lectures_form_count_as_in_figure_22() -> None:
    """Shape and parameters of every layer, each convolution over all maps."""
    rows = [(r.name, r.output_shape, r.parameters) for r in _full_size_rows("alexnet-ungrouped")]
    assert rows == [(name, shape, parameters) for name, shape, _, parameters in LAYERS]


@pytest.mark.parametrize(
    ("name", "parameters", "giga_multiply_adds"),
    [("alexnet", 60_965_224, 0.724), ("alexnet-ungrouped", 62_378_344, 1.135)],
)
def test_totals(name: str, parameters: int, giga_multiply_adds: float) -> None:
    """The paper's 60 million parameters, and the lecture's 62.4 million."""
    rows = _full_size_rows(name)
    assert sum(row.parameters for row in rows) == parameters
    multiply_adds = sum(row.multiply_adds for row in rows)
    assert multiply_adds / 1e9 == pytest.approx(giga_multiply_adds, abs=0.0005)


def test_activation_sizes_are_those_of_figure_22() -> None:
    """The column "Activation size" of the lecture's table, layer by layer."""
    neurons = {row.name: row.neurons for row in _full_size_rows("alexnet-ungrouped")}
    assert list(neurons.values()) == [
        290_400, 69_984, 186_624, 43_264, 64_896, 64_896, 43_264, 9_216, 4_096, 4_096, 1_000,
    ]  # fmt: skip


def test_units_are_the_papers_650_000() -> None:
    """The eight layers that learn have 659,272 units."""
    rows = _full_size_rows("alexnet")
    assert sum(row.neurons for row in rows if row.parameters) == 659_272


@pytest.mark.parametrize(
    ("layer", "grouped"), [("conv2", True), ("conv3", False), ("conv4", True), ("conv5", True)]
)
def test_groups_see_half_of_the_maps(layer: str, grouped: bool) -> None:
    """Upper maps reach the lower half of the next maps in the third convolution alone."""
    torch.manual_seed(0)
    convolution = getattr(AlexNet(ORIGINAL, width=0.125), layer)
    maps = torch.randn(1, convolution.in_channels, 5, 5)
    changed = maps.clone()
    changed[:, convolution.in_channels // 2 :] += 1
    lower = slice(convolution.out_channels // 2)
    reached = not torch.equal(convolution(maps)[:, lower], convolution(changed)[:, lower])
    assert reached is not grouped


def test_slim_maps_are_divisible_by_the_groups() -> None:
    """0.13 of 96, 256 and 384 maps are 12.48, 33.28 and 49.92: 12, 34 and 50 in two groups."""
    network = AlexNet(ORIGINAL, width=0.13)
    convolutions = [network.conv1, network.conv2, network.conv3, network.conv4, network.conv5]
    assert [convolution.out_channels for convolution in convolutions] == [12, 34, 50, 50, 34]


def test_forward_follows_the_formula() -> None:
    """The network equals its layers written out, normalisation before pooling."""
    torch.manual_seed(0)
    net = AlexNet(ORIGINAL, classes=5, side=67, channels=1, width=0.125).eval()
    image = 3 * torch.randn(2, 1, 67, 67)

    def conv(maps: torch.Tensor, layer: torch.nn.Conv2d) -> torch.Tensor:
        padded = functional.pad(maps, (layer.padding[0],) * 4)
        parts = padded.chunk(layer.groups, dim=1)
        weights, biases = layer.weight.chunk(layer.groups), layer.bias.chunk(layer.groups)
        summed = [
            functional.conv2d(*part, stride=layer.stride)
            for part in zip(parts, weights, biases, strict=True)
        ]
        return torch.cat(summed, dim=1).clamp(min=0)

    def normalise(maps: torch.Tensor) -> torch.Tensor:
        squares = functional.pad(maps**2, (0, 0, 0, 0, 2, 2))
        energy = sum(squares[:, i : i + maps.shape[1]] for i in range(5))
        return maps / (2 + 1e-4 * energy) ** 0.75

    maps = functional.max_pool2d(normalise(conv(image, net.conv1)), 3, 2)
    maps = functional.max_pool2d(normalise(conv(maps, net.conv2)), 3, 2)
    maps = conv(conv(conv(maps, net.conv3), net.conv4), net.conv5)
    features = functional.max_pool2d(maps, 3, 2).reshape(2, -1)
    features = (features @ net.fc6.weight.T + net.fc6.bias).clamp(min=0)
    features = (features @ net.fc7.weight.T + net.fc7.bias).clamp(min=0)
    logits = features @ net.fc8.weight.T + net.fc8.bias

    torch.testing.assert_close(net(image), logits)


def test_dropout_silences_hidden_units_in_training_alone() -> None:
    """Two passes over one picture differ in training mode and not in eval mode."""
    torch.manual_seed(0)
    net = AlexNet(LECTURE, classes=5, side=67, channels=1, width=0.125)
    image = torch.randn(1, 1, 67, 67)
    assert not torch.equal(net.train()(image), net(image))
    assert torch.equal(net.eval()(image), net(image))


def test_a_smaller_stride_takes_smaller_pictures() -> None:
    """25×25 at stride 1: 15, 7, 3 and 1 after the stem and the three poolings."""
    net = AlexNet(ORIGINAL, classes=5, side=25, channels=1, width=0.125, stem_stride=1)
    assert net(torch.zeros(1, 1, 25, 25)).shape == (1, 5)
    with pytest.raises(ValueError, match="at least 25×25, got 24×24"):
        AlexNet(ORIGINAL, side=24, stem_stride=1)


def test_stride_below_one_is_refused() -> None:
    """The error names the option."""
    with pytest.raises(ValueError, match="stem_stride must be at least 1, got 0"):
        AlexNet(ORIGINAL, stem_stride=0)
