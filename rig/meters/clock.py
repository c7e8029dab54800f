"""A meter's own clock on the host's: from when its samples arrive, since it cannot be asked what time it is.

host   ────────a₁───────a₂─────────a₃──►      aᵢ - sᵢ = offset + delay of that line, and no delay is below zero:
meter  ──s₁───────s₂───────s₃──────────►      the least difference is the offset, late by the least delay
"""

from __future__ import annotations

from collections.abc import Sequence

from rig.meters import Sample

STEP_PERIODS = 3.0  # an offset that changes by this many sample periods between two halves is a step of the clock
STEP_AT_LEAST_S = 0.5


class SteppedClock(ValueError):
    """The meter's clock stepped, so its samples cannot be placed."""


def offset_s(samples: Sequence[Sample], period_s: float) -> float:
    """Host clock minus meter clock. Raises SteppedClock; needs at least one sample."""
    half = len(samples) // 2
    parts = [part for part in (samples[:half], samples[half:]) if part]
    least = [min(one.arrived_s - one.stamp_s for one in part) for part in parts]
    change_s = least[-1] - least[0]
    if abs(change_s) > max(STEP_PERIODS * period_s, STEP_AT_LEAST_S):
        raise SteppedClock(f"the meter's clock stepped by {-change_s:+.3g} s against the host's")
    return min(least)
