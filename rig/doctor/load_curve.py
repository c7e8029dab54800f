"""What a source would show of a load that is on and off at known times, for two shapes of its averaging.

     load         ▁▁▁▁▁████████▁▁▁▁▁▁▁▁
     boxcar       ▁▁▁▁▁▁▁▗▄▟███▙▄▖▁▁▁▁▁     the mean over a window: every instant of it counts alike
     exponential  ▁▁▁▁▁▁▁▟▇▇███▙▃▂▂▁▁▁▁     a filter that forgets: each new reading moves it by the same share

``window_s`` is how far a sample reaches back: of the boxcar its length, of the exponential the time that holds 99 % of
its weight. ``delay_s`` is from the middle of that weight to the time stamp, whatever the shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BOXCAR, EXPONENTIAL = "boxcar", "exponential"
SHAPES = (BOXCAR, EXPONENTIAL)
TIME_CONSTANTS = math.log(100.0)  # of an exponential's window: 99 % of its weight

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

    def share(self, times_s: np.ndarray, window_s: float, delay_s: float, shape: str = BOXCAR) -> np.ndarray:
        """Share of what a sample of each time averages over during which the load was on."""
        if shape == EXPONENTIAL:
            time_constant_s = window_s / TIME_CONSTANTS
            return self._forgetting(times_s - delay_s + time_constant_s, time_constant_s)
        ends = times_s - delay_s + 0.5 * window_s
        late = np.interp(ends, self.edges_s, self._loaded_s)
        early = np.interp(ends - window_s, self.edges_s, self._loaded_s)
        return (late - early) / window_s

    def _forgetting(self, times_s: np.ndarray, time_constant_s: float) -> np.ndarray:
        """The load through a first-order filter, exactly: it goes towards on (1) or off (0) from edge to edge."""
        kept = np.exp(-np.diff(self.edges_s) / time_constant_s)
        at_edge = np.zeros(len(self.edges_s))
        for i, share in enumerate(kept):
            towards = 1.0 if i % 2 == 0 else 0.0
            at_edge[i + 1] = towards + (at_edge[i] - towards) * share
        last = np.searchsorted(self.edges_s, times_s, side="right") - 1
        inside = np.maximum(last, 0)
        towards = np.where(inside % 2 == 0, 1.0, 0.0)
        since_s = np.maximum(times_s - self.edges_s[inside], 0.0)
        found = towards + (at_edge[inside] - towards) * np.exp(-since_s / time_constant_s)
        return np.where(last < 0, 0.0, found)

    def nearest_edge(self, times_s: np.ndarray) -> np.ndarray:
        """The number of the edge that is nearest to each time."""
        middle = 0.5 * (self.edges_s[1:] + self.edges_s[:-1])
        return np.searchsorted(middle, times_s)

    def stretches(self, on: bool, settle_s: float, delay_s: float) -> list[tuple[float, float]]:
        """Times of samples that saw the load constantly on (or off), ``settle_s`` away from the edges."""
        edges = [*self.edges_s, self.end_s]
        pairs = zip(edges[0::2], edges[1::2], strict=False) if on else zip(edges[1::2], edges[2::2], strict=False)
        shifted = ((a + delay_s + settle_s, b + delay_s - settle_s) for a, b in pairs)
        return [(a, b) for a, b in shifted if b > a]
