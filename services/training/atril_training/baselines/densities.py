"""Distributions of pictures that need no network.

Dimensions: N pictures, D values a picture.
"""

import math

import numpy as np

from atril_training.baselines.projection import Rows


def independent_bits(train: Rows, test: Rows) -> float:
    """Nats a picture, -log p(x), where every pixel is on with its share in the training pictures.

    The shares are counted with one more of each value (Laplace), so that none is 0 or 1.

    Args:
        train: probabilities or bits, [N, D].
        test: bits, [N, D].
    """
    share = (train.sum(axis=0) + 1) / (len(train) + 2)
    log_likelihood = test @ np.log(share) + (1 - test) @ np.log1p(-share)
    return -float(log_likelihood.mean())


def independent_gaussians(train: Rows, test: Rows, smallest_deviation: float) -> float:
    """Nats a picture under the mean and the variance of each pixel, none below the smallest."""
    variances = np.maximum(train.var(axis=0), smallest_deviation**2)
    squared = np.square(test - train.mean(axis=0)) / variances
    return float(0.5 * (squared + np.log(2 * math.pi * variances)).sum(axis=1).mean())


def joint_gaussian(train: Rows, test: Rows, smallest_deviation: float) -> float:
    """Nats a picture under mean and covariance, no direction's variance below the smallest."""
    centred = train - train.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(train))
    rotated, mean = test @ axes, train.mean(axis=0) @ axes
    variances = np.maximum(variances, smallest_deviation**2)
    squared = np.square(rotated - mean) / variances
    return float(0.5 * (squared + np.log(2 * math.pi * variances)).sum(axis=1).mean())
