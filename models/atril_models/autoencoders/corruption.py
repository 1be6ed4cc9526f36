"""What a denoising autoencoder's pictures are spoilt with while it learns.

Dimensions: B batch, C channels, H height, W width.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor


class Corruption(Protocol):
    """Spoils pictures at random."""

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Pictures of the same shape, the given ones unchanged.

        Args:
            image: [B, C, H, W] within 0 … 1.
            generator: what random numbers are drawn from; torch's default generator where None.
        """
        ...


@dataclass(frozen=True, slots=True)
class GaussianNoise:
    """x + e, e ~ N(0, sigma²) for each element; it is not clipped, so values leave 0 … 1.

    Source: lecture 4.2.3.

    Args:
        standard_deviation: sigma, in units of the full range 0 … 1.

    Raises:
        ValueError: it is negative.
    """

    standard_deviation: float

    def __post_init__(self) -> None:
        if self.standard_deviation < 0:
            raise ValueError(
                f"standard_deviation: expected at least 0, got {self.standard_deviation}"
            )

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Add white noise."""
        noise = torch.empty_like(image).normal_(generator=generator)
        return image + self.standard_deviation * noise


@dataclass(frozen=True, slots=True)
class SaltAndPepper:
    """Each element becomes black (0) or white (1), equally often, with a given probability.

    Source: Vincent et al. 2010, §3.3.

    Raises:
        ValueError: not a probability.
    """

    probability: float

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Replace elements by extremes."""
        # One draw decides both: below p/2 is pepper, from there to p is salt.
        draw = torch.empty_like(image).uniform_(generator=generator)
        salt = (draw >= self.probability / 2).to(image.dtype)
        return torch.where(draw < self.probability, salt, image)


@dataclass(frozen=True, slots=True)
class Masking:
    """Each element becomes 0 with a given probability: a missing value.

    Source: Vincent et al. 2008, §2.2, and 2010, §3.3.

    Raises:
        ValueError: not a probability.
    """

    probability: float

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Set elements to zero."""
        draw = torch.empty_like(image).uniform_(generator=generator)
        return image.masked_fill(draw < self.probability, 0.0)


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability: expected 0 to 1, got {probability}")
