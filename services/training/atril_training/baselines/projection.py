"""Principal components: what a linear autoencoder can do at best.

Dimensions: N pictures, D values a picture, K components.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
"""Pictures as rows, [N, D]."""


@dataclass(frozen=True, slots=True)
class LinearNoise:
    """What the best linear estimate must know of a noise that meets each value on its own.

    Of a value x it makes one of mean `kept` · x + `offset` and mean square `kept` · x² + `power`.
    """

    kept: float
    offset: float
    power: float


@dataclass(frozen=True, slots=True, eq=False)
class PrincipalComponents:
    """Mean, axes and variances of a set of pictures; the axis of the largest variance first.

    Shape:
        mean [D], axes [D, D] (one a row), variances [D].
    """

    mean: Rows
    axes: Rows
    variances: Rows

    def project(self, rows: Rows, components: int) -> Rows:
        """Each row brought to the first components: Psi + U U'(x - Psi), lecture 4.1."""
        axes = self.axes[:components]
        projected: Rows = self.mean + (rows - self.mean) @ axes.T @ axes
        return projected


def principal_components(rows: Rows) -> PrincipalComponents:
    """The components of a set, from the eigenvectors of its covariance."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(rows))
    return PrincipalComponents(mean, axes.T[::-1], variances[::-1].clip(min=0))


def best_linear_estimate(train: Rows, noise: LinearNoise, spoilt: Rows) -> Rows:
    """The estimate of clean pictures that is linear in the spoilt ones, of least squared error.

    m + C_xy C_yy^-1 (y - m_y) with the moments of the clean training pictures and of the noise. For
    Gaussian noise it is the Wiener filter, m + C (C + sigma² I)^-1 (y - m), which is what a linear
    denoising autoencoder learns.
    """
    mean = train.mean(axis=0)
    centred = train - mean
    covariance = centred.T @ centred / len(train)
    spoilt_mean = noise.kept * mean + noise.offset
    spoilt_covariance = noise.kept**2 * covariance
    square = noise.kept * np.square(train).mean(axis=0) + noise.power
    np.fill_diagonal(spoilt_covariance, square - spoilt_mean**2)
    gain = np.linalg.solve(spoilt_covariance, noise.kept * covariance).T
    estimate: Rows = mean + (spoilt - spoilt_mean) @ gain.T
    return estimate


def squared_error(estimate: Rows, rows: Rows) -> float:
    """The mean over the pictures of the squared error summed over a picture."""
    return float(np.square(estimate - rows).sum(axis=1).mean())
