"""Is anything else running on this core? A fixed piece of work, timed before and after each window, tells.

On a host that others share (hyper-threads, virtual machines) a core runs at several speeds, for seconds at a time. The
time that the work takes while nothing disturbs it is the fastest seen; a window beside a slower pulse is disturbed.
The pulse knows nothing of the network measured, so leaving disturbed windows out does not choose by its latency.
"""

from typing import Any, Callable, Dict, List, Mapping

PULSE_STEPS = 6000  # a quarter of a millisecond on a desktop
REPEATS = 2
LEARN_S = 1.5  # looked for the fastest so long, at first
KEPT = 3  # the third fastest counts: clocks jitter
QUIET_RATIO = 1.06  # a pulse slower than so many times the fastest means that the core was shared


def pulse_s(now_s: Callable[[], float]) -> float:
    """Seconds that the fixed work takes, the faster of two."""
    found = []
    for _ in range(REPEATS):
        before_s = now_s()
        total = 0
        for i in range(PULSE_STEPS):
            total += i * i & 7
        found.append(now_s() - before_s)
    return min(found)


def is_quiet(phase: Mapping[str, Any]) -> bool:
    """Whether nothing else ran during a phase, as far as is known (so where it has no pulse)."""
    return not phase.get("pulse_s") or bool(phase["pulse_s"] <= QUIET_RATIO * phase["pulse_fast_s"])


class Pulses(object):
    """The fastest pulses that a process has seen."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._fastest: List[float] = []

    def around(self, run: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
        """The phase that ``run`` returns, with ``pulse_s`` (the slower of before and after) and ``pulse_fast_s``."""
        if not self._fastest:
            until_s = self._now_s() + LEARN_S
            while len(self._fastest) < KEPT or self._now_s() < until_s:
                self._take()
        before_s = self._take()
        phase = run()
        phase["pulse_s"] = round(max(before_s, self._take()), 9)
        phase["pulse_fast_s"] = round(self._fastest[-1], 9)
        return phase

    def _take(self) -> float:
        found = pulse_s(self._now_s)
        self._fastest = sorted([*self._fastest, found])[:KEPT]
        return found
