"""The energy of each window as the host's meter saw it, while the device still measures: whether it is enough.

    device   window window window window window ... ─────────────► precise in latency, and told "enough"; or max_s over
                │ times and inferences of each, in progress messages        ▲
    host        └──► energy of each, once the samples reach its end ──► interval within plan.rel_ci

The rule is the agent's own for a power source that it sees (``device_agents.measure``). The trace is judged anew, with
all parts of its uncertainty, when the measurement is over (``rig.quality.verdict``).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from device_agents.clocks import ClockMap
from device_agents.intervals import relative_half_width
from device_agents.records import MeasurePlan, PowerTrace

Placed = Sequence[tuple[float, float]]  # time on the host's clock (end of the averaging window), watts


class EnergyInterval:
    """``clock``: device to host; ``samples()``: what the meter has said so far; ``window_s``: its averaging window."""

    def __init__(self, plan: MeasurePlan, clock: ClockMap, window_s: float, samples: Callable[[], Placed]) -> None:
        self._plan = plan
        self._clock = clock
        self._window_s = window_s
        self._samples = samples
        self._windows: list[tuple[float, float, int]] = []
        self._energies: list[float | None] = []

    def add(self, progress: Mapping[str, Any]) -> None:
        """Take note of the windows that a progress message tells."""
        for t0_s, t1_s, count in progress.get("measured") or ():
            self._windows.append((self._clock.there_s(t0_s), self._clock.there_s(t1_s), count))
            self._energies.append(None)

    @property
    def last_s(self) -> float | None:
        """End of the last window, on the host's clock; None before the first."""
        return self._windows[-1][1] if self._windows else None

    @property
    def relative(self) -> float | None:
        """Half-width of the 95 % interval of an inference's energy so far, relative; None with too few windows."""
        self._measure()
        return relative_half_width([energy for energy in self._energies if energy is not None])

    @property
    def is_narrow(self) -> bool:
        """Whether it is as narrow as the plan asks, on as many windows."""
        reached = self.relative
        known = sum(energy is not None for energy in self._energies)
        return reached is not None and reached <= self._plan.rel_ci and known >= self._plan.min_windows - 1

    def _measure(self) -> None:
        """The energies that have become known since the last look."""
        if all(energy is not None for energy in self._energies):
            return
        placed = sorted(self._samples())
        times = [t_s for t_s, _ in placed]
        for i, (t0_s, t1_s, count) in enumerate(self._windows):
            if self._energies[i] is None:
                energy_j = self._energy_j(placed, times, t0_s, t1_s)
                self._energies[i] = None if energy_j is None else energy_j / count

    def _energy_j(self, placed: Placed, times: Sequence[float], t0_s: float, t1_s: float) -> float | None:
        """A sample stands for the middle of its averaging window, half a window before its time."""
        begin_s, end_s = t0_s + 0.5 * self._window_s, t1_s + 0.5 * self._window_s
        part = placed[max(0, bisect.bisect_right(times, begin_s) - 1) : bisect.bisect_left(times, end_s) + 1]
        trace = PowerTrace("meter", "", "", "", [t_s for t_s, _ in part], [watts for _, watts in part])
        try:
            return trace.energy_j(begin_s, end_s)
        except ValueError:
            return None  # not covered, or not yet
