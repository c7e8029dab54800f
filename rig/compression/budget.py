"""What a network may cost: limits on power, energy, latency, FLOPs and parameters, several at once.

A limit reads the four totals of a network (latency, active energy, MACs, parameters; ``power_models.tables``) and the
device's quiet power P0. Meanings: power at a frame rate P0 + fps·e; flat out P0 + e/T; energy of the whole board per
inference e + P0·T; a share of power or energy counts the active part alone (what compression can change).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rig.errors import BadInputError, InfeasibleTargetError
from rig.units import Limit, Quantity

Array = npt.NDArray[np.float64]


class Bound(NamedTuple):
    """One limit with its absolute value; ``active_only``: energy above idle alone (a relative energy target)."""

    quantity: str
    limit: float
    unit: str
    fps: float | None
    relative: float | None
    idle_power_w: float
    active_only: bool = False

    def value(self, totals: Array) -> float:
        """The limited quantity of a network with these totals (4,), in ``unit``."""
        latency_s, energy_j, macs, params = totals
        if self.quantity == "power":
            if self.fps:
                return float(self.idle_power_w + self.fps * energy_j)
            return float(self.idle_power_w + energy_j / max(latency_s, 1e-12))
        if self.quantity == "energy":
            return float(energy_j if self.active_only else energy_j + self.idle_power_w * latency_s)
        return float({"latency": latency_s, "flops": 2 * macs, "params": params}[self.quantity])

    def gradient(self, totals: Array) -> Array:
        """Derivative of ``value`` by the four totals. Flat-out power is a ratio: time saved at low power raises it."""
        latency_s, energy_j = float(totals[0]), float(totals[1])
        if self.quantity == "power":
            if self.fps:
                return np.array([0.0, self.fps, 0.0, 0.0])
            return np.array([-energy_j / latency_s**2, 1.0 / latency_s, 0.0, 0.0])
        if self.quantity == "energy":
            return np.array([0.0 if self.active_only else self.idle_power_w, 1.0, 0.0, 0.0])
        place = {"latency": 0, "flops": 2, "params": 3}[self.quantity]
        return np.eye(4)[place] * (2.0 if self.quantity == "flops" else 1.0)

    @property
    def floor(self) -> float:
        """What no compression can remove of the quantity: quiet power of a power limit, else nothing."""
        return self.idle_power_w if self.quantity == "power" else 0.0

    def used(self, value: float) -> float:
        """Share of the budget used, of the active part: (value − floor)/(limit − floor)."""
        return float((value - self.floor) / (self.limit - self.floor))

    def scaled(self, factor: float) -> Bound:
        """The same bound with its active part times ``factor`` (a margin, or a correction by what was measured)."""
        return self._replace(limit=self.floor + (self.limit - self.floor) * factor)

    @property
    def name(self) -> str:
        """Key of the bound in results: power, energy, latency, flops or params."""
        return self.quantity

    def to_json(self) -> dict[str, object]:
        """The ``budget`` entry of result.json."""
        return {
            "quantity": self.quantity,
            "limit": self.limit,
            "unit": self.unit,
            "fps": self.fps if self.quantity == "power" else None,
            "relative": self.relative,
            "active_only": self.active_only,
        }


class Budget(NamedTuple):
    """All bounds of a run; every one must hold."""

    bounds: tuple[Bound, ...]

    def usage(self, totals: Array) -> float:
        """The largest share used of any bound; at most 1 where all hold."""
        return max(b.used(b.value(totals)) for b in self.bounds)

    def tightest(self, totals: Array) -> Bound:
        """The bound that is used most."""
        return max(self.bounds, key=lambda b: b.used(b.value(totals)))

    def gradient(self, totals: Array) -> Array:
        """Derivative of ``usage`` by the four totals."""
        bound = self.tightest(totals)
        return bound.gradient(totals) / (bound.limit - bound.floor)

    def scaled(self, factors: dict[str, float]) -> Budget:
        """Each bound's active part times its factor (1 where none is given)."""
        return Budget(tuple(b.scaled(factors.get(b.name, 1.0)) for b in self.bounds))


def resolve(limits: Sequence[Limit], fps: float | None, idle_power_w: float, baseline: Array) -> Budget:
    """Bounds from what the user wrote and the baseline's totals; shares become absolute.

    Raises BadInputError where nothing is limited or the baseline already meets everything, InfeasibleTargetError for a
    power limit at or below quiet power.
    """
    if not limits:
        raise BadInputError("no target was given", "add --target-power 3.6W --fps 60, or another --target-…")
    bounds = []
    for wanted in limits:
        bound = Bound(
            wanted.quantity,
            wanted.limit if wanted.limit is not None else 0.0,
            wanted.unit,
            fps if wanted.quantity == "power" else None,
            wanted.relative,
            idle_power_w,
            active_only=wanted.quantity == "energy" and wanted.relative is not None,
        )
        if wanted.relative is not None:
            whole = bound.value(baseline)
            bound = bound._replace(limit=float(bound.floor + wanted.relative * (whole - bound.floor)))
        if bound.limit <= bound.floor:
            raise InfeasibleTargetError(
                f"target {bound.limit:.3g} W is not above the quiet power of {bound.floor:.3g} W",
                "compression cannot go below what the board draws while it waits; raise --target-power",
            )
        bounds.append(bound)
    budget = Budget(tuple(bounds))
    if budget.usage(baseline) <= 1.0:
        said = ", ".join(
            f"{b.quantity} {Quantity(b.value(baseline)).format(b.unit)} ≤ {Quantity(b.limit).format(b.unit)}"
            for b in budget.bounds
        )
        raise BadInputError(f"the baseline already meets the target ({said})", "nothing to compress; lower the target")
    return budget


def check_feasible(budget: Budget, narrowest: Array, fps: float | None) -> None:
    """Raise InfeasibleTargetError where even the narrowest network breaks a bound or the frame rate."""
    for bound in budget.bounds:
        reach = bound.value(narrowest)
        if reach > bound.limit:
            flat_out = bound.quantity == "power" and not bound.fps
            raise InfeasibleTargetError(
                f"target {bound.quantity} {Quantity(bound.limit).format(bound.unit)}: the narrowest network of this "
                f"family needs {Quantity(reach).format(bound.unit)} (predicted)",
                "flat-out watts hardly follow a network's size: give --fps for power at a frame rate"
                if flat_out
                else f"raise the target above {Quantity(reach).format(bound.unit)}, or take a smaller model",
            )
    if fps and fps * float(narrowest[0]) > 1.0:
        raise InfeasibleTargetError(
            f"{fps:g} frames a second leave {1e3 / fps:.3g} ms each, and the narrowest network takes "
            f"{1e3 * float(narrowest[0]):.3g} ms (predicted)",
            "lower --fps, or take a smaller model",
        )
