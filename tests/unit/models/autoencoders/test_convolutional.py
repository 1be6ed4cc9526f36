"""Convolutional autoencoders: sizes, and that place is kept."""

import pytest
import torch

from atril_models import count_layers, create_model
from atril_models.autoencoders import Autoencoder


def test_stages_halve_and_double_the_picture() -> None:
    """28 → 14 → 7 → 14 → 28, with the maps of each stage."""
    with torch.device("meta"):
        network = create_model("conv-denoising-autoencoder")
        rows = count_layers(network, *network.example_inputs())
    assert [row.output_shape for row in rows] == [
        (32, 28, 28), (32, 14, 14), (64, 14, 14), (64, 7, 7),
        (64, 14, 14), (32, 14, 14), (32, 28, 28), (1, 28, 28),
    ]  # fmt: skip


def test_code_keeps_its_place() -> None:
    """A change in one corner of the picture leaves the code of the opposite corner as it was."""
    torch.manual_seed(0)
    network = create_model("conv-denoising-autoencoder", image_shape=(1, 32, 32), widths=(4, 4))
    assert isinstance(network, Autoencoder)
    image = torch.rand(1, 1, 32, 32)
    changed = image.clone()
    changed[..., :2, :2] = 1 - changed[..., :2, :2]
    moved = (network.encode(changed) != network.encode(image))[0].any(dim=0)
    assert moved[0, 0]
    assert not moved[4:, 4:].any()


def test_reconstruction_stays_within_the_picture_range() -> None:
    """The output unit is a sigmoid, however far the input leaves 0 … 1."""
    network = create_model("conv-denoising-autoencoder", image_shape=(1, 8, 8), widths=(4,))
    with torch.no_grad():
        reconstruction = network(50 * torch.randn(4, 1, 8, 8))
    assert 0 <= float(reconstruction.min()) <= float(reconstruction.max()) <= 1


@pytest.mark.parametrize("name", ["conv-denoising-autoencoder", "conv-vae"])
def test_sides_that_cannot_be_halved_are_refused(name: str) -> None:
    """The error says by what a side must be divisible."""
    with pytest.raises(ValueError, match=r"2 stages need .* divisible by 4, got 30×28"):
        create_model(name, image_shape=(1, 30, 28))


def test_no_stage_is_refused() -> None:
    """A convolutional autoencoder has at least one stage."""
    with pytest.raises(ValueError, match=r"widths: expected one or more, each at least 1, got \("):
        create_model("conv-denoising-autoencoder", widths=())
