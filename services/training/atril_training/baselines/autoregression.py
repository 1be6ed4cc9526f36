"""Linear forecasts of a series one step ahead: the last value again, and autoregressions.

Dimensions: N observations, K lags.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Autoregression:
    """x(t) = bias + Σ weights[k] · x(t-K+k), the weights in the order of time, [K]."""

    weights: NDArray[np.float64]
    bias: float

    @property
    def lags(self) -> int:
        """K."""
        return len(self.weights)

    def forecasts(self, values: NDArray[np.float64], start: int) -> NDArray[np.float64]:
        """Of each value from `start` on, given the true ones before it.

        Raises:
            ValueError: fewer than K values before the start.
        """
        if start < self.lags:
            raise ValueError(f"{self.lags} lags need as many values before, got {start}")
        windows = np.lib.stride_tricks.sliding_window_view(
            values[start - self.lags : -1], self.lags
        )
        forecasts: NDArray[np.float64] = windows @ self.weights + self.bias
        return forecasts


def persistence(lags: int = 1) -> Autoregression:
    """The last value again; of the lags only the last one counts."""
    return Autoregression(np.eye(1, lags, lags - 1)[0], 0.0)


def fit_autoregression(values: NDArray[np.float64], lags: int) -> Autoregression:
    """The least squares solution.

    Raises:
        ValueError: lags < 1, or fewer equations than unknowns.
    """
    if lags < 1 or len(values) - lags < lags + 1:
        raise ValueError(
            f"{lags} lags cannot be fitted to {len(values)} values: expected at least 1 lag, and "
            f"one value more than twice the lags"
        )
    windows = np.lib.stride_tricks.sliding_window_view(values[:-1], lags)
    return fit_to_windows(windows, values[lags:])


def fit_to_windows(windows: NDArray[np.float64], targets: NDArray[np.float64]) -> Autoregression:
    """The least squares solution for targets that follow windows, [N, K] and [N]."""
    design = np.column_stack([windows, np.ones(len(windows))])
    solution = np.linalg.lstsq(design, targets, rcond=None)[0].astype(np.float64)
    return Autoregression(solution[:-1], float(solution[-1]))


def choose_lags(values: NDArray[np.float64], most: int) -> int:
    """The number of lags with the least AIC, all of them judged on the same values.

    n · ln(mean squared residual) + 2 · (K + 1)

    Source: Akaike 1974, "A new look at the statistical model identification", IEEE Trans.
    Automatic Control 19(6).
    """

    def criterion(lags: int) -> float:
        fitted = fit_autoregression(values[most - lags :], lags)
        residuals = values[most:] - fitted.forecasts(values, most)
        return float(len(residuals) * np.log(np.mean(residuals**2)) + 2 * (lags + 1))

    return min(range(1, most + 1), key=criterion)


def root_mean_square(errors: NDArray[np.float64]) -> float:
    """√ of the mean of the squares."""
    return float(np.sqrt(np.mean(errors**2)))
