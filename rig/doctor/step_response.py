"""What was found out about how a power source follows a step of the load: window, delay, lag, shape, and how sure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from rig.doctor.load_curve import BOXCAR, EXPONENTIAL, TIME_CONSTANTS
from rig.quality.stats import NORMAL_975, quadrature

SEEN = 4.0  # active power in standard errors: below it, the load is not seen
SEEN_SHARE = 0.15  # of the trace's variance that the load must explain
CENTRE = {BOXCAR: 0.5, EXPONENTIAL: 1.0 / TIME_CONSTANTS}  # in windows, from its end
ROUNDED = {BOXCAR: 2.0, EXPONENTIAL: 3.0}  # relative error of the window for one of the levels


@dataclass(frozen=True)
class StepResponse:
    """What was fitted, with 95 % half-widths; ``residual_w``: standard deviation of the samples about the fit.

    ``explained``: share of the trace's variance that the load explains. ``shape``: boxcar or exponential; of the latter
    ``window_s`` is the time that holds 99 % of its weight. ``shape_told``: whether it fits better than the other one by
    more than chance.
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
    shape: str = BOXCAR
    shape_told: bool = True

    @property
    def centre_s(self) -> float:
        """From the end of what a sample averages over back to its middle."""
        return self.window_s * CENTRE[self.shape]

    @property
    def time_constant_s(self) -> float | None:
        """Of an exponential; None of a boxcar."""
        return self.window_s / TIME_CONSTANTS if self.shape == EXPONENTIAL else None

    @property
    def lag_s(self) -> float:
        """From the end of the averaging window to the time stamp."""
        return self.delay_s - self.centre_s

    def rounded(self, error_w: float) -> StepResponse:
        """The same with intervals that hold what rounding does to it: the levels before and after an edge are off by up
        to ``error_w`` each, however many samples there are, and with them what is between. An exponential is known by
        its tail, which is near the levels: it suffers more."""
        share_s = self.window_s * error_w / abs(self.active_w) if self.active_w else 0.0
        lengths = ROUNDED[self.shape]
        return replace(
            self,
            window_half_width_s=quadrature(self.window_half_width_s, lengths * share_s),
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

    def risen(self, since_s: np.ndarray) -> np.ndarray:
        """Share of a step of the load that samples show so long after it."""
        after_s = np.maximum(since_s - self.lag_s, 0.0)
        if self.shape == EXPONENTIAL:
            return np.asarray(-np.expm1(-after_s * TIME_CONSTANTS / self.window_s))
        return np.minimum(after_s / self.window_s, 1.0)

    @property
    def seen(self) -> bool:
        """Whether the source saw the load at all."""
        return self.explained >= SEEN_SHARE and self.active_w > SEEN / NORMAL_975 * self.active_half_width_w
