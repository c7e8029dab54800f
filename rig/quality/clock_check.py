"""Does the trace show the load when the map of the clocks says it ran? The lag of its edges, by cross-correlation.

     load    ____|▔▔▔▔▔▔▔▔▔▔▔▔|____      known edges: the warm-up's start and the last window's end, runtime's clock
     trace   ____/▔▔▔▔▔▔▔▔▔▔▔▔\\____      the same, blurred by the sensor's averaging window, mapped onto that clock
                |→ lag                   the shift at which the blurred load correlates best with the trace

Exchanges of time stamps say how two clocks stand to each other; they say nothing of a meter that stamps its samples
late, averages over more than it declares, or was taken for another one. The trace itself does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rig.quality.power import PowerCurve
from rig.quality.stats import quadrature

DEVICE_CLOCKS = ("boottime", "monotonic")  # of the sources that are stamped by the runtime's own clock
SEARCH_S = 1.0  # lags looked for, at most; less where the quiet phase is short
CHI_SQUARED_95 = 3.841458820694124  # one degree of freedom
COARSE, FINE = 121, 81  # lags tried: over the whole search, and around the best
FEWEST_SAMPLES = 8


class Lag(NamedTuple):
    """How much later than the map says the load's edges are in the trace (s), its 95 % half-width, edges used."""

    lag_s: float
    uncertainty_s: float
    edges: int

    def excess_s(self, curve: PowerCurve) -> float:
        """How far the lag is beyond what its own and the map's uncertainty, and half a sample, leave open (s)."""
        return max(0.0, abs(self.lag_s) - self.uncertainty_s - curve.shift_s - 0.5 * curve.period_s)


def edge_lag(phases: Sequence[Mapping[str, Any]], curve: PowerCurve) -> Lag | None:
    """The lag of the trace behind the load; None where the load's edges cannot be told from the noise.

    ``phases``: of the record, with quiet phases before and after. Each edge is looked for by itself; where the two
    disagree by more than they can, half of their difference is the uncertainty.
    """
    load = [phase for phase in phases if phase["name"] in ("warmup", "window")]
    before = [phase for phase in phases if phase["name"] == "quiet_before"]
    after = [phase for phase in phases if phase["name"] == "quiet_after"]
    if not load:
        return None
    begin_s, end_s = load[0]["t0_s"], load[-1]["t1_s"]
    found = []
    if before:
        found.append(_edge(curve, begin_s, before[0]["t0_s"], end_s, 1.0))
    if after:
        found.append(_edge(curve, end_s, begin_s, after[0]["t1_s"], -1.0))
    edges = [edge for edge in found if edge is not None]
    if not edges:
        return None
    weights = np.asarray([1.0 / max(edge.uncertainty_s, 1e-9) ** 2 for edge in edges])
    lags = np.asarray([edge.lag_s for edge in edges])
    alone_s = 1.0 / math.sqrt(float(weights.sum()))
    return Lag(float(np.average(lags, weights=weights)), max(alone_s, 0.5 * float(np.ptp(lags))), len(edges))


def _edge(curve: PowerCurve, at_s: float, from_s: float, to_s: float, sign: float) -> Lag | None:
    """The lag of one edge at ``at_s``, between two times that no other edge is near; ``sign``: 1 up, -1 down."""
    ends, watts, blur_s = curve.averages()
    search_s = min(SEARCH_S, 0.5 * (at_s - from_s) - blur_s, 0.5 * (to_s - at_s) - blur_s)
    reach_s = 2.0 * search_s + blur_s
    near = np.abs(ends - at_s - 0.5 * blur_s) <= reach_s
    times, power = ends[near] - at_s, sign * watts[near]
    if search_s < 2.0 * curve.period_s or len(times) < FEWEST_SAMPLES:
        return None
    around = power - power.mean()
    total = float(around @ around)
    if total == 0.0:
        return None
    coarse = np.linspace(-search_s, search_s, COARSE)
    best = coarse[int(np.argmax(_correlation(times, around, coarse, blur_s)))]
    step = coarse[1] - coarse[0]
    fine = np.linspace(best - 2.0 * step, best + 2.0 * step, FINE)
    misfit = _misfit(times, around, fine, blur_s)
    best = fine[int(np.argmin(misfit))]
    allowed = float(misfit.min()) * (1.0 + CHI_SQUARED_95 * _alike(times, around, best, blur_s) / (len(times) - 3))
    wide = np.sort(np.concatenate([coarse, fine]))
    low, high = _around(wide, _misfit(times, around, wide, blur_s), best, allowed)
    if low <= -search_s or high >= search_s:
        return None
    return Lag(0.5 * (low + high), 0.5 * (high - low), 1)


def _blurred(times: np.ndarray, lags: np.ndarray, blur_s: float) -> np.ndarray:
    """Share of each sample's averaging window during which the load is on, (lags, samples), mean taken off."""
    on = np.clip((times[None, :] - lags[:, None]) / blur_s, 0.0, 1.0)
    return np.asarray(on - on.mean(axis=1, keepdims=True))


def _correlation(times: np.ndarray, around: np.ndarray, lags: np.ndarray, blur_s: float) -> np.ndarray:
    """Correlation of the trace with the blurred load at each lag."""
    on = _blurred(times, lags, blur_s)
    size = np.sqrt(np.einsum("ij,ij->i", on, on) * float(around @ around))
    return np.asarray(on @ around / np.maximum(size, 1e-300))


def _misfit(times: np.ndarray, around: np.ndarray, lags: np.ndarray, blur_s: float) -> np.ndarray:
    """Sum of squares that the best two levels leave at each lag: total (1 − correlation²)."""
    seen = np.clip(_correlation(times, around, lags, blur_s), 0.0, 1.0)
    return np.asarray(float(around @ around) * (1.0 - seen**2)) + 1e-12 * float(around @ around)


def _alike(times: np.ndarray, around: np.ndarray, lag_s: float, blur_s: float) -> float:
    """How many neighbouring residuals are worth one independent one (at least 1)."""
    on = _blurred(times, np.asarray([lag_s]), blur_s)[0]
    left = around - on * float(on @ around) / float(on @ on)
    squares = float(left @ left)
    r = min(0.95, max(0.0, float(left[:-1] @ left[1:]) / squares)) if squares > 0.0 else 0.0
    return (1.0 + r) / (1.0 - r)


def _around(lags: np.ndarray, misfit: np.ndarray, best: float, allowed: float) -> tuple[float, float]:
    """Where the misfit rises above what is allowed, left and right of the best lag, interpolated."""
    middle = int(np.argmin(np.abs(lags - best)))
    ends = []
    for step, last in ((-1, 0), (1, len(lags) - 1)):
        i = middle
        while i != last and misfit[i] <= allowed:
            i += step
        if misfit[i] <= allowed or i == middle:
            ends.append(float(lags[i]))
            continue
        inner, outer = misfit[i - step], misfit[i]
        share = (allowed - inner) / (outer - inner) if outer > inner else 1.0
        ends.append(float(lags[i - step] + share * (lags[i] - lags[i - step])))
    return ends[0], ends[1]


def checked_shift_s(lag: Lag | None, curve: PowerCurve) -> float:
    """The clock uncertainty to use (s): the map's, or the lag itself where the trace contradicts the map."""
    if lag is None or lag.excess_s(curve) == 0.0:
        return curve.shift_s
    return quadrature(abs(lag.lag_s), lag.uncertainty_s, curve.shift_s)
