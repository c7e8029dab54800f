"""Is anything else running on this core? A fixed piece of work, timed before and after each window, tells.

On a host that others share (hyper-threads, virtual machines) a core runs at several speeds, for seconds at a time. The
time that the work takes undisturbed is about the fastest seen; a window beside a slower pulse counts as disturbed.
The pulse knows nothing of the network measured, so leaving disturbed windows out does not choose by its latency.
"""

import bisect
from typing import Any, Callable, Dict, List, Mapping, Optional

PULSE_STEPS = 6000  # a quarter of a millisecond on a desktop
REPEATS = 2
LEARNED = 60  # pulses, before which the fastest is a guess
FAST_SHARE = 0.05  # of all pulses: an undisturbed core is among the fastest, rarer ones are the clock's whim
QUIET_RATIO = 1.08  # a pulse slower than so many times an undisturbed one means that the core was shared


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


def is_quiet(phase: Mapping[str, Any], fast_s: Optional[float] = None) -> bool:
    """Whether nothing else ran during a phase, as far as is known (so where it has no pulse).

    ``fast_s``: what an undisturbed pulse takes, where more is known than when the phase was measured.
    """
    if not phase.get("pulse_s"):
        return True
    return bool(phase["pulse_s"] <= QUIET_RATIO * min(phase["pulse_fast_s"], fast_s or phase["pulse_fast_s"]))


class Pulses(object):
    """All pulses of a process beside its windows, of which the fastest say what an undisturbed one takes.

    Only those: a pulse after another pulse finds its caches warm, and is a tenth faster than one after a network.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._sorted: List[float] = []
        self._fast_s = float("inf")

    def around(self, run: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
        """The phase that ``run`` returns, with ``pulse_s`` (the slower of before and after) and ``pulse_fast_s``."""
        before_s = self._take()
        phase = run()
        phase["pulse_s"] = round(max(before_s, self._take()), 9)
        fast_s = self._sorted[int(FAST_SHARE * len(self._sorted))]
        if len(self._sorted) >= LEARNED:
            # Hours of company must not pass for quiet: what was once undisturbed stays the measure.
            fast_s = self._fast_s = min(self._fast_s, fast_s)
        phase["pulse_fast_s"] = round(fast_s, 9)
        return phase

    def _take(self) -> float:
        found = pulse_s(self._now_s)
        bisect.insort(self._sorted, found)
        return found
