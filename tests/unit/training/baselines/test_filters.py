"""Filters that need no learning: what they leave alone and what they remove."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from atril_training.baselines.filters import (
    blurred,
    clipped,
    mean_psnr,
    median_of_nine,
    non_local_means,
    tuned_blur,
    tuned_non_local_means,
)

DEVIATION = 0.1


def _stripes() -> NDArray[np.float64]:
    return np.tile(np.repeat([0.2, 0.8], 6), (24, 2))


def _noisy(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    return picture + DEVIATION * np.random.default_rng(0).standard_normal(picture.shape)


def test_psnr_of_a_known_error() -> None:
    """An error of 0.1 everywhere is 20 dB; of two pictures the decibels are averaged."""
    clean = np.full((4, 4), 0.5)
    assert mean_psnr([clean + 0.1], [clean]) == pytest.approx(20)
    both = mean_psnr([clean + 0.1, clean + 0.01], [clean, clean])
    assert both == pytest.approx((20 + 40) / 2)


def test_noise_of_a_known_deviation() -> None:
    """Gaussian noise of 25/255 leaves 20.17 dB, the figure that papers give for it."""
    clean = np.full((300, 300), 0.5)
    spoilt = clean + 25 / 255 * np.random.default_rng(0).standard_normal(clean.shape)
    assert mean_psnr([spoilt], [clean]) == pytest.approx(-20 * math.log10(25 / 255), abs=0.05)


def test_psnr_needs_a_clean_picture_for_each() -> None:
    """One clean picture too few is an error, not a shorter mean."""
    with pytest.raises(ValueError, match="shorter"):
        mean_psnr([np.zeros((2, 2))] * 2, [np.ones((2, 2))])


def test_clipping_keeps_what_is_a_picture() -> None:
    """Values within 0 … 1 stay, others go to the nearer end."""
    assert clipped(np.array([[-0.5, 0.3, 1.7]])).tolist() == [[0.0, 0.3, 1.0]]


def test_median_removes_single_extremes() -> None:
    """One white pixel on grey disappears, and nothing else changes."""
    picture = np.full((5, 5), 0.4)
    picture[2, 2] = 1
    assert (median_of_nine(picture) == 0.4).all()


def test_blur_keeps_a_plane() -> None:
    """A constant picture is not changed, at its edge neither."""
    np.testing.assert_allclose(blurred(1.5)(np.full((8, 8), 0.4)), 0.4)


def test_tuned_filters_choose_what_does_best() -> None:
    """On noisy stripes both find a strength at least as good as any fixed one, and remove noise."""
    clean = _stripes()
    spoilt = _noisy(clean)
    before = mean_psnr([spoilt], [clean])
    for tuned, fixed in (
        (tuned_blur([spoilt], [clean]), blurred(2.0)),
        (tuned_non_local_means(DEVIATION, [spoilt], [clean]), non_local_means(DEVIATION, 0.4)),
    ):
        reached = mean_psnr([tuned(spoilt)], [clean])
        assert reached >= mean_psnr([fixed(spoilt)], [clean])
        assert reached > before + 1
