"""A Gaussian process for thousands of rows: a smooth part in the sizes, a rougher part in everything else.

    log cost left by the anchor = coarse (Matérn-5/2 over log sizes) + fine (Matérn-3/2 over tiles, wastes, …) + noise

One length scale a feature (automatic relevance determination; Rasmussen and Williams 2006, ch. 4 and 5), maximized in
the marginal likelihood of a sample of the rows; the solution then uses all of them. The noise is a power of the row's
own cost, for what a sensor or a clock adds weighs more in short kernels; rows that fit badly count for less, as under
Student's t. The inverse of the covariance gives the errors on any left-out rows at once (ch. 5.4.2), so that
cross-validation, by random folds and by groups, costs no further fit (the hyper-parameters are those of all rows). Of
more rows than ``MOST_POINTS`` an even sample are points of the process, whose covariance takes 200 MB for 5,000 and 3.2
GB for 20,000 (subset of data, ch. 8.3.3); the others are predicted by those of them that are not left out as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats

ROOT3, ROOT5 = float(np.sqrt(3.0)), float(np.sqrt(5.0))
JITTER = 1e-8
ROWS_AT_ONCE = 1000  # covariances of so many rows with all points are made at a time
MOST_POINTS = 5000  # of more rows a sample: the covariance of the points is what memory and time go into


class _Prior(NamedTuple):
    centre: Floats
    precision: Floats
    low: Floats
    high: Floats


class _Sample(NamedTuple):
    """Which of the rows (n,) the process has as points, in order, and all rows' features (n, d) and targets (n,)."""

    points: NDArray[np.intp]
    features: Floats
    target: Floats

    def place(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """The number of each row among the points, -1 where it is none."""
        at = np.minimum(np.searchsorted(self.points, rows), len(self.points) - 1)
        return np.where(self.points[at] == rows, at, -1)


def _members(count: int) -> NDArray[np.intp]:
    """Which of so many rows become points: all of them, or an even sample of MOST_POINTS."""
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:MOST_POINTS])


class Process:
    """Posterior mean of the process; the first ``coarse`` features are the sizes that the smooth part sees."""

    TUNED, STEPS = 600, 50
    FREEDOM = 4.0  # of Student's t
    NOISE = (np.log(0.02), 1.0, -8.0, 0.0)  # prior mean of the logarithm, precision, bounds
    GROWTH = (0.0, 4.0, -1.5, 1.5)
    AMPLITUDES = ((np.log(0.2), 0.5, -7.0, 3.0), (np.log(0.1), 0.5, -7.0, 3.0))
    SCALES = ((np.log(2.0), 1.0, -3.0, 7.0), (np.log(6.0), 1.0, -3.0, 7.0))

    def __init__(self, coarse: int) -> None:
        self.coarse = coarse
        self.arrays_: dict[str, Floats] = {}
        self._inverse: Floats | None = None
        self._sample: _Sample | None = None
        self._dual: Floats = np.zeros(0)

    def fit(
        self,
        features: Floats,
        target: Floats,
        weight: Floats,
        size: Floats,
        tuned_on: NDArray[np.intp] | None = None,
    ) -> Process:
        """Fit to features (n, d), target (n,), weight (n,); ``size`` (n,) of order one: what the noise depends on.

        ``tuned_on``: the rows that the hyper-parameters see (else a sample of all).
        """
        from scipy.optimize import minimize

        spread = features.std(axis=0)
        used = spread > 1e-9
        inverse = np.where(used, 1.0 / np.where(used, spread, 1.0), 0.0)
        table = (features - features.mean(axis=0)) * inverse
        parts = [np.flatnonzero(used[: self.coarse]), self.coarse + np.flatnonzero(used[self.coarse :])]
        prior = self._prior([len(part) for part in parts])
        relative = weight / weight.mean()
        everyone = np.arange(len(target)) if tuned_on is None else tuned_on
        sample = np.random.default_rng(0).permutation(everyone)[: self.TUNED]

        def objective(x: Floats) -> tuple[float, Floats]:
            views = [table[np.ix_(sample, part)] for part in parts]
            return _negative_posterior(x, views, target[sample], size[sample], relative[sample], prior)

        bounds = list(zip(prior.low, prior.high, strict=True))
        options = {"maxiter": self.STEPS}
        found = minimize(objective, prior.centre, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
        amplitudes, scales = _unpacked(found, [len(part) for part in parts])
        noise = np.exp(2 * (found[0] + found[1] * size)) / relative
        factors = np.zeros((2, features.shape[1]))
        for row, part, own in zip(factors, parts, scales, strict=True):
            row[part] = inverse[part] * np.exp(-own)
        members = _members(len(target))
        self.from_arrays(
            {"centre": features.mean(axis=0), "factors": factors, "amplitudes": np.exp(2 * np.array(amplitudes))}
            | {"rows": features[members], "dual": np.zeros(len(members)), "coarse": np.array([float(self.coarse)])}
        )
        noise, own = noise[members], target[members]
        self._solve(own, noise)
        assert self._inverse is not None
        surprise = self._dual**2 / np.diag(self._inverse)
        trust = np.minimum((self.FREEDOM + 1) / (self.FREEDOM + surprise), 1 + 1 / self.FREEDOM)
        self._solve(own, noise / trust)
        if len(members) < len(target):
            self._sample = _Sample(members, features, target)
        return self

    def _prior(self, sizes: list[int]) -> _Prior:
        rows = [self.NOISE, self.GROWTH]
        for count, amplitude, scale in zip(sizes, self.AMPLITUDES, self.SCALES, strict=True):
            rows += [amplitude] + [scale] * count
        return _Prior(*np.array(rows, dtype=np.float64).T)

    def _solve(self, target: Floats, noise: Floats) -> None:
        from scipy.linalg import lapack

        self._inverse = None
        rows = self.arrays_["rows"]
        matrix = np.empty((len(rows), len(rows)), order="F")  # LAPACK works in it, and makes no other
        # A part at a time, where there are as many as ever; the parts' last bits are not those of the whole.
        at_once = ROWS_AT_ONCE if len(rows) >= MOST_POINTS else len(rows)
        for start in range(0, len(rows), at_once):
            own = slice(start, start + at_once)
            matrix[own] = self._covariance(rows[own])
        matrix[np.diag_indices(len(target))] += noise + JITTER
        lower, failed = lapack.dpotrf(matrix, lower=1, overwrite_a=1)
        if failed:
            raise np.linalg.LinAlgError("Gaussian process: the covariance of the rows is not positive definite")
        self._dual = lapack.dpotrs(lower, target, lower=1)[0]
        self.arrays_["dual"] = self._dual
        self._inverse = _mirrored(lapack.dpotri(lower, lower=1, overwrite_c=1)[0])

    def left_out(self, rows: NDArray[np.intp]) -> Floats:
        """Errors (target − prediction) of ``rows`` by the process without them; only until ``release``."""
        if self._inverse is None:
            raise RuntimeError("left-out errors of a Gaussian process: only right after fit")
        if self._sample is None:
            return self._without(rows)
        place = self._sample.place(rows)
        seen, unseen = place[place >= 0], rows[place < 0]
        errors, dual = np.zeros(len(rows)), self._dual.copy()
        if len(seen):
            errors[place >= 0] = self._without(seen)
            dual -= self._inverse[:, seen] @ errors[place >= 0]  # the weights of the process without them
            dual[seen] = 0.0
        predicted = self._weighed(self._sample.features[unseen], dual)
        errors[place < 0] = self._sample.target[unseen] - predicted
        return errors

    def _without(self, points: NDArray[np.intp]) -> Floats:
        """Errors of some of its points by the process without them."""
        assert self._inverse is not None
        return np.asarray(np.linalg.solve(self._inverse[np.ix_(points, points)], self._dual[points]), dtype=np.float64)

    def release(self) -> None:
        """Forget the inverse and the rows that are no points, which prediction does not need."""
        self._inverse = self._sample = None

    def predict(self, features: Floats) -> Floats:
        """Posterior mean (n,) of features (n, d)."""
        return self._weighed(features, self.arrays_["dual"])

    def _weighed(self, features: Floats, dual: Floats) -> Floats:
        parts = [
            self._covariance(features[start : start + ROWS_AT_ONCE]) @ dual
            for start in range(0, len(features), ROWS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _covariance(self, features: Floats) -> Floats:
        """Prior covariance (n, points) of the rows of ``features`` with the points of the process."""
        centred = features - self.arrays_["centre"]
        total: Floats | None = None
        for part, (points, length, factors) in enumerate(self._points):
            squares = _squares(centred[:, self._views[part]] * factors, points, length)
            own = _matern(squares, part)[0]
            own *= self.arrays_["amplitudes"][part]
            total = own if total is None else np.add(total, own, out=total)
        assert total is not None
        return total

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Centre, length scales, amplitudes, points and dual weights."""
        return dict(self.arrays_)

    def from_arrays(self, arrays: Mapping[str, NDArray[np.generic]]) -> Process:
        """Take over a fitted state; returns self."""
        self.arrays_ = {name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()}
        self.coarse = int(self.arrays_["coarse"][0])
        self._dual = self.arrays_["dual"]
        self._views = (slice(0, self.coarse), slice(self.coarse, None))
        centred = self.arrays_["rows"] - self.arrays_["centre"]
        self._points = []
        for view, factors in zip(self._views, self.arrays_["factors"], strict=True):
            points = np.ascontiguousarray(centred[:, view] * factors[view])
            self._points.append((points, (points**2).sum(axis=1), factors[view]))
        return self


def _squares(a: Floats, b: Floats, length_b: Floats) -> Floats:
    """Squared distances (n, m) of rows of a (n, d) and b (m, d)."""
    squares: Floats = a @ b.T
    squares *= -2.0
    squares += (a**2).sum(axis=1)[:, None]
    squares += length_b
    return np.maximum(squares, 0.0, out=squares)


def _matern(squares: Floats, part: int, slope: bool = False) -> tuple[Floats, Floats | None]:
    """Matérn-5/2 (part 0) or -3/2 (part 1) of squared distances; its factor on Δ²/ℓ² in the derivative by log ℓ.

    ``squares`` is written over: these tables are large, and memory is what evaluating them costs.
    """
    further = np.sqrt(squares)
    further *= ROOT3 if part else ROOT5
    decay = np.negative(further)
    np.exp(decay, out=decay)
    further += 1.0
    factor: Floats | None = None
    if slope:
        factor = 3.0 * decay if part else (5.0 / 3.0) * further * decay
    value = further
    if not part:
        value = squares
        value *= 5.0 / 3.0
        value += further
    value *= decay
    return value, factor


def _symmetric(lower: Floats) -> Floats:
    result: Floats = np.tril(lower)
    result += np.tril(lower, -1).T
    return result


def _mirrored(lower: Floats) -> Floats:
    """``_symmetric`` in the same place, for large ones: what is above the diagonal is written over."""
    for start in range(0, len(lower), ROWS_AT_ONCE):
        end = min(start + ROWS_AT_ONCE, len(lower))
        lower[start:end, end:] = lower[end:, start:end].T
        lower[start:end, start:end] = _symmetric(lower[start:end, start:end])
    return lower


def _unpacked(x: Floats, sizes: list[int]) -> tuple[list[float], list[Floats]]:
    """Log amplitudes and log length scales of the parts; x begins with the noise and its growth."""
    amplitudes, scales, at = [], [], 2
    for count in sizes:
        amplitudes.append(float(x[at]))
        scales.append(x[at + 1 : at + 1 + count])
        at += 1 + count
    return amplitudes, scales


def _negative_posterior(
    x: Floats, views: list[Floats], target: Floats, size: Floats, weight: Floats, prior: _Prior
) -> tuple[float, Floats]:
    """Negative log posterior of the hyper-parameters and its gradient (both (len(x),) or scalar)."""
    from scipy.linalg import lapack

    amplitudes, scales = _unpacked(x, [view.shape[1] for view in views])
    noise = np.exp(2 * (x[0] + x[1] * size)) / weight
    matrix = np.diag(noise + JITTER)
    parts = []
    for part, (view, amplitude, own) in enumerate(zip(views, amplitudes, scales, strict=True)):
        scaled = view * np.exp(-own)
        value, slope = _matern(_squares(scaled, scaled, (scaled**2).sum(axis=1)), part, slope=True)
        assert slope is not None
        value *= np.exp(2 * amplitude)
        slope *= np.exp(2 * amplitude)
        matrix += value
        parts.append((scaled, value, slope))
    lower, failed = lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if failed:
        return 1e10, np.zeros_like(x)
    dual = lapack.dpotrs(lower, target, lower=1)[0]
    away = x - prior.centre
    value_at = 0.5 * target @ dual + np.log(np.diag(lower)).sum() + 0.5 * (prior.precision * away**2).sum()
    inner = _symmetric(lapack.dpotri(lower, lower=1, overwrite_c=1)[0])
    inner -= np.outer(dual, dual)
    gradient = prior.precision * away
    diagonal = np.diag(inner) * noise
    gradient[0] += diagonal.sum()
    gradient[1] += (diagonal * size).sum()
    at = 2
    for scaled, value, slope in parts:
        slope *= inner
        gradient[at] += np.vdot(inner, value)
        # Σ_ij W_ij (u_i − u_j)² / 2 for every feature u, without a table of differences
        own = (scaled**2 * slope.sum(axis=1)[:, None]).sum(axis=0) - ((slope @ scaled) * scaled).sum(axis=0)
        gradient[at + 1 : at + 1 + scaled.shape[1]] += own
        at += 1 + scaled.shape[1]
    return float(value_at), gradient
