"""Physical regressors: non-negative combinations of work and traffic, as a sum or as a smooth maximum.

The roofline model is Williams, Waterman, Patterson (CACM 2009): a kernel takes the longer of its arithmetic and its
memory traffic. Real machines overlap the two partly, so the exponent p of ``(compute^p + traffic^p)^(1/p)`` is fitted
(1 = one after the other, large = perfect overlap), and a launch constant stands outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats, KernelColumns, physical_terms

TINY = 1e-30


class NonNegative:
    """cost = Σ b_j·term_j with b_j ≥ 0, minimizing relative error (rows scaled by 1/cost)."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self.coefficients_: Floats = np.zeros(0)

    def fit(self, columns: KernelColumns, log_cost: Floats, weight: Floats) -> NonNegative:
        """Fit to log costs (n,) with row weights (n,)."""
        from scipy.optimize import nnls

        terms = np.hstack(physical_terms(columns, self.kinds))
        scaled = terms * (np.sqrt(weight) / np.exp(log_cost))[:, None]
        size = scaled.max(axis=0)
        size[size == 0] = np.inf
        size[_repeats(scaled / size)] = np.inf
        # One more row a column shrinks the coefficients of collinear terms a little towards each other.
        ridge = 1e-3 * np.sqrt(weight.sum()) * np.eye(terms.shape[1])
        design = np.vstack([scaled / size, ridge])
        target = np.concatenate([np.sqrt(weight), np.zeros(terms.shape[1])])
        self.coefficients_ = nnls(design, target, maxiter=50 * terms.shape[1])[0] / size
        return self

    def predict(self, columns: KernelColumns) -> Floats:
        """Log cost (n,)."""
        cost = np.hstack(physical_terms(columns, self.kinds)) @ self.coefficients_
        result: Floats = np.log(np.maximum(cost, TINY))
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The coefficients."""
        return {"coefficients": self.coefficients_}

    def from_arrays(self, arrays: Mapping[str, NDArray[np.generic]]) -> NonNegative:
        """Take over coefficients; returns self."""
        self.coefficients_ = np.asarray(arrays["coefficients"], dtype=np.float64)
        return self


class Roofline:
    """cost = other + (compute^p + traffic^p)^(1/p), terms chosen by a non-negative fit and then refined together."""

    STARTS = (1.3, 4.0)
    KEPT = 10

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self.compute_: Floats = np.zeros(0)
        self.traffic_: Floats = np.zeros(0)
        self.other_: Floats = np.zeros(0)
        self.power_ = 1.0

    def fit(self, columns: KernelColumns, log_cost: Floats, weight: Floats) -> Roofline:
        """Fit to log costs (n,) with row weights (n,)."""
        from scipy.optimize import least_squares

        terms = physical_terms(columns, self.kinds)
        start = NonNegative(self.kinds).fit(columns, log_cost, weight).coefficients_
        split = np.cumsum([part.shape[1] for part in terms])[:-1]
        guess = [_seeded(part, own, np.exp(log_cost)) for part, own in zip(terms, np.split(start, split), strict=True)]
        kept = [np.flatnonzero(own) for own in guess]
        parts = [part[:, index] for part, index in zip(terms, kept, strict=True)]
        initial = np.concatenate([np.log(own[index]) for own, index in zip(guess, kept, strict=True)])
        root = np.sqrt(weight / weight.mean())
        best = None
        for power in self.STARTS:
            x0 = np.concatenate([initial, [np.log(power)]])
            lower = np.concatenate([initial - 12.0, [0.0]])
            upper = np.concatenate([initial + 6.0, [np.log(12.0)]])

            def residual(x: Floats) -> Floats:
                value: Floats = root * (_smooth_maximum(parts, x)[0] - log_cost)
                return value

            def slope(x: Floats) -> Floats:
                value: Floats = root[:, None] * _smooth_maximum(parts, x)[1]
                return value

            found = least_squares(residual, x0, slope, bounds=(lower, upper), loss="soft_l1", f_scale=0.1, max_nfev=60)
            best = found if best is None or found.cost < best.cost else best
        assert best is not None
        self._take(best.x, kept, [part.shape[1] for part in terms])
        return self

    def _take(self, x: Floats, kept: list[NDArray[np.intp]], sizes: list[int]) -> None:
        full = [np.zeros(size) for size in sizes]
        position = 0
        for own, index in zip(full, kept, strict=True):
            own[index] = np.exp(x[position : position + len(index)])
            position += len(index)
        self.compute_, self.traffic_, self.other_ = full
        self.power_ = float(np.exp(x[-1]))

    def predict(self, columns: KernelColumns) -> Floats:
        """Log cost (n,)."""
        compute, traffic, other = physical_terms(columns, self.kinds)
        work, moved = compute @ self.compute_ + TINY, traffic @ self.traffic_ + TINY
        peak = np.maximum(work, moved)
        joined = peak * ((work / peak) ** self.power_ + (moved / peak) ** self.power_) ** (1 / self.power_)
        result: Floats = np.log(joined + other @ self.other_)
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The coefficients and the exponent."""
        return {
            "compute": self.compute_,
            "traffic": self.traffic_,
            "other": self.other_,
            "power": np.array([self.power_]),
        }

    def from_arrays(self, arrays: Mapping[str, NDArray[np.generic]]) -> Roofline:
        """Take over coefficients and exponent; returns self."""
        self.compute_ = np.asarray(arrays["compute"], dtype=np.float64)
        self.traffic_ = np.asarray(arrays["traffic"], dtype=np.float64)
        self.other_ = np.asarray(arrays["other"], dtype=np.float64)
        self.power_ = float(np.asarray(arrays["power"], dtype=np.float64)[0])
        return self


def _repeats(columns: Floats) -> NDArray[np.bool_]:
    """Which columns are multiples of an earlier one: the rows cannot tell them apart, and elsewhere they may differ."""
    length = np.sqrt((columns**2).sum(axis=0))
    unit = columns / np.where(length > 0, length, 1.0)
    same = np.triu((unit.T @ unit) > 1.0 - 1e-9, 1)
    return np.asarray(same.any(axis=0), dtype=np.bool_)


def _seeded(part: Floats, coefficients: Floats, cost: Floats) -> Floats:
    """The coefficients, with a small positive start where a whole part was left at zero.

    A sum may explain with work alone what a maximum needs traffic for; without a start it could never come back.
    """
    if coefficients.any():
        return coefficients
    seeded = np.zeros_like(coefficients)
    for column in np.flatnonzero(part.any(axis=0))[:3]:
        used = part[:, column] > 0
        seeded[column] = 0.03 * float(np.median(cost[used] / part[used, column]))
    return seeded


def _smooth_maximum(parts: list[Floats], x: Floats) -> tuple[Floats, Floats]:
    """Log cost (n,) and its Jacobian (n, len(x)) in log coefficients and log exponent."""
    sizes = np.cumsum([part.shape[1] for part in parts])
    power = float(np.exp(x[-1]))
    share = [part * np.exp(own) for part, own in zip(parts, np.split(x[:-1], sizes[:-1]), strict=True)]
    work, moved, other = (own.sum(axis=1) + TINY for own in share)
    peak = np.maximum(work, moved)
    a, b = work / peak, moved / peak
    total = a**power + b**power
    joined = peak * total ** (1 / power)
    cost = joined + other
    d_work = (a ** (power - 1)) * total ** (1 / power - 1)
    d_moved = (b ** (power - 1)) * total ** (1 / power - 1)
    logs = a**power * np.log(np.maximum(a, TINY)) + b**power * np.log(np.maximum(b, TINY))
    d_power = joined * (logs / (power * total) - np.log(total) / power**2) * power
    slope = [share[0] * d_work[:, None], share[1] * d_moved[:, None], share[2], d_power[:, None]]
    return np.log(cost), np.hstack(slope) / cost[:, None]
