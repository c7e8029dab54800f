"""How well one number (FLOPs, or seconds) prices joules after the best scale, and per-kind sums beside it.

Scales minimize the mean absolute percentage error itself, so that FLOPs get the best chance: one parameter (c·x, a
weighted median), two (a + b·x, by reweighted least squares). Errors are of networks the scale has not seen: ten
random five-fold splits, and each family left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from measured_sets import Array, Codes

FOLDS, SPLITS, SPLITS_LARGE, LARGE = 5, 10, 2, 500
Predict = Callable[[Array], Array]
Fit = Callable[[Array, Array], Predict]


def one_parameter(x: Array, y: Array) -> Predict:
    """c·x with the c that minimizes Σ|c·x/y − 1|: the median of y/x weighted by x/y; ``x`` (n, 1)."""
    ratio = y / x[:, 0]
    order = np.argsort(ratio)
    reached = np.cumsum(1.0 / ratio[order])
    c = float(ratio[order][np.searchsorted(reached, reached[-1] / 2)])
    return lambda new: c * new[:, 0]


def two_parameters(x: Array, y: Array) -> Predict:
    """a + b·x that minimizes Σ|(a + b·x)/y − 1|, by iteratively reweighted least squares; ``x`` (n, 1)."""
    columns = np.column_stack([1.0 / y, x[:, 0] / y])
    weight = np.ones(len(y))
    found = np.zeros(2)
    for _ in range(100):
        root = np.sqrt(weight)
        found, *_ = np.linalg.lstsq(columns * root[:, None], root, rcond=None)
        weight = 1.0 / np.maximum(np.abs(columns @ found - 1.0), 1e-4)
    a, b = found
    return lambda new: a + b * new[:, 0]


def constant(x: Array, y: Array) -> Predict:
    """The same for every network: what is left when nothing is known."""
    best = one_parameter(np.ones_like(x), y)
    return lambda new: best(np.ones_like(new))


def non_negative(x: Array, y: Array) -> Predict:
    """Non-negative least squares of relative errors over the columns of ``x`` (n, k)."""
    beta = non_negative_coefficients(x, y)
    return lambda new: new @ beta


def non_negative_coefficients(x: Array, y: Array, weights: Array | None = None) -> Array:
    """Coefficients ≥ 0 (k,) of y ≈ x·β, relative errors squared; ``weights`` of the rows."""
    from scipy.optimize import nnls

    root = 1.0 / y if weights is None else np.sqrt(weights) / y
    largest = np.maximum(np.abs(x).max(axis=0), 1e-300)
    solution, _ = nnls(x / largest * root[:, None], y * root, maxiter=50 * x.shape[1])
    return np.asarray(solution / largest)


def random_fold_errors(fit: Fit, x: Array, y: Array, seed: int = 0) -> npt.NDArray[np.float64]:
    """Relative errors (splits, n) of each network by fits on the other folds of a random split."""
    x = x.reshape(len(y), -1)
    rng = np.random.default_rng(seed)
    splits = SPLITS if len(y) <= LARGE else SPLITS_LARGE
    return np.array([_held_out(fit, x, y, rng.permutation(len(y)) % FOLDS) for _ in range(splits)])


def family_errors(fit: Fit, x: Array, y: Array, family: Codes) -> Array:
    """Relative errors (n,) of each network by a fit on all other families."""
    return _held_out(fit, x.reshape(len(y), -1), y, family)


def _held_out(fit: Fit, x: Array, y: Array, fold: Codes) -> Array:
    error = np.empty(len(y))
    for one in np.unique(fold):
        out = fold == one
        error[out] = fit(x[~out], y[~out])(x[out]) / y[out] - 1.0
    return error
