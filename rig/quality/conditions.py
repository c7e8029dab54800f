"""What the device said of itself beside each phase: flags that taint a measurement, and a clock that did not keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# A card at its own power limit runs as it always does at full load: its watts belong to that limit, and are said so.
STEADY_LIMITS = ("power-cap",)

# Relative drop of the CPUs' mean clock between two windows that is worth a warning. The kernel counts the time at each
# clock in ticks of 10 ms: below about a second, a window's mean is not known that well.
CLOCK_DROP = 0.02
SHORTEST_S = 0.9


def new_flags(phases: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Flag → number of the phase (from 0) that first has it, for those that the first phase does not have."""
    before = {*(phases[0].get("throttled") or ()), *STEADY_LIMITS}
    found: dict[str, int] = {}
    for number, phase in enumerate(phases):
        for flag in set(phase.get("throttled") or ()) - before:
            found.setdefault(flag, number)
    return found


def condition_warnings(windows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is worth knowing of the windows' conditions without making them unusable."""
    warnings = []
    limited = [limit for limit in STEADY_LIMITS if any(limit in (w.get("throttled") or ()) for w in windows)]
    for limit in limited:
        share = sum(limit in (w.get("throttled") or ()) for w in windows) / len(windows)
        warnings.append(f"the device was held at its own limit ({limit}) in {100 * share:.0f} % of the windows")
    drop = _largest_drop([(i, w["cpu_freq_hz"]) for i, w in enumerate(windows, 1) if _known(w)])
    if drop is not None:
        (first, from_hz), (last, to_hz) = drop
        warnings.append(
            f"the CPU clock fell by {100 * (1 - to_hz / from_hz):.1f} % from window {first} to {last} "
            f"({1e-9 * from_hz:.2f} to {1e-9 * to_hz:.2f} GHz): pin the governor, or cool the device"
        )
    return warnings


def _known(window: Mapping[str, Any]) -> bool:
    return bool(window.get("cpu_freq_hz")) and window["t1_s"] - window["t0_s"] >= SHORTEST_S


def _largest_drop(clocks: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], tuple[int, float]] | None:
    """The largest relative drop from an earlier to a later window; None where it is below CLOCK_DROP."""
    best, worst = CLOCK_DROP, None
    highest: tuple[int, float] | None = None
    for clock in clocks:
        if highest is None or clock[1] > highest[1]:
            highest = clock
        elif 1.0 - clock[1] / highest[1] > best:
            best, worst = 1.0 - clock[1] / highest[1], (highest, clock)
    return worst
