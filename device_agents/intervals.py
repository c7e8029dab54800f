"""Confidence intervals of means over windows, with the standard library alone."""

import math
from typing import Dict, List, Optional, Sequence

# Stopping before so many windows is a matter of the plan, not of the scatter.
FIRST_STOP = 10

# How much wider an interval is that was looked at after so few windows, and after how many no more.
EARLY_LOOK, EARLY_UNTIL = 0.25, 20

_quantiles: Dict[int, float] = {}


def student_t_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t with ``degrees`` >= 1 degrees of freedom (two-sided 95 %).

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4 (finite series for whole degrees), inverted by bisection.
    """
    if degrees < 1:
        raise ValueError("Student's t needs at least 1 degree of freedom, not %d" % degrees)
    if degrees not in _quantiles:
        low, high = 0.0, 13.0
        while high - low > 1e-9:
            middle = 0.5 * (low + high)
            if _central_probability(middle, degrees) < 0.95:
                low = middle
            else:
                high = middle
        _quantiles[degrees] = high
    return _quantiles[degrees]


def _central_probability(t: float, degrees: int) -> float:
    """P(|T| < t)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine_sq = math.cos(angle) ** 2
    odd = degrees % 2
    term, total = 1.0, 1.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine_sq * (k - 1) / k
        total += term
    if not odd:
        return math.sin(angle) * total
    rest = math.sin(angle) * math.cos(angle) * total if degrees > 1 else 0.0
    return 2.0 / math.pi * (angle + rest)


def half_width(means: Sequence[float], looked: bool = False) -> float:
    """Half-width of the 95 % interval of the mean of at least two window means.

    ``looked``: measuring goes on until this very interval is narrow. Method of batch means: each window is a batch.
    These make it wider than Student's t alone:

    - Where neighbouring windows are still correlated (lag-one correlation r above chance), the variance of the mean
      grows by (1 + r) / (1 - r).
    - A measurement stops when the interval happens to be narrow, that is when the scatter is underestimated. So the
      scatter is the largest that was seen since half as many windows (ten at least): Chow and Robbins' rule (1965)
      is right only in the limit.
    - Interruptions make windows skewed, and the mean is then more often too low than t allows: the half-width grows by
      the term of Johnson's modified t (J. Am. Stat. Assoc. 73, 536, 1978) for the longer side, skewness t / (3 root n).
    - Where fewer interruptions than usual fell into the first ten windows, mean and scatter are both too low: who looks
      then, stops then (89 % were held instead of 95, on simulated boards as in theory). So the first looks are
      stricter, by a quarter at ten windows and less and less until twenty.
    """
    n = len(means)
    mean = sum(means) / n
    deviations = [value - mean for value in means]
    squares = sum(d * d for d in deviations)
    if squares == 0.0:
        return 0.0
    neighbours = zip(deviations, deviations[1:])  # noqa: RUF007 - pairwise came with Python 3.10
    lag_one = sum(a * b for a, b in neighbours) / squares
    r = min(lag_one, 0.9) if lag_one > 2.0 / math.sqrt(n) else 0.0
    spread = math.sqrt(squares / n)
    skewness = abs(sum((d / spread) ** 3 for d in deviations)) / n
    quantile = student_t_975(n - 1)
    skew = 1.0 + skewness * quantile / (3.0 * math.sqrt(n))
    early = EARLY_LOOK * min(1.0, max(0.0, float(EARLY_UNTIL - n) / (EARLY_UNTIL - FIRST_STOP))) if looked else 0.0
    return quantile * math.sqrt(_largest_variance(deviations) / n * (1.0 + r) / (1.0 - r)) * skew * (1.0 + early)


def _largest_variance(deviations: Sequence[float]) -> float:
    """The largest variance of the first k values, for k from half of them (ten at least) to all."""
    n = len(deviations)
    total = squares = largest = 0.0
    for k, value in enumerate(deviations, start=1):
        total += value
        squares += value * value
        if k >= 2 and k >= min(n, max(FIRST_STOP, n // 2)):
            largest = max(largest, (squares - total * total / k) / (k - 1))
    return largest


def relative_half_width(means: Sequence[float]) -> Optional[float]:
    """``half_width`` of what is looked at, relative to the mean; None with fewer than 3 windows, or a mean of 0."""
    mean = sum(means) / len(means) if means else 0.0
    if len(means) < 3 or mean == 0.0:
        return None
    return half_width(means, looked=True) / abs(mean)


def has_no_slope(values: Sequence[float], tolerance: float) -> bool:
    """Whether ``values`` (equally spaced) are level.

    Level means that the fitted change over their span is below ``tolerance`` of their mean, or that the slope cannot be
    told from zero at 95 % while the values scatter by no more than five times the tolerance.
    """
    n = len(values)
    mean = sum(values) / n
    if n < 3 or mean == 0.0:
        return False
    centre = 0.5 * (n - 1)
    spread = sum((i - centre) ** 2 for i in range(n))
    slope = sum((i - centre) * (v - mean) for i, v in enumerate(values)) / spread
    if abs(slope) * (n - 1) <= tolerance * abs(mean):
        return True
    residual = sum((v - mean - slope * (i - centre)) ** 2 for i, v in enumerate(values))
    slope_error = math.sqrt(residual / (n - 2) / spread)
    scatter = math.sqrt(residual / (n - 2))
    return abs(slope) < student_t_975(n - 2) * slope_error and scatter <= 5.0 * tolerance * abs(mean)


def thin(values: Sequence[float], limit: int) -> List[float]:
    """At most ``limit`` of the values, evenly spaced over the whole, in order."""
    n = len(values)
    if n <= limit:
        return list(values)
    return [values[i * n // limit] for i in range(limit)]
