"""A Gaussian process for what a physical model leaves: smooth, small, and falling back to zero far from the data.

Matérn-3/2 with one length scale a feature (Rasmussen and Williams 2006, ch. 4 and 5); the marginal likelihood is
maximized with weak priors on the logarithms of amplitude, noise and length scales, so that few rows stay tame.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats

ROOT3 = float(np.sqrt(3.0))


class GaussianResidual:
    """Posterior mean of a zero-mean process over standardized features."""

    STEPS = 40
    MOST_TUNED = 220
    PRIOR_SCALE, PRIOR_AMPLITUDE, PRIOR_NOISE = np.log(4.0), np.log(0.08), np.log(0.015)

    def __init__(self) -> None:
        self.centre_: Floats = np.zeros(0)
        self.inverse_scale_: Floats = np.zeros(0)
        self.points_: Floats = np.zeros((0, 0))
        self.dual_: Floats = np.zeros(0)

    def fit(self, features: Floats, target: Floats, weight: Floats) -> GaussianResidual:
        """Fit to features (n, d), target (n,), weight (n,)."""
        from scipy.linalg import cho_factor, cho_solve
        from scipy.optimize import minimize

        spread = features.std(axis=0)
        self.centre_ = features.mean(axis=0)
        used = spread > 1e-9
        table = (features - self.centre_)[:, used] / spread[used]
        noise_shape = weight.mean() / weight
        # The few hyper-parameters need not see every row of many; the process itself does.
        tuned = np.random.default_rng(0).permutation(len(target))[: self.MOST_TUNED]
        squares = (table[tuned, None, :] - table[None, tuned, :]) ** 2

        def objective(x: Floats) -> tuple[float, Floats]:
            return _negative_evidence(x, squares, target[tuned], noise_shape[tuned])

        start = np.concatenate([[self.PRIOR_AMPLITUDE, self.PRIOR_NOISE], np.full(table.shape[1], self.PRIOR_SCALE)])
        bounds = [(-7.0, 2.0), (-7.0, 0.0)] + [(-1.5, 6.0)] * table.shape[1]
        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": self.STEPS})
        amplitude, noise, scales = np.exp(found.x[0]), np.exp(found.x[1]), np.exp(found.x[2:])
        self.inverse_scale_ = np.zeros(len(used))
        self.inverse_scale_[used] = 1.0 / (spread[used] * scales)
        self.points_ = (features - self.centre_) * self.inverse_scale_
        matrix = amplitude**2 * _matern(_distance(self.points_, self.points_)) + np.diag(noise**2 * noise_shape)
        self.dual_ = amplitude**2 * cho_solve(cho_factor(matrix), target)
        return self

    def predict(self, features: Floats) -> Floats:
        """Posterior mean (n,) of features (n, d)."""
        points = (features - self.centre_) * self.inverse_scale_
        result: Floats = _matern(_distance(points, self.points_)) @ self.dual_
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Centre, scales, training points and dual weights."""
        return {
            "centre": self.centre_,
            "inverse_scale": self.inverse_scale_,
            "points": self.points_,
            "dual": self.dual_,
        }

    def from_arrays(self, arrays: Mapping[str, NDArray[np.generic]]) -> GaussianResidual:
        """Take over a fitted state; returns self."""
        self.centre_ = np.asarray(arrays["centre"], dtype=np.float64)
        self.inverse_scale_ = np.asarray(arrays["inverse_scale"], dtype=np.float64)
        self.points_ = np.asarray(arrays["points"], dtype=np.float64)
        self.dual_ = np.asarray(arrays["dual"], dtype=np.float64)
        return self


def _distance(a: Floats, b: Floats) -> Floats:
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    result: Floats = np.sqrt(np.maximum(square, 0.0))
    return result


def _matern(distance: Floats) -> Floats:
    scaled = ROOT3 * distance
    result: Floats = (1.0 + scaled) * np.exp(-scaled)
    return result


def _negative_evidence(x: Floats, squares: Floats, target: Floats, noise_shape: Floats) -> tuple[float, Floats]:
    """Negative log posterior of hyper-parameters (log amplitude, log noise, log scales) and its gradient."""
    from scipy.linalg import cho_factor, cho_solve

    amplitude2, noise2, inverse = np.exp(2 * x[0]), np.exp(2 * x[1]), np.exp(-2 * x[2:])
    distance = np.sqrt(squares @ inverse)
    decay = np.exp(-ROOT3 * distance)
    kernel = amplitude2 * (1 + ROOT3 * distance) * decay
    matrix = kernel + np.diag(noise2 * noise_shape + 1e-10)
    factor = cho_factor(matrix, lower=True)
    dual = cho_solve(factor, target)
    inner = cho_solve(factor, np.eye(len(target))) - np.outer(dual, dual)
    value = 0.5 * target @ dual + np.log(np.diag(factor[0])).sum()
    gradient = np.empty_like(x)
    gradient[0] = (inner * kernel).sum()
    gradient[1] = noise2 * (np.diag(inner) * noise_shape).sum()
    gradient[2:] = 0.5 * np.tensordot(inner * (3 * amplitude2 * decay), squares, 2) * inverse
    centre = np.concatenate(
        [
            [GaussianResidual.PRIOR_AMPLITUDE, GaussianResidual.PRIOR_NOISE],
            np.full(len(x) - 2, GaussianResidual.PRIOR_SCALE),
        ]
    )
    value += 0.5 * ((x - centre) ** 2).sum()
    return float(value), gradient + (x - centre)
