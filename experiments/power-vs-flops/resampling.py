"""Confidence intervals by bootstrap over networks, drawn in clusters (an architecture with all its resolutions).

A draw is a vector of weights: how often each network was drawn. Statistics are written for a matrix of such draws,
(draws, n), so that thousands of draws of a rank correlation or of pair counts are a few matrix products. Every
statistic of weights is that of the replicated sample; weights of one are the sample itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from measured_sets import Array, Codes

Statistic = Callable[[Array], Array]  # (draws, n) → (draws,)
LEVEL = 0.95
DRAWS, DRAWS_LARGE, LARGE = 2000, 300, 500  # fewer draws where more than LARGE networks make each one dearer


def draws_of(label: str, clusters: Codes, count: int | None = None) -> Array:
    """Weights (draws, n): clusters drawn with replacement, as many as there are; the seed is the label's."""
    rng = np.random.default_rng(zlib.crc32(label.encode()))
    number = int(clusters.max()) + 1
    several = count or (DRAWS if len(clusters) <= LARGE else DRAWS_LARGE)
    drawn = rng.multinomial(number, np.full(number, 1.0 / number), size=several)
    return drawn[:, clusters].astype(np.float64)


def estimate(statistic: Statistic, draws: Array) -> dict[str, float | None]:
    """The statistic with its percentile interval, ``{"value", "lo", "hi"}``; undefined draws are left out."""
    return stated(float(statistic(np.ones((1, draws.shape[1])))[0]), statistic(draws))


def stated(value: float, drawn: Array) -> dict[str, float | None]:
    """A value with the interval of what the draws gave; no interval where no draw gave any."""
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value):
        return {"value": None, "lo": None, "hi": None}
    if not len(drawn):
        return {"value": value, "lo": None, "hi": None}
    lo, hi = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": value, "lo": float(lo), "hi": float(hi)}


# --- statistics of weights ----------------------------------------------------------------------------------------


def mean(values: Array) -> Statistic:
    """Weighted mean."""
    return lambda w: w @ values / w.sum(axis=1)


def quantile(values: Array, share: float) -> Statistic:
    """Weighted quantile: the smallest value that has at least ``share`` of the weight at or below it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]

    def statistic(w: Array) -> Array:
        reached = np.cumsum(w[:, order], axis=1)
        place = (reached < share * reached[:, -1:] - 1e-9).sum(axis=1)
        return ordered[np.minimum(place, len(ordered) - 1)]

    return statistic


def spearman(x: Array, y: Array) -> Statistic:
    """Spearman's rank correlation."""
    rank_x, rank_y = _ranks(x), _ranks(y)
    return lambda w: _correlation(rank_x(w), rank_y(w), w)


def kendall(x: Array, y: Array) -> Statistic:
    """Kendall's tau-b: agreeing pairs less disagreeing ones, of the pairs that differ in both."""
    sign_x, sign_y = _signs(x), _signs(y)
    agree, differ_x, differ_y = sign_x * sign_y, np.abs(sign_x), np.abs(sign_y)

    def statistic(w: Array) -> Array:
        untied = pair_sums(differ_x, w) * pair_sums(differ_y, w)
        return np.asarray(pair_sums(agree, w) / np.sqrt(np.where(untied > 0, untied, np.nan)))

    return statistic


def pair_sums(matrix: npt.NDArray[np.float32], w: Array) -> Array:
    """Σ w_i w_j matrix_ij of each draw: counts (or sums) over ordered pairs."""
    light = w.astype(np.float32)
    return np.asarray(((light @ matrix) * light).sum(axis=1), dtype=np.float64)


def _signs(x: Array) -> npt.NDArray[np.float32]:
    return np.sign(x[:, None] - x[None, :]).astype(np.float32)


def _ranks(x: Array) -> Callable[[Array], Array]:
    """Mid-ranks of the replicated sample, (draws, n)."""
    order = np.argsort(x, kind="stable")
    first = np.flatnonzero(np.concatenate(([True], np.diff(x[order]) > 0)))
    group = np.empty(len(x), dtype=np.int64)
    group[order] = np.repeat(np.arange(len(first)), np.diff([*first, len(x)]))

    def ranks(w: Array) -> Array:
        of_group = np.add.reduceat(w[:, order], first, axis=1)
        return (np.cumsum(of_group, axis=1) - of_group / 2)[:, group]

    return ranks


def _correlation(a: Array, b: Array, w: Array) -> Array:
    total = w.sum(axis=1, keepdims=True)
    a = a - (w * a).sum(axis=1, keepdims=True) / total
    b = b - (w * b).sum(axis=1, keepdims=True) / total
    spread = (w * a * a).sum(axis=1) * (w * b * b).sum(axis=1)
    return np.asarray((w * a * b).sum(axis=1) / np.sqrt(np.where(spread > 0, spread, np.nan)))


def rounded(value: Any, digits: int = 6) -> Any:
    """A JSON value with floats of ``digits`` significant digits: files shall not differ by a machine's last bit."""
    if isinstance(value, dict):
        return {key: rounded(inner, digits) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner, digits) for inner in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{float(value):.{digits}g}") if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
