"""Corruptions: what they change, how much, and where the randomness comes from."""

import pytest
import torch
from torch import Generator

from atril_models.autoencoders.corruption import (
    Corruption,
    GaussianNoise,
    Masking,
    SaltAndPepper,
)

IMAGE = torch.full((20, 1, 50, 50), 0.25)

every_corruption = pytest.mark.parametrize(
    "corruption",
    [GaussianNoise(0.5), SaltAndPepper(0.3), Masking(0.3)],
    ids=lambda corruption: type(corruption).__name__,
)


def _seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@every_corruption
def test_draws_come_from_the_generator(corruption: Corruption) -> None:
    """The same generator state gives the same corruption, another one another."""
    first = corruption(IMAGE, _seeded())
    assert torch.equal(first, corruption(IMAGE, _seeded()))
    assert not torch.equal(first, corruption(IMAGE, _seeded(1)))


@every_corruption
def test_without_a_generator_torchs_default_is_used(corruption: Corruption) -> None:
    """`torch.manual_seed` decides, and the clean picture is left as it was."""
    torch.manual_seed(5)
    first = corruption(IMAGE)
    torch.manual_seed(5)
    assert torch.equal(first, corruption(IMAGE))
    assert (IMAGE == 0.25).all()


def test_gaussian_noise_has_its_mean_and_deviation() -> None:
    """50,000 draws: mean 0 and deviation 0.5 within five standard errors; nothing is clipped."""
    noise = GaussianNoise(0.5)(IMAGE, _seeded()) - IMAGE
    assert abs(float(noise.mean())) < 5 * 0.5 / noise.numel() ** 0.5
    assert abs(float(noise.std()) - 0.5) < 5 * 0.5 / (2 * noise.numel()) ** 0.5
    assert float((noise + IMAGE).min()) < 0
    assert float((noise + IMAGE).max()) > 1


def test_salt_and_pepper_are_equally_frequent() -> None:
    """A share p of the pixels is 0 or 1, half each; the others are untouched."""
    spoilt = SaltAndPepper(0.3)(IMAGE, _seeded())
    shares = [float((spoilt == value).float().mean()) for value in (0.0, 1.0, 0.25)]
    assert shares == pytest.approx([0.15, 0.15, 0.7], abs=0.01)
    assert sum(shares) == pytest.approx(1)


def test_masking_sets_a_share_to_zero() -> None:
    """A share p of the pixels is 0; the others are untouched."""
    spoilt = Masking(0.3)(IMAGE, _seeded())
    shares = [float((spoilt == value).float().mean()) for value in (0.0, 0.25)]
    assert shares == pytest.approx([0.3, 0.7], abs=0.01)
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("corruption", [GaussianNoise(0.0), SaltAndPepper(0.0), Masking(0.0)])
def test_no_corruption_changes_nothing(corruption: Corruption) -> None:
    """Strength 0 gives the picture itself."""
    assert torch.equal(corruption(IMAGE, _seeded()), IMAGE)


@pytest.mark.parametrize("kind", [SaltAndPepper, Masking])
@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_impossible_probabilities_are_refused(
    kind: type[SaltAndPepper] | type[Masking], probability: float
) -> None:
    """The error has the number and its bounds."""
    with pytest.raises(ValueError, match=f"probability: expected 0 to 1, got {probability}"):
        kind(probability)


def test_negative_deviation_is_refused() -> None:
    """The error has the number."""
    with pytest.raises(ValueError, match="standard_deviation: expected at least 0, got -1"):
        GaussianNoise(-1)
