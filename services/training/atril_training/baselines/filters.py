"""Denoising without learning a network: clipping, blurring, the median, non-local means.

Dimensions: N pictures, H height, W width.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.filters import gaussian, median
from skimage.restoration import denoise_nl_means

Picture = NDArray[np.float64]
"""Grey levels of 0 … 1, [H, W]; with noise they may leave that range."""

Filter = Callable[[Picture], Picture]

_PATCH_SIZE = 5
_PATCH_DISTANCE = 6
_BLUR_WIDTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_STRENGTHS = (0.4, 0.6, 0.8, 1.0, 1.2)
"""Multiples of the noise's deviation that are tried as the cut-off h of non-local means."""


def clipped(picture: Picture) -> Picture:
    """The picture itself, within 0 … 1."""
    return picture.clip(0, 1)


def median_of_nine(picture: Picture) -> Picture:
    """The median of each pixel and its eight neighbours; at the edge the nearest are repeated."""
    window = np.ones((3, 3))
    result: Picture = median(picture, window, mode="nearest")  # type: ignore[no-untyped-call]  # unannotated there
    return clipped(result)


def blurred(width: float) -> Filter:
    """The mean of the surroundings, weighted by a Gaussian of this width in pixels."""

    def denoise(picture: Picture) -> Picture:
        result: Picture = gaussian(picture, width)  # type: ignore[no-untyped-call]  # unannotated there
        return clipped(result)

    return denoise


def non_local_means(deviation: float, strength: float) -> Filter:
    """Each pixel becomes the mean of those with similar surroundings (Buades et al. 2005).

    Args:
        deviation: of the noise, which is known to the method.
        strength: h is so many times the deviation.
    """

    def denoise(picture: Picture) -> Picture:
        result: Picture = denoise_nl_means(
            picture,
            patch_size=_PATCH_SIZE,
            patch_distance=_PATCH_DISTANCE,
            h=strength * deviation,
            sigma=deviation,
            fast_mode=True,
        )
        return clipped(result)

    return denoise


def tuned_blur(noisy: Sequence[Picture], clean: Sequence[Picture]) -> Filter:
    """The blur that does best on pictures whose clean form is known."""
    return _best(map(blurred, _BLUR_WIDTHS), noisy, clean)


def tuned_non_local_means(
    deviation: float, noisy: Sequence[Picture], clean: Sequence[Picture]
) -> Filter:
    """Non-local means with the strength that does best on pictures whose clean form is known."""
    return _best((non_local_means(deviation, one) for one in _STRENGTHS), noisy, clean)


def mean_psnr(estimates: Iterable[NDArray[Any]], clean: Iterable[NDArray[Any]]) -> float:
    """The mean over the pictures of the peak signal-to-noise ratio of each, in dB; the peak is 1.

    10 log10(1 / mean squared error), as it is reported for the usual sets of test images.

    Raises:
        ValueError: not one clean picture for each estimate.
    """
    errors = [
        np.square(estimate.astype(np.float64) - truth).mean()
        for estimate, truth in zip(estimates, clean, strict=True)
    ]
    return float(np.mean(-10 * np.log10(errors)))


def _best(filters: Iterable[Filter], noisy: Sequence[Picture], clean: Sequence[Picture]) -> Filter:
    return max(filters, key=lambda one: mean_psnr([one(picture) for picture in noisy], clean))
