"""The step response of a power source: averaging window and lag, fitted to a load's known edges by least squares.

     load    ▁▁▁▁▁████████▁▁▁▁▁▁      a sample stamped t is the mean power over the window that ended ``lag`` before
     source  ▁▁▁▁▁▁▁▗▄▟███▙▄▖▁▁▁      t:  w(t) = quiet + active · ∫ load over [t − lag − window, t − lag] / window
                  └lag┘└window┘

Window and lag alone are told apart worse than their sum: the centre of the window, ``delay`` = lag + window / 2, is
what a measurement needs most, and has an uncertainty of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rig.quality.stats import NORMAL_975, quadrature

# The coarse grid: windows up to so many mean half periods, delays up to so many.
LONGEST_WINDOW, LONGEST_DELAY = 3.0, 2.5
GRID_WINDOWS, GRID_DELAYS = 28, 64
GRID_SAMPLES = 1500
STARTS = 3  # grid points from which the search goes on
MIN_SAMPLES = 12
CONSTANT = 0.001  # share of a window that may be otherwise
FAR_OFF, MOST_FAR_OFF = 6.0, 0.1  # in usual residuals; at most so many of the samples are disturbances
SEEN = 4.0  # active power in standard errors: below it, the load is not seen
SEEN_SHARE = 0.15  # of the trace's variance that the load must explain

Spans = Sequence[Sequence[float]]


class LoadCurve:
    """Seconds of load up to any time, from the spans (t_on, t_off, t_end) of the steps."""

    def __init__(self, spans: Spans) -> None:
        edges = np.asarray([time for span in spans for time in span[:2]], dtype=float)
        self.begin_s, self.end_s = float(spans[0][0]), float(spans[-1][2])
        self.edges_s = edges
        lengths = np.diff(edges)
        lengths[1::2] = 0.0  # from off to the next on
        self._loaded_s = np.concatenate([[0.0], np.cumsum(lengths)])
        self.half_period_s = (self.end_s - self.begin_s) / (2.0 * len(spans))

    def share(self, times_s: np.ndarray, window_s: float, delay_s: float) -> np.ndarray:
        """Share of a window of ``window_s`` around ``delay_s`` before each time during which the load was on."""
        ends = times_s - delay_s + 0.5 * window_s
        late = np.interp(ends, self.edges_s, self._loaded_s)
        early = np.interp(ends - window_s, self.edges_s, self._loaded_s)
        return (late - early) / window_s

    def stretches(self, on: bool, settle_s: float, delay_s: float) -> list[tuple[float, float]]:
        """Times of samples that saw the load constantly on (or off), ``settle_s`` away from the edges."""
        edges = [*self.edges_s, self.end_s]
        pairs = zip(edges[0::2], edges[1::2], strict=False) if on else zip(edges[1::2], edges[2::2], strict=False)
        shifted = ((a + delay_s + settle_s, b + delay_s - settle_s) for a, b in pairs)
        return [(a, b) for a, b in shifted if b > a]


@dataclass(frozen=True)
class StepResponse:
    """What was fitted, with 95 % half-widths; ``residual_w``: standard deviation of the samples about the fit.

    ``explained``: share of the trace's variance that the load explains.
    """

    window_s: float
    window_half_width_s: float
    delay_s: float
    delay_half_width_s: float
    lag_half_width_s: float
    quiet_w: float
    active_w: float
    active_half_width_w: float
    slope_w_per_s: float
    residual_w: float
    explained: float
    samples: int

    @property
    def lag_s(self) -> float:
        """From the end of the averaging window to the time stamp."""
        return self.delay_s - 0.5 * self.window_s

    def rounded(self, error_w: float) -> StepResponse:
        """The same with intervals that hold what rounding does to it: the levels before and after an edge are off by up
        to ``error_w`` each, however many samples there are, and with them the slope between."""
        share_s = self.window_s * error_w / abs(self.active_w) if self.active_w else 0.0
        return replace(
            self,
            window_half_width_s=quadrature(self.window_half_width_s, 2.0 * share_s),
            delay_half_width_s=quadrature(self.delay_half_width_s, share_s),
            lag_half_width_s=quadrature(self.lag_half_width_s, 2.0 * share_s),
            active_half_width_w=quadrature(self.active_half_width_w, math.sqrt(2.0) * error_w),
        )

    def timed(self, doubt_s: float) -> StepResponse:
        """The same where the samples' times were known to ``doubt_s`` only."""
        return replace(
            self,
            delay_half_width_s=quadrature(self.delay_half_width_s, doubt_s),
            lag_half_width_s=quadrature(self.lag_half_width_s, doubt_s),
        )

    @property
    def seen(self) -> bool:
        """Whether the source saw the load at all."""
        return self.explained >= SEEN_SHARE and self.active_w > SEEN / NORMAL_975 * self.active_half_width_w


class _Linear(NamedTuple):
    """Quiet power, slope and active power for a window and a delay that are given."""

    coefficients: np.ndarray
    residuals: np.ndarray
    columns: np.ndarray


def fit_step_response(spans: Spans, times_s: np.ndarray, power_w: np.ndarray, spacing_s: float) -> StepResponse | None:
    """Fit window and delay to the samples (on the runtime's clock); None where there are too few of them.

    ``spacing_s``: between two samples; a window much shorter than it cannot be told from none.
    """
    load = LoadCurve(spans)
    inside = (times_s >= load.begin_s) & (times_s <= load.end_s + LONGEST_DELAY * load.half_period_s)
    t, y = times_s[inside], power_w[inside]
    if len(t) < MIN_SAMPLES or float(np.ptp(y)) == 0.0:
        return None
    window_s, delay_s = _best(load, t, y, spacing_s, _coarse(load, t, y, spacing_s))
    steady = _undisturbed(load, t, y, window_s, delay_s)
    if not steady.all():
        t, y = t[steady], y[steady]
        window_s, delay_s = _best(load, t, y, spacing_s, [np.array([math.log(window_s), delay_s])])
    return _described(load, t, y, window_s, delay_s, spacing_s)


def _best(
    load: LoadCurve, t: np.ndarray, y: np.ndarray, spacing_s: float, starts: Sequence[np.ndarray]
) -> tuple[float, float]:
    """Window and delay of the least sum of squares, searched for from each of the starts."""
    shortest_s = 0.05 * spacing_s

    def cost(point: np.ndarray) -> float:
        window_s, delay_s = math.exp(point[0]), float(point[1])
        if window_s < shortest_s or window_s > 2.0 * LONGEST_WINDOW * load.half_period_s:
            return math.inf
        return _cost(load.share(t, window_s, delay_s), y, t)

    found = min((_refined(cost, start, spacing_s) for start in starts), key=lambda one: one[1])
    return math.exp(found[0][0]), float(found[0][1])


def _undisturbed(load: LoadCurve, t: np.ndarray, y: np.ndarray, window_s: float, delay_s: float) -> np.ndarray:
    """Which samples to keep: of those that saw the load constantly on or off, not the ones far off the others.

    Something else ran on the device then, or the load was kept from running; samples of an edge are all kept.
    """
    share = load.share(t, window_s, delay_s)
    residuals = np.abs(_linear(share, y, t).residuals)
    constant = (share < CONSTANT) | (share > 1.0 - CONSTANT)
    usual = 1.4826 * float(np.median(residuals[constant])) if constant.any() else 0.0
    far = constant & (residuals > FAR_OFF * usual)
    return ~far if usual > 0.0 and float(np.mean(far)) <= MOST_FAR_OFF else np.ones(len(t), dtype=bool)


def _coarse(load: LoadCurve, t: np.ndarray, y: np.ndarray, spacing_s: float) -> list[np.ndarray]:
    """The best points of a grid over window and delay; a part of the samples is enough for it."""
    every = max(1, len(t) // GRID_SAMPLES)
    t, y = t[::every], y[::every]
    windows = np.geomspace(0.2 * spacing_s, LONGEST_WINDOW * load.half_period_s, GRID_WINDOWS)
    found = []
    for window_s in windows:
        last_s = 0.5 * window_s + LONGEST_DELAY * load.half_period_s * 0.5
        for delay_s in np.linspace(-0.25 * load.half_period_s, last_s, GRID_DELAYS):
            found.append((_cost(load.share(t, window_s, delay_s), y, t), math.log(window_s), delay_s))
    found.sort()
    starts = [np.array(point[1:]) for point in found[:1]]
    for _, log_window, delay_s in found[1:]:
        if all(abs(log_window - s[0]) > 0.3 or abs(delay_s - s[1]) > spacing_s for s in starts):
            starts.append(np.array([log_window, delay_s]))
        if len(starts) == STARTS:
            break
    return starts


def _refined(cost: object, start: np.ndarray, spacing_s: float) -> tuple[np.ndarray, float]:
    from scipy.optimize import minimize  # slow to import; only the doctor needs it

    simplex = start + np.array([[0.0, 0.0], [0.4, 0.0], [0.0, 0.5 * spacing_s]])
    options = {"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-12, "maxiter": 400}
    found = minimize(cost, start, method="Nelder-Mead", options=options)
    return found.x, float(found.fun)


def _cost(share: np.ndarray, y: np.ndarray, t: np.ndarray) -> float:
    """Sum of squares about the best line and load for one window and delay."""
    tau = t - t.mean()
    spread = float(tau @ tau)
    x, z = share - share.mean(), y - y.mean()
    x, z = x - tau * (float(tau @ x) / spread), z - tau * (float(tau @ z) / spread)
    power = float(x @ x)
    total = float(z @ z)
    return total if power <= 1e-9 * len(t) else total - float(x @ z) ** 2 / power


def _linear(share: np.ndarray, y: np.ndarray, t: np.ndarray) -> _Linear:
    columns = np.column_stack([np.ones_like(t), t - t.mean(), share])
    coefficients, *_ = np.linalg.lstsq(columns, y, rcond=None)
    return _Linear(coefficients, y - columns @ coefficients, columns)


def _described(
    load: LoadCurve, t: np.ndarray, y: np.ndarray, window_s: float, delay_s: float, spacing_s: float
) -> StepResponse:
    """The linear part at the optimum, and every parameter's half-width from the model's slopes there."""
    at = _linear(load.share(t, window_s, delay_s), y, t)
    active_w = float(at.coefficients[2])
    step_w_s, step_d_s = max(0.05 * window_s, 0.02 * spacing_s), max(0.02 * window_s, 0.05 * spacing_s)
    wider = load.share(t, window_s + step_w_s, delay_s) - load.share(t, max(window_s - step_w_s, 1e-9), delay_s)
    later = load.share(t, window_s, delay_s + step_d_s) - load.share(t, window_s, delay_s - step_d_s)
    by_window = active_w * wider / (step_w_s + min(step_w_s, window_s))
    by_delay = active_w * later / (2.0 * step_d_s)
    jacobian = np.column_stack([at.columns, by_window, by_delay])
    free = max(1, len(t) - jacobian.shape[1])
    variance = float(at.residuals @ at.residuals) / free * _correlation_factor(at.residuals)
    covariance = np.linalg.pinv(jacobian.T @ jacobian, rcond=1e-12) * variance
    error = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    lag_variance = covariance[4, 4] + 0.25 * covariance[3, 3] - covariance[3, 4]
    total = float(np.sum((y - y.mean()) ** 2))
    return StepResponse(
        window_s=window_s,
        window_half_width_s=NORMAL_975 * float(error[3]),
        delay_s=delay_s,
        delay_half_width_s=NORMAL_975 * float(error[4]),
        lag_half_width_s=NORMAL_975 * math.sqrt(max(float(lag_variance), 0.0)),
        quiet_w=float(at.coefficients[0]),
        active_w=active_w,
        active_half_width_w=NORMAL_975 * float(error[2]),
        slope_w_per_s=float(at.coefficients[1]),
        residual_w=math.sqrt(float(at.residuals @ at.residuals) / free),
        explained=max(0.0, 1.0 - float(at.residuals @ at.residuals) / total) if total > 0.0 else 0.0,
        samples=len(t),
    )


def _correlation_factor(residuals: np.ndarray) -> float:
    """How much larger the variance of a mean is for the residuals' autocorrelation (at least 1)."""
    centred = residuals - residuals.mean()
    power = float(centred @ centred)
    if power == 0.0:
        return 1.0
    factor = 1.0
    for lag in range(1, len(centred) // 4):
        correlation = float(centred[:-lag] @ centred[lag:]) / power
        if correlation < 0.05:
            break
        factor += 2.0 * correlation
    return factor
