"""What must hold of every entry of the chapter, in a slim form."""

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from atril_models import CATALOGUE, Family, Network, count_layers, create_model
from atril_models.autoencoders import ARCHITECTURES, Autoencoder, DecoderPart, EncoderPart
from atril_models.autoencoders.bounds import estimate_elbo
from atril_models.autoencoders.variational import VariationalAutoencoder

EIGHT = (1, 8, 8)
SLIM: Mapping[str, Mapping[str, object]] = {
    "linear-autoencoder": {"image_shape": EIGHT, "code_size": 4},
    "deep-autoencoder": {"image_shape": EIGHT, "widths": (12, 6, 4)},
    "contractive-autoencoder": {"image_shape": EIGHT, "code_size": 10},
    "k-sparse-autoencoder": {"image_shape": EIGHT, "code_size": 20, "k": 3, "alpha": 2.0},
    "sparse-autoencoder": {"image_shape": EIGHT, "widths": (10,)},
    "sparse-autoencoder-l1": {"image_shape": EIGHT, "widths": (10,)},
    "sparse-autoencoder-l2": {"image_shape": EIGHT, "widths": (12, 10)},
    "denoising-autoencoder": {"image_shape": EIGHT, "widths": (12, 10)},
    "conv-denoising-autoencoder": {"image_shape": (3, 8, 12), "widths": (4, 6)},
    "dncnn": {"depth": 4, "width": 6, "channels": 3, "downsampling": 2},
    "vae": {"image_shape": EIGHT, "widths": (12, 8), "latents": 3},
    "vae-2d": {"image_shape": EIGHT, "widths": (12, 8)},
    "gaussian-vae": {"image_shape": EIGHT, "widths": (12, 8), "latents": 3},
    "conv-vae": {"image_shape": EIGHT, "widths": (4, 6), "features": 8, "latents": 3},
}

every_entry = pytest.mark.parametrize("name", list(SLIM))
every_autoencoder = pytest.mark.parametrize("name", [name for name in SLIM if name != "dncnn"])


def _slim(name: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return create_model(name, **SLIM[name])


def _slim_autoencoder(name: str) -> Autoencoder:
    network = _slim(name).eval()
    assert isinstance(network, Autoencoder)
    return network


def _pictures(network: Network, batch: int) -> Tensor:
    (example,) = network.example_inputs(batch)
    return torch.rand(example.shape, generator=torch.Generator().manual_seed(1))


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _all(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def test_every_entry_is_in_the_catalogue_and_tested_here() -> None:
    """The chapter's list, the catalogue's family and the slim forms are the same names."""
    listed = [architecture.name for architecture in ARCHITECTURES]
    family = [name for name in CATALOGUE if CATALOGUE[name].family is Family.AUTOENCODER]
    assert listed == family
    assert set(listed) == set(SLIM)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("linear-autoencoder", {}, 50_992),
        ("deep-autoencoder", {}, 2_837_314),
        ("contractive-autoencoder", {}, 785_784),
        ("k-sparse-autoencoder", {}, 785_784),
        ("sparse-autoencoder", {}, (784 + 1) * 1000 + (1000 + 1) * 784),
        ("denoising-autoencoder", {}, 785_784),
        ("dncnn", {}, 556_032),
        ("vae", {"latents": 2}, 788_788),
        ("vae-2d", {}, 788_788),
        ("vae", {"latents": 3}, 790_290),
        ("vae", {"latents": 5}, 793_294),
        ("vae", {"latents": 10}, 800_804),
        ("vae", {}, 815_824),
        ("vae", {"latents": 200}, 1_086_184),
        ("vae", {"widths": (400,)}, 652_824),
        ("gaussian-vae", {}, 815_824 + (500 + 1) * 784),
    ],
)
def test_published_forms_have_their_parameters(
    name: str, options: dict[str, object], parameters: int
) -> None:
    """The default options give the published count, and the layer table adds up to it."""
    with torch.device("meta"):
        network = create_model(name, **options)
        rows = count_layers(network, *network.example_inputs())
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert sum(row.parameters for row in rows) == parameters


@every_entry
def test_layer_table_misses_no_parameter(name: str) -> None:
    """Every parameter of every entry is in a row of its layer table."""
    network = _slim(name)
    rows = count_layers(network, *network.example_inputs())
    expected = sum(parameter.numel() for parameter in network.parameters())
    assert sum(row.parameters for row in rows) == expected


@every_entry
def test_picture_keeps_its_shape(name: str) -> None:
    """What comes out has the shape of what went in, and is finite."""
    network = _slim(name).eval()
    image = _pictures(network, 3)
    reconstruction = _first(network(image))
    assert reconstruction.shape == image.shape
    assert torch.isfinite(reconstruction).all()


@every_entry
def test_same_seed_same_weights(name: str) -> None:
    """The seed decides the weights, and another seed gives others."""
    weights = [p.detach() for p in _slim(name).parameters()]
    again = [p.detach() for p in _slim(name).parameters()]
    other = [p.detach() for p in _slim(name, seed=1).parameters()]
    assert all(map(torch.equal, weights, again))
    assert not all(map(torch.equal, weights, other))


@every_entry
def test_row_of_a_batch_is_the_picture_alone(name: str) -> None:
    """In eval mode a picture's answer does not depend on what else is in the batch."""
    network = _slim(name).eval()
    image = _pictures(network, 4)
    for of_batch, of_one in zip(_all(network(image)), _all(network(image[2:3])), strict=True):
        torch.testing.assert_close(of_batch[2:3], of_one, atol=1e-5, rtol=1e-5)


@every_entry
def test_a_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    """The gradient of the loss that the entry learns by points uphill, in every parameter."""
    network = _slim(name).train()
    image = _pictures(network, 8)

    def loss() -> Tensor:
        if isinstance(network, VariationalAutoencoder):
            noise = torch.randn(2, 8, *network.code_shape, generator=torch.manual_seed(2))
            return -estimate_elbo(network, image, noise).value.mean()
        return (network(image) - image).square().mean()

    before = loss()
    before.backward()
    parameters = list(network.parameters())
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in parameters)
    norm = torch.sqrt(sum((p.grad.square().sum() for p in parameters), torch.zeros(())))
    with torch.no_grad():
        for p in parameters:
            p -= 1e-3 * p.grad / norm
    assert loss() < before


@every_autoencoder
def test_parts_make_the_whole(name: str) -> None:
    """Decoding what the encoder answers (mu, for a VAE) is the whole's reconstruction."""
    network = _slim_autoencoder(name)
    image = _pictures(network, 3)
    encoded = _all(EncoderPart(network)(image))
    whole = _all(network(image))
    assert len(encoded) == len(network.encoder_outputs)
    assert len(whole) == len(network.whole_outputs)
    assert encoded[0].shape == network.example_codes(3)[0].shape
    assert torch.equal(DecoderPart(network)(encoded[0]), whole[0])


@every_autoencoder
def test_eval_mode_draws_nothing(name: str) -> None:
    """What is exported answers the same to the same picture, whatever the generator's state."""
    network = _slim_autoencoder(name)
    image = _pictures(network, 2)
    torch.manual_seed(3)
    first = _all(network(image))
    torch.manual_seed(4)
    assert all(map(torch.equal, first, _all(network(image))))


@every_entry
def test_graph_has_a_free_batch(name: str) -> None:
    """The whole is captured as a graph without Python's control flow, for any batch size."""
    network = _slim(name).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        network, (_pictures(network, 2),), dynamic_shapes=({0: batch},)
    ).module()
    image = _pictures(network, 5)
    for got, expected in zip(_all(program(image)), _all(network(image)), strict=True):
        torch.testing.assert_close(got, expected)


@every_entry
def test_copy_has_weights_of_its_own(name: str) -> None:
    """A deep copy, such as of the best epoch, answers the same and shares nothing."""
    network = _slim(name).eval()
    image = _pictures(network, 2)
    expected = _first(network(image)).detach()
    kept = copy.deepcopy(network)
    state = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    assert torch.equal(_first(kept(image)), expected)
    network.load_state_dict(state)
    assert torch.equal(_first(network(image)), expected)


@pytest.mark.parametrize("name", ["linear-autoencoder", "conv-vae"])
@pytest.mark.parametrize("shape", [(28, 28), (1, 0, 8)])
def test_impossible_pictures_are_refused(name: str, shape: tuple[int, ...]) -> None:
    """The error says what a picture's shape is made of, and what was given."""
    with pytest.raises(ValueError, match=r"image_shape: expected \(channels, height, width\).*got"):
        create_model(name, image_shape=shape)
