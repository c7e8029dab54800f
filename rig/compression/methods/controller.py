"""The controller that drives the regularizer's strength, so that the true cost follows a line down to the target.

PI control of log strength in velocity form: each look adds ``Kp·(e − e_before) + Ki·e`` to the logarithm, so that the
sum is the strength itself and nothing else can wind up; it is bounded, and so is its change a look (Åström and
Hägglund, Advanced PID Control, 2006, chapter 3). Costs of hardware are stairs: nothing can come nearer to the line
from below than one step of them, so a cost less than one step under the line is on it (the dead band).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Gains(NamedTuple):
    """PI gains on the logarithm of the strength; ``rate`` bounds its change per update, ``ramp`` is the share of the
    steps over which the wanted cost falls from 1 to the target."""

    proportional: float = 6.0
    integral: float = 0.5
    rate: float = 0.15
    ramp: float = 0.7
    floor: float = 1e-3
    ceiling: float = 100.0


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

    def wanted(self, share: float) -> float:
        """The wanted cost at this share (0 to 1) of the steps."""
        fallen = min(1.0, share / self.gains.ramp)
        return self.start + (self.target - self.start) * fallen

    def update(self, cost: float, share: float, projected: float | None = None, step: float = 0.0) -> float:
        """Strength for the next steps, given the true cost now and the share of the steps done.

        ``projected``: the cost once the channels now shrinking are gone; the error is taken from it where it is given.
        ``step``: the cost of one step of the stairs, the width of the dead band under the line.
        """
        error = self._error(cost if projected is None else projected, share, step)
        change = self.gains.proportional * (error - self._previous_error) + self.gains.integral * error
        self._previous_error = error
        change = max(-self.gains.rate, min(self.gains.rate, change))
        low, high = math.log(self.gains.floor), math.log(self.gains.ceiling)
        self.log_strength = max(low, min(high, self.log_strength + change))
        return 0.0 if cost <= self.target else math.exp(self.log_strength)

    def _error(self, cost: float, share: float, step: float) -> float:
        """How far the cost is above the line, in shares of the start; what lies in the dead band is none."""
        above = cost - self.wanted(share)
        if above < 0:
            above = min(0.0, above + step)
        return above / self.start

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"log_strength": float(self.log_strength), "previous_error": float(self._previous_error)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back ``state``."""
        self.log_strength = float(state["log_strength"])
        self._previous_error = float(state["previous_error"])
