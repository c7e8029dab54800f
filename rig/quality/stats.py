"""Means, quantiles and slopes of autocorrelated samples, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from device_agents.intervals import half_width, student_t_975

NORMAL_975 = 1.959963984540054


class Interval(NamedTuple):
    """A mean with the half-width of its 95 % interval; ``n``: windows behind it."""

    mean: float
    half_width: float
    n: int


class Slope(NamedTuple):
    """A straight line through equally spaced values: its change over their span, and that over its 95 % half-width."""

    change: float
    significance: float


def quadrature(*parts: float) -> float:
    """Root of the sum of squares."""
    return math.sqrt(sum(part * part for part in parts))


def batch_means(means: Sequence[float], weights: Sequence[float] | None = None, looked: bool = False) -> Interval:
    """Mean over windows with its interval by the method of batch means; one window alone has an infinite half-width.

    Each window is a batch: its samples may be correlated. ``weights``: samples a window. ``looked``: measuring
    stopped when this interval was narrow; the half-width is then the agent's own (``device_agents.intervals``).
    Source: Law, Simulation Modeling and Analysis, on the method of batch means.
    """
    values = np.asarray(means, dtype=float)
    n = len(values)
    mean = float(np.average(values, weights=weights))
    if n < 2:
        return Interval(mean, math.inf, n)
    return Interval(mean, half_width(values.tolist(), looked), n)


def slope_over(values: Sequence[float]) -> Slope:
    """The straight line through values taken one after the other; fewer than three have no slope to judge."""
    y = np.asarray(values, dtype=float)
    n = len(y)
    if n < 3:
        return Slope(0.0, 0.0)
    x = np.arange(n) - 0.5 * (n - 1)
    spread = float(x @ x)
    slope = float(x @ y) / spread
    residuals = y - y.mean() - slope * x
    error = math.sqrt(float(residuals @ residuals) / (n - 2) / spread)
    half_width = student_t_975(n - 2) * error
    if half_width == 0.0:
        return Slope(slope * (n - 1), math.inf if slope else 0.0)
    return Slope(slope * (n - 1), abs(slope) / half_width)


def inefficiency(batches: Sequence[Sequence[float]], counts: Sequence[int]) -> float:
    """How many correlated samples are worth one independent sample (at least 1).

    From the variance of the batch means times the batch size, over the variance of the samples.
    """
    pooled = np.concatenate([np.asarray(batch, dtype=float) for batch in batches])
    if len(batches) < 3 or len(pooled) < 3 or pooled.var() == 0.0:
        return 1.0
    means = [float(np.mean(batch)) for batch in batches]
    return max(1.0, float(np.mean(counts)) * float(np.var(means, ddof=1)) / float(pooled.var(ddof=1)))


def quantile(samples: np.ndarray, share: float, independent: float) -> tuple[float, float | None, float | None]:
    """(value, lo, hi) of a quantile of the samples; no interval where fewer than one sample lies beyond it.

    ``independent``: the number of independent samples. The interval is the binomial one, by order statistics.
    """
    value = float(np.quantile(samples, share))
    reach = NORMAL_975 * math.sqrt(share * (1.0 - share) / independent)
    if share + reach >= 1.0 or share - reach <= 0.0 or independent * (1.0 - share) < 1.0:
        return value, None, None
    return value, float(np.quantile(samples, share - reach)), float(np.quantile(samples, share + reach))
