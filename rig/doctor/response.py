"""The step response of a power source: averaging window, lag and shape, fitted to a load's known edges.

     load    ▁▁▁▁▁████████▁▁▁▁▁▁      a sample stamped t is the mean power over the window that ended ``lag`` before
     source  ▁▁▁▁▁▁▁▗▄▟███▙▄▖▁▁▁      t:  w(t) = quiet + active · ∫ load over [t − lag − window, t − lag] / window
                  └lag┘└window┘       or a filter that forgets exponentially, where that fits better (load_curve.py)

Window and lag alone are told apart worse than their sum: the centre of the window, ``delay``, is what a measurement
needs most, and has an uncertainty of its own.

Something else that runs for some milliseconds takes power away and never adds any, mostly from samples that have seen
nearly the whole step: by least squares every window came out too long. So samples count the less the further they
are off (Cauchy's weights; Huber and Ronchetti, Robust Statistics, 2009). Samples of one edge are wrong together (the
edge's own time, windows that overlap), so that an interval comes from the scatter between edges, of which few may
have a sample in the middle (sandwich estimate by clusters: Cameron and Miller, J. Human Resources 50, 317, 2015).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from device_agents.intervals import student_t_975
from rig.doctor.load_curve import SHAPES, LoadCurve, Spans
from rig.doctor.step_response import CENTRE, StepResponse

# The coarse grid: windows up to so many mean half periods, delays up to so many.
LONGEST_WINDOW, LONGEST_DELAY = 3.0, 2.5
GRID_WINDOWS, GRID_DELAYS = 28, 64
GRID_SAMPLES = 1500
STARTS = 3  # grid points from which the search goes on
MIN_SAMPLES = 12
CAUCHY = 2.385  # in usual residuals: 95 % efficiency where they are normal
ROUNDS = 5  # of weights and fit
ROUNDING = 0.29  # standard deviation of rounding, in steps
SURER = 2.33  # the exponential fits better by so many standard errors (99 %), or it is a boxcar


class _Samples(NamedTuple):
    """Times and watts, how much each counts, and the smallest residual that is not called far off (W)."""

    t: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    floor_w: float


class _Fit(NamedTuple):
    """One shape at its best: window, delay, the linear part (quiet, slope, active), residuals and weights."""

    shape: str
    window_s: float
    delay_s: float
    coefficients: np.ndarray
    columns: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray
    scale_w: float


def fit_step_response(
    spans: Spans,
    times_s: np.ndarray,
    power_w: np.ndarray,
    spacing_s: float,
    step_w: float | None = None,
    shapes: Sequence[str] = SHAPES,
) -> StepResponse | None:
    """Fit window, delay and shape to the samples (on the runtime's clock); None where there are too few of them.

    ``spacing_s``: between two samples; a window much shorter than it cannot be told from none. ``step_w``: to which the
    source rounds. ``shapes``: the first of them is taken where another one does not fit clearly better.
    """
    load = LoadCurve(spans)
    inside = (times_s >= load.begin_s) & (times_s <= load.end_s + LONGEST_DELAY * load.half_period_s)
    t, y = times_s[inside], power_w[inside]
    if len(t) < MIN_SAMPLES or float(np.ptp(y)) == 0.0:
        return None
    samples = _Samples(t, y, np.ones(len(t)), ROUNDING * (step_w or 0.0))
    chosen, *others = (_robust(load, samples, spacing_s, shape) for shape in shapes)
    told = True
    for other in others:
        better = _better(load, t, other, chosen)
        told = told and abs(better) > SURER
        chosen = other if better > SURER else chosen
    return replace(_described(load, t, y, chosen, spacing_s), shape_told=told)


def _robust(load: LoadCurve, samples: _Samples, spacing_s: float, shape: str) -> _Fit:
    """The best window and delay of one shape, weights and fit by turns."""
    starts = _coarse(load, samples, spacing_s, shape)
    fit = _best(load, samples, spacing_s, shape, starts)
    for _ in range(ROUNDS):
        samples = samples._replace(weights=fit.weights)
        before = fit
        fit = _best(load, samples, spacing_s, shape, [np.array([math.log(fit.window_s), fit.delay_s])])
        if abs(fit.window_s - before.window_s) < 1e-4 * fit.window_s:
            break
    return fit


def _best(load: LoadCurve, samples: _Samples, spacing_s: float, shape: str, starts: Sequence[np.ndarray]) -> _Fit:
    """Window and delay of the least weighted sum of squares, searched for from each of the starts."""
    shortest_s = 0.05 * spacing_s

    def cost(point: np.ndarray) -> float:
        window_s, delay_s = math.exp(point[0]), float(point[1])
        if window_s < shortest_s or window_s > 2.0 * LONGEST_WINDOW * load.half_period_s:
            return math.inf
        return _cost(load.share(samples.t, window_s, delay_s, shape), samples)

    found = min((_refined(cost, start, spacing_s) for start in starts), key=lambda one: one[1])
    return _fitted(load, samples, math.exp(found[0][0]), float(found[0][1]), shape)


def _fitted(load: LoadCurve, samples: _Samples, window_s: float, delay_s: float, shape: str) -> _Fit:
    """The linear part for a window and a delay that are given, and what each sample counts after it."""
    t, y = samples.t, samples.y
    columns = np.column_stack([np.ones_like(t), t - t.mean(), load.share(t, window_s, delay_s, shape)])
    root = np.sqrt(samples.weights)
    coefficients, *_ = np.linalg.lstsq(columns * root[:, None], y * root, rcond=None)
    residuals = y - columns @ coefficients
    scale_w = max(1.4826 * float(np.median(np.abs(residuals))), samples.floor_w, 1e-9 * float(np.ptp(y)))
    weights = 1.0 / (1.0 + (residuals / (CAUCHY * scale_w)) ** 2)
    return _Fit(shape, window_s, delay_s, coefficients, columns, residuals, weights, scale_w)


def _better(load: LoadCurve, t: np.ndarray, one: _Fit, other: _Fit) -> float:
    """By how many standard errors ``one`` fits better, from the difference at each edge.

    Source: Q. Vuong, Econometrica 57, 307, 1989, for the test; the likelihood is that of Cauchy's weights.
    """
    scale_w = CAUCHY * min(one.scale_w, other.scale_w)
    gained = np.log1p((other.residuals / scale_w) ** 2) - np.log1p((one.residuals / scale_w) ** 2)
    by_edge = np.bincount(load.nearest_edge(t - one.delay_s), weights=gained)
    error = float(np.std(by_edge, ddof=1)) * math.sqrt(len(by_edge)) if len(by_edge) > 1 else 0.0
    return float(by_edge.sum()) / error if error > 0.0 else 0.0


def _coarse(load: LoadCurve, samples: _Samples, spacing_s: float, shape: str) -> list[np.ndarray]:
    """The best points of a grid over window and delay; a part of the samples is enough for it."""
    every = max(1, len(samples.t) // GRID_SAMPLES)
    samples = _Samples(samples.t[::every], samples.y[::every], samples.weights[::every], samples.floor_w)
    windows = np.geomspace(0.2 * spacing_s, LONGEST_WINDOW * load.half_period_s, GRID_WINDOWS)
    found = []
    for window_s in windows:
        last_s = CENTRE[shape] * window_s + LONGEST_DELAY * load.half_period_s * 0.5
        for delay_s in np.linspace(-0.25 * load.half_period_s, last_s, GRID_DELAYS):
            cost = _cost(load.share(samples.t, window_s, delay_s, shape), samples)
            found.append((cost, math.log(window_s), delay_s))
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


def _cost(share: np.ndarray, samples: _Samples) -> float:
    """Weighted sum of squares about the best line and load for one window and delay."""
    w, y = samples.weights, samples.y
    total_weight = float(w.sum())
    tau = samples.t - float(w @ samples.t) / total_weight
    x, z = share - float(w @ share) / total_weight, y - float(w @ y) / total_weight
    heavy = w * tau
    spread = float(heavy @ tau)
    x, z = x - tau * (float(heavy @ x) / spread), z - tau * (float(heavy @ z) / spread)
    heavy = w * x
    power, total = float(heavy @ x), float((w * z) @ z)
    return total if power <= 1e-9 * total_weight else total - float(heavy @ z) ** 2 / power


def _described(load: LoadCurve, t: np.ndarray, y: np.ndarray, fit: _Fit, spacing_s: float) -> StepResponse:
    """What was found, and every parameter's half-width from the scatter between edges."""
    active_w = float(fit.coefficients[2])
    jacobian = np.column_stack([fit.columns, *_slopes(load, t, fit, spacing_s)])
    half_width = _HalfWidths(jacobian, fit, load.nearest_edge(t - fit.delay_s))
    free = max(1, len(t) - jacobian.shape[1])
    residual_power = float(fit.residuals @ fit.residuals)
    total = float(np.sum((y - y.mean()) ** 2))
    return StepResponse(
        window_s=fit.window_s,
        window_half_width_s=half_width.of([0.0, 0.0, 0.0, 1.0, 0.0]),
        delay_s=fit.delay_s,
        delay_half_width_s=half_width.of([0.0, 0.0, 0.0, 0.0, 1.0]),
        lag_half_width_s=half_width.of([0.0, 0.0, 0.0, -CENTRE[fit.shape], 1.0]),
        quiet_w=float(fit.coefficients[0]),
        active_w=active_w,
        active_half_width_w=half_width.of([0.0, 0.0, 1.0, 0.0, 0.0]),
        slope_w_per_s=float(fit.coefficients[1]),
        residual_w=math.sqrt(residual_power / free),
        explained=max(0.0, 1.0 - residual_power / total) if total > 0.0 else 0.0,
        samples=len(t),
        shape=fit.shape,
    )


def _slopes(load: LoadCurve, t: np.ndarray, fit: _Fit, spacing_s: float) -> tuple[np.ndarray, np.ndarray]:
    """How the model moves with the window and with the delay (W/s)."""
    window_s, delay_s, shape = fit.window_s, fit.delay_s, fit.shape
    step_w_s, step_d_s = max(0.05 * window_s, 0.02 * spacing_s), max(0.02 * window_s, 0.05 * spacing_s)
    least_s = max(window_s - step_w_s, 1e-9)
    wider = load.share(t, window_s + step_w_s, delay_s, shape) - load.share(t, least_s, delay_s, shape)
    later = load.share(t, window_s, delay_s + step_d_s, shape) - load.share(t, window_s, delay_s - step_d_s, shape)
    active_w = float(fit.coefficients[2])
    return active_w * wider / (window_s + step_w_s - least_s), active_w * later / (2.0 * step_d_s)


class _HalfWidths:
    """95 % half-widths of the parameters and of sums of them, by the scatter between edges.

    Student's t has as many degrees of freedom as there are edges that say something of the parameter, less one.
    """

    def __init__(self, jacobian: np.ndarray, fit: _Fit, edge: np.ndarray) -> None:
        x = (fit.residuals / (CAUCHY * fit.scale_w)) ** 2
        weights = 1.0 / (1.0 + x)
        slopes = (1.0 - x) * weights**2  # of the weighted residual: how much a change of the parameters moves it
        self._jacobian, self._edge, self._weights = jacobian, edge, weights
        self._inverse = np.linalg.pinv((jacobian * weights[:, None]).T @ jacobian, rcond=1e-12)
        self._inverse *= float(weights.sum() / max(slopes.sum(), 0.1 * weights.sum()))
        self._pull = jacobian * (weights * fit.residuals)[:, None]

    def of(self, combination: Sequence[float]) -> float:
        """Of one sum of the parameters."""
        towards = self._inverse @ np.asarray(combination)
        pull = np.bincount(self._edge, weights=self._pull @ towards)
        says = np.bincount(self._edge, weights=self._weights * (self._jacobian @ towards) ** 2)
        edges = max(2.0, float(says.sum()) ** 2 / max(float(says @ says), 1e-300))
        return student_t_975(max(1, round(edges) - 1)) * math.sqrt(float(pull @ pull) * edges / (edges - 1.0))
