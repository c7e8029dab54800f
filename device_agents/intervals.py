"""Confidence intervals of means over windows, with the standard library alone."""

import math
from typing import Dict, List, Optional, Sequence

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


def relative_half_width(means: Sequence[float]) -> Optional[float]:
    """Half-width of the 95 % interval of the mean of window means, relative to that mean; None with fewer than 3.

    Method of batch means: each window is a batch. Where neighbouring windows are still correlated (lag-one
    correlation r above chance), the variance of the mean is widened by (1 + r) / (1 - r).
    """
    n = len(means)
    if n < 3:
        return None
    mean = sum(means) / n
    if mean == 0.0:
        return None
    deviations = [value - mean for value in means]
    squares = sum(d * d for d in deviations)
    if squares == 0.0:
        return 0.0
    neighbours = zip(deviations, deviations[1:])  # noqa: RUF007 - pairwise came with Python 3.10
    lag_one = sum(a * b for a, b in neighbours) / squares
    widening = 1.0
    if lag_one > 2.0 / math.sqrt(n):
        r = min(lag_one, 0.9)
        widening = math.sqrt((1.0 + r) / (1.0 - r))
    error = math.sqrt(squares / (n - 1) / n) * widening
    return student_t_975(n - 1) * error / abs(mean)


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
