"""Distributions without a network, against their formulas and scikit-learn's."""

import math

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from atril_training.baselines.densities import (
    independent_bits,
    independent_gaussians,
    joint_gaussian,
)


def test_independent_bits_count_as_bernoulli() -> None:
    """Shares of (1 + 1)/4 and (2 + 1)/4 from two pictures: -log p by hand."""
    train = np.array([[0.0, 1.0], [1.0, 1.0]])
    test = np.array([[1.0, 1.0], [0.0, 0.0]])
    by_hand = -(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 4)) / 2
    assert independent_bits(train, test) == pytest.approx(by_hand)


def test_joint_gaussian_is_scikit_learns() -> None:
    """With enough pictures and no floor it is the one-component mixture of scikit-learn."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((500, 4)) @ generator.standard_normal((4, 4))
    library = GaussianMixture(reg_covar=0).fit(rows[:400])
    expected = -float(library.score(rows[400:]))
    assert joint_gaussian(rows[:400], rows[400:], 1e-9) == pytest.approx(expected)


def test_independent_gaussians_are_the_joint_one_of_uncorrelated_pixels() -> None:
    """On pixels that are uncorrelated exactly both give the same."""
    rows = np.array([[1.0, 2.0], [-1.0, 2.0], [1.0, -2.0], [-1.0, -2.0]])
    one = independent_gaussians(rows, rows, 1e-3)
    assert one == pytest.approx(joint_gaussian(rows, rows, 1e-3))
    assert one == pytest.approx(math.log(2 * math.pi) + 0.5 * math.log(4) + 1)


@pytest.mark.parametrize("density", [independent_gaussians, joint_gaussian])
def test_a_constant_pixel_has_the_smallest_deviation(density: object) -> None:
    """Its density is that of the floor, not infinite."""
    assert callable(density)
    rows = np.column_stack([np.array([1.0, -1.0]), np.zeros(2)])
    got = density(rows, rows, 0.1)
    assert got == pytest.approx(math.log(2 * math.pi) + 0.5 + math.log(0.1))
