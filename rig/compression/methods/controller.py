"""The controller that drives the regularizer's strength, so that the true cost follows a line down to the target.

PI control of log strength in velocity form: each look adds ``Kp·(e − e_before) + Ki·e·passed`` to the logarithm, passed
being the share of the training since the last look, so that the sum is the strength itself; it is bounded, and so is
what a look adds (Åström and Hägglund, Advanced PID Control, 2006, chapter 3). Below the strength at which the first
channel would go nothing happens, so that the strength would wind up there while the cost is under the line, and press
too late once the line has come down: it is lifted to just below that, however far that is (anti-windup at the
actuator's own limit). Errors are shares of the way that is to be gone, so that a short way is gone as surely as a long
one. A channel takes its time to shrink: what the cost will be then is held against the line of then. Costs of hardware
are stairs: nothing can come nearer to the line from below than one step of them, so a cost less than one step under
the line is on it (the dead band).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

SHORTEST = 0.01  # of the start: a way shorter than this is taken to be so long
FIRST = 1 / 150  # share that the first look stands for, which has none before it
SLACK = 0.15  # of the logarithm: so far the strength may fall below where it makes a difference


class Gains(NamedTuple):
    """PI gains on the logarithm of the strength, per share of the way.

    ``integral`` and ``rate``, which bounds the change, are those of the whole line (the training less its grace), and
    count between two looks by what lies between them; ``ramp`` is the share of it over which the wanted cost falls to
    the target.
    """

    proportional: float = 3.0
    integral: float = 40.0
    rate: float = 25.0
    ramp: float = 0.7
    floor: float = 1e-3
    ceiling: float = 100.0


class Seen(NamedTuple):
    """What a look finds beside the true cost.

    projected: the cost once the channels now shrinking are gone; lead: the share, as ``update`` counts it, that a
    channel condemned now takes to go, so that the line there is what ``projected`` is compared with; step: the cost of
    one step of the stairs, the width of the dead band; idle: the strength up to which no channel is condemned or stays
    so, at which the first look begins (0 where that is not known).
    """

    projected: float
    lead: float = 0.0
    step: float = 0.0
    idle: float = 0.0


class StrengthController:
    """PI control of log strength: above the wanted cost it presses harder, below it lets go.

    ``start``, ``target``: cost at the beginning and at the end of the line (shares of the budget used). At the target
    the strength is zero: what is dead stays dead.
    """

    def __init__(self, start: float, target: float, initial: float = 0.4, gains: Gains | None = None) -> None:
        self.start = start
        self.target = target
        self.gains = gains or Gains()
        self.log_strength = math.log(initial)
        self._previous_error = 0.0
        self._previous_share: float | None = None
        self._is_new = True

    def wanted(self, share: float) -> float:
        """The wanted cost at this share (0 to 1) of the steps."""
        fallen = min(1.0, share / self.gains.ramp)
        return self.start + (self.target - self.start) * fallen

    def update(self, cost: float, share: float, seen: Seen | None = None) -> float:
        """Strength for the next steps, given the true cost now, the share of the steps done, and what else is seen."""
        seen = seen or Seen(cost)
        passed = FIRST
        if self._previous_share is not None:
            passed = max(0.0, share - self._previous_share)
        elif self._is_new and seen.idle > 0:
            self.log_strength = math.log(seen.idle)
        self._previous_share = share
        error = self._error(seen.projected, share + seen.lead, seen.step)
        change = self.gains.proportional * (error - self._previous_error) + self.gains.integral * passed * error
        self._previous_error = error
        most = self.gains.rate * passed
        low, high = math.log(self.gains.floor), math.log(self.gains.ceiling)
        if seen.idle > 0:
            low = max(low, min(high, math.log(seen.idle)) - SLACK)
        self.log_strength = max(low, min(high, self.log_strength + max(-most, min(most, change))))
        return 0.0 if cost <= self.target else math.exp(self.log_strength)

    def _error(self, cost: float, share: float, step: float) -> float:
        """How far the cost is above the line, in shares of the whole way; what lies in the dead band is none."""
        above = cost - self.wanted(share)
        if above < 0:
            above = min(0.0, above + step)
        return above / max(self.start - self.target, SHORTEST * self.start)

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "log_strength": float(self.log_strength),
            "previous_error": float(self._previous_error),
            "previous_share": self._previous_share,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back ``state``; what an earlier version stored, without a share, keeps its strength."""
        self.log_strength = float(state["log_strength"])
        self._previous_error = float(state["previous_error"])
        share = state.get("previous_share")
        self._previous_share = None if share is None else float(share)
        self._is_new = "previous_share" in state and share is None
