"""Principal components and the best linear estimate, against closed forms and least squares."""

import numpy as np
import pytest
from numpy.typing import NDArray

from atril_training.baselines.projection import (
    LinearNoise,
    best_linear_estimate,
    principal_components,
    squared_error,
)


def _rows(count: int = 400) -> NDArray[np.float64]:
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((5, 5))
    return np.clip(0.5 + 0.1 * generator.standard_normal((count, 5)) @ mixing, 0, 1)


def test_dropped_variances_are_the_error() -> None:
    """The squared error of k components is the sum of the variances of the others."""
    rows = _rows()
    components = principal_components(rows)
    for count in range(6):
        error = squared_error(components.project(rows, count), rows)
        assert error == pytest.approx(components.variances[count:].sum())
    np.testing.assert_allclose(components.axes @ components.axes.T, np.eye(5), atol=1e-12)


def test_no_component_is_the_mean_picture() -> None:
    """Without components every picture becomes the mean."""
    rows = _rows()
    projected = principal_components(rows).project(rows, 0)
    np.testing.assert_allclose(projected, np.tile(rows.mean(axis=0), (len(rows), 1)))


def test_best_linear_estimate_of_gaussian_noise_is_the_wiener_filter() -> None:
    """It is m + C (C + sigma² I)^-1 (y - m)."""
    rows, deviation = _rows(), 0.3
    spoilt = rows + deviation * np.random.default_rng(1).standard_normal(rows.shape)
    mean = rows.mean(axis=0)
    covariance = np.cov(rows.T, bias=True)
    gain = covariance @ np.linalg.inv(covariance + deviation**2 * np.eye(5))
    noise = LinearNoise(kept=1.0, offset=0.0, power=deviation**2)
    np.testing.assert_allclose(
        best_linear_estimate(rows, noise, spoilt), mean + (spoilt - mean) @ gain.T
    )


@pytest.mark.parametrize("white", [0.0, 0.15], ids=["masking", "salt and pepper"])
def test_best_linear_estimate_of_replaced_values_is_that_of_least_squares(white: float) -> None:
    """Where 30 % of the values are replaced, a regression on 200,000 spoilt rows finds the same."""
    generator = np.random.default_rng(2)
    rows = _rows()
    clean = rows[generator.integers(len(rows), size=200_000)]
    draw = generator.random(clean.shape)
    spoilt = np.where(draw < 0.3, (draw < white).astype(float), clean)
    design = np.column_stack([spoilt, np.ones(len(spoilt))])
    expected = design @ np.linalg.lstsq(design, clean, rcond=None)[0]
    got = best_linear_estimate(rows, LinearNoise(0.7, offset=white, power=white), spoilt)
    assert squared_error(got, expected) < 0.002 * squared_error(clean.mean(axis=0), clean)
