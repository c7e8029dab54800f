"""Networks at one measured cost: candidates looked at on the device, untrained, until one costs what is wanted.

    candidates ──► predicted share of the baseline's cost (tables) × correction ──► the most promising is measured
        ▲              beside the baseline, in turns ──► correction at its place ──┘      … until one is close enough

Costs do not depend on the values of weights, so a candidate is built by ``model(widths)`` and never trained. A share is
the ratio of interleaved pairs (``rig.quality``), so gain and slow drift cancel. A search may look through candidates in
full widths and in aligned ones (multiples of what the hardware runs together): of those that cost alike, the one with
the most multiplications is taken, so that no peer is held back by a width that the hardware does not like.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rig.measurement import Measurement
from rig.units import Quantity

TOLERANCE = 0.03  # of the budget: a network beyond it is not at equal cost, and its row is void
CLOSE = 0.01  # a look this near ends the search
HOPELESS = 0.25  # a candidate expected to be farther off than this is not looked at
MODE_GAP = 0.06  # between two speeds of one network, relative
MODE_SHARE = 0.1  # of the windows: the rarer speed must have as many


class Candidate(NamedTuple):
    """A network that could be built: widths by channel group, blocks removed; ``label``: how it was made."""

    label: str
    widths: dict[str, int]
    removed: tuple[str, ...]

    @property
    def key(self) -> str:
        """A name that two candidates share where they are the same network."""
        text = json.dumps([sorted(self.widths.items()), sorted(self.removed)])
        return hashlib.sha256(text.encode()).hexdigest()[:10]


class Priced(NamedTuple):
    """A candidate with its predicted share of the baseline's cost and its multiplications."""

    candidate: Candidate
    predicted: float
    macs: float


class Look(NamedTuple):
    """A candidate that was measured: ``share`` of the baseline's cost, measured in turns."""

    priced: Priced
    share: Quantity

    @property
    def value(self) -> float:
        """The measured share."""
        return float(self.share.value or math.nan)

    def to_json(self) -> dict[str, Any]:
        """What is kept of a look."""
        return {
            "label": self.priced.candidate.label,
            "key": self.priced.candidate.key,
            "predicted": self.priced.predicted,
            "share": interval(self.share),
        }


def interval(share: Quantity | None) -> dict[str, Any] | None:
    """A share as the results keep it."""
    return None if share is None else {"value": share.value, "lo": share.lo, "hi": share.hi, "n": share.n}


def off(share: float, goal: float) -> float:
    """How far a share is from the goal, relative."""
    return share / goal - 1.0


def find_equal(
    pool: Sequence[Priced],
    measure: Callable[[Candidate], Quantity],
    goal: float,
    most_looks: int,
    preference: Callable[[Priced], float] | None = None,
) -> list[Look]:
    """Look at candidates until one is within CLOSE of the goal; the looks, the best last.

    ``preference``: the greater the better among candidates expected to be close (default: multiplications). Fewer looks
    than ``most_looks`` where nothing is left that could be near. Raises ValueError for an empty pool.
    """
    if not pool:
        raise ValueError("no candidate to look at")
    worth = preference or (lambda priced: priced.macs)
    left = {priced.candidate.key: priced for priced in sorted(pool, key=worth)}
    looks: list[Look] = []
    while left and len(looks) < most_looks:
        best = _most_promising(list(left.values()), looks, goal, worth)
        if looks and abs(off(expected(best, looks), goal)) > HOPELESS:
            break
        del left[best.candidate.key]
        looks.append(Look(best, measure(best.candidate)))
        if abs(off(looks[-1].value, goal)) <= CLOSE:
            break
    return sorted(looks, key=lambda look: -abs(math.log(look.value / goal)))


def _most_promising(
    left: Sequence[Priced], looks: Sequence[Look], goal: float, worth: Callable[[Priced], float]
) -> Priced:
    near = [priced for priced in left if abs(off(expected(priced, looks), goal)) <= CLOSE]
    if near:
        return max(near, key=worth)
    return min(left, key=lambda priced: (abs(math.log(expected(priced, looks) / goal)), -worth(priced)))


def expected(priced: Priced, looks: Sequence[Look]) -> float:
    """Predicted share, corrected by what the looks around it turned out to cost (log-linear between them)."""
    if not looks:
        return priced.predicted
    known = sorted((math.log(look.priced.predicted), math.log(look.value / look.priced.predicted)) for look in looks)
    places, corrections = zip(*known, strict=True)
    return priced.predicted * math.exp(float(np.interp(math.log(priced.predicted), places, corrections)))


def is_void(share: Quantity, goal: float, ours: bool) -> str | None:
    """Why a row is void: its cost is not that of the others; None where it counts.

    Ours may use less than it was given (that can only cost it accuracy), never more.
    """
    value = share.value
    if value is None:
        return "its cost was not measured"
    found = off(value, goal)
    if found > TOLERANCE or (found < -TOLERANCE and not ours):
        return f"costs {100 * value:.1f} % of the baseline, {100 * found:+.1f} % off the budget of {100 * goal:g} %"
    return None


def dearer(share: float | None, goal: float) -> bool:
    """Whether a share is more than what was wanted: such a network has an advantage, and what it reaches is a bound."""
    return (share or 0.0) > goal


def two_modes(measurements: Sequence[Measurement], beside: Sequence[Measurement]) -> dict[str, float] | None:
    """Whether the windows of one network fall into two speeds; None where they are one.

    Windows are taken relative to the baseline of the same round, cut in two where that explains most of their variance
    (Otsu 1979, a threshold selection method), and told apart only if the means differ by more than MODE_GAP, the gap
    exceeds four standard deviations within, and the rarer speed has at least MODE_SHARE of the windows.
    """
    parts = [
        np.asarray(one.windows.latency_s) / float(other.latency_s.value)
        for one, other in zip(measurements, beside, strict=True)
        if one.windows is not None and other.latency_s.value
    ]
    laps = np.sort(np.concatenate(parts)) if parts else np.empty(0)
    least = max(2, math.ceil(MODE_SHARE * len(laps)))
    if len(laps) < 2 * least:
        return None
    places = range(least, len(laps) - least + 1)
    cut = max(places, key=lambda k: k * (len(laps) - k) * (laps[k:].mean() - laps[:k].mean()) ** 2)
    fast, slow = laps[:cut], laps[cut:]
    gap = float(slow.mean() - fast.mean())
    within = math.sqrt(float((fast.var() * len(fast) + slow.var() * len(slow)) / len(laps)))
    if gap <= MODE_GAP * fast.mean() or gap <= 4.0 * within:
        return None
    return {"slower_by": gap / float(fast.mean()), "slow_share": len(slow) / len(laps)}
