"""What must hold of every convolutional network whose pictures and width can be chosen."""

import inspect

import pytest
import torch
from torch.nn import functional

from atril_models import CATALOGUE, Family, Network, count_layers, create_model
from atril_models.image_classifier import ImageClassifier

NAMES = [
    name
    for name, entry in CATALOGUE.items()
    if entry.family is Family.CONVOLUTIONAL and not name.startswith("lenet")
]
SMALLEST_SIDE = {
    "alexnet": 67,
    "alexnet-ungrouped": 67,
    "vgg11": 32,
    "vgg13": 32,
    "vgg16": 32,
    "vgg19": 32,
    "nin": 67,
    "nin-cifar10": 4,
    "nin-imagenet": 67,
    "googlenet": 31,
    "resnet18": 17,
    "resnet50": 17,
    "resnext50": 17,
    "densenet121": 29,
    "regnetx400mf": 17,
}
every_network = pytest.mark.parametrize("name", NAMES)


def _slim(name: str, seed: int = 0) -> Network:
    """Ten classes of the smallest grey pictures at an eighth of the published width."""
    torch.manual_seed(seed)
    return create_model(name, classes=10, side=SMALLEST_SIDE[name], channels=1, width=0.125)


def _pictures(network: Network, batch: int) -> torch.Tensor:
    (example,) = network.example_inputs(batch)
    return torch.randn(example.shape, generator=torch.Generator().manual_seed(1))


@every_network
def test_options_have_the_same_names(name: str) -> None:
    """Classes, side, channels and width, each with a default."""
    options = inspect.signature(CATALOGUE[name].build).parameters
    assert {"classes", "side", "channels", "width"} <= set(options)
    assert all(option.default is not option.empty for option in options.values())


@every_network
def test_slim_form_gives_logits(name: str) -> None:
    """A slim form takes [B, 1, side, side] and gives [B, classes]."""
    network = _slim(name).eval()
    assert network(_pictures(network, 2)).shape == (2, 10)


@every_network
def test_too_small_a_picture_is_refused(name: str) -> None:
    """One pixel less than the smallest picture is an error that names the smallest."""
    side = SMALLEST_SIDE[name]
    with pytest.raises(ValueError, match=f"at least {side}×{side}, got {side - 1}×{side - 1}"):
        create_model(name, side=side - 1, width=0.125)


@every_network
def test_every_parameter_is_counted(name: str) -> None:
    """The layer table of a slim form adds up to the parameters that it holds."""
    network = _slim(name)
    rows = count_layers(network, *network.example_inputs())
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in network.parameters())


@every_network
def test_width_scales_the_parameters(name: str) -> None:
    """Half the width has about a quarter of the parameters: every layer is narrower on both sides.

    Measured at the published size, where layers whose one side is fixed (the first, and the logits)
    and vectors count for little.
    """
    with torch.device("meta"):
        full, half = (create_model(name, width=width) for width in (1.0, 0.5))
    counts = [sum(p.numel() for p in network.parameters()) for network in (full, half)]
    assert 0.24 < counts[1] / counts[0] < 0.35


@every_network
def test_same_seed_gives_the_same_weights(name: str) -> None:
    """Weights come from torch's default generator and from nothing else."""
    first, again, other = _slim(name).state_dict(), _slim(name).state_dict(), _slim(name, seed=1)
    assert all(map(torch.equal, first.values(), again.values()))
    assert not all(map(torch.equal, first.values(), other.state_dict().values()))


@every_network
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    """In eval mode a batch of one gives the row that it has in a batch of four."""
    network = _slim(name)
    pictures = _pictures(network, 4)
    with torch.no_grad():
        network(pictures)  # moves the batch normalisations' averages away from where they start
        network.eval()
        together = network(pictures)
        alone = torch.cat([network(picture[None]) for picture in pictures])
    scale = float(together.abs().max())
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5 * max(1.0, scale))


@every_network
def test_a_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    """A step that should lower the loss by a thousandth lowers it by nearly that."""
    network = _slim(name)
    pictures, targets = _pictures(network, 8), torch.arange(8)
    network(pictures)
    network.eval()  # the loss is then a function of the weights alone: no dropout, fixed averages

    def loss() -> torch.Tensor:
        return functional.cross_entropy(network(pictures), targets)

    before = loss()
    gradients = torch.autograd.grad(before, list(network.parameters()))
    squared_norm = sum(gradient.square().sum().item() for gradient in gradients)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    step = 1e-3 * before.item() / squared_norm
    with torch.no_grad():
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter -= step * gradient
        drop = 1 - loss().item() / before.item()
    assert 0.5e-3 < drop < 1.5e-3


@every_network
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "at least 2 classes, got 1"),
        ({"channels": 0}, "at least 1 channel, got 0"),
        ({"width": 0.0}, r"width must be a positive number, got 0\.0"),
        ({"width": float("nan")}, "width must be a positive number, got nan"),
    ],
    ids=["classes", "channels", "width 0", "width nan"],
)
def test_impossible_options_are_refused(name: str, options: dict[str, float], message: str) -> None:
    """The error names the option and what it was."""
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)


def test_the_error_names_the_network() -> None:
    """Who builds several networks sees which one a picture is too small for."""
    with pytest.raises(ValueError, match="VGG needs pictures of at least 32×32, got 31×31"):
        create_model("vgg11", side=31)


def test_networks_know_their_pictures() -> None:
    """The picture's shape is an attribute, in the order channels, height, width."""
    network = create_model("nin", side=80, channels=2, width=0.1)
    assert isinstance(network, ImageClassifier)
    assert network.image.shape == (2, 80, 80)
    assert network.map_side == 1
