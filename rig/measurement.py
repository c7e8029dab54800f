"""What a record amounts to: quantities with their uncertainty in parts, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rig.units import Quantity

PARTS = ("sampling", "quantization", "gain", "clock", "idle", "drift")
QUANTITIES = ("latency_s", "energy_j", "energy_active_j", "power_w", "idle_power_w")


@dataclass(frozen=True)
class Windows:
    """Means of the measured windows, in order: times on the runtime's clock, latency, and power where there is any.

    Power windows may be fewer: several are joined where one is too short for the sensor.
    """

    t0_s: tuple[float, ...]
    t1_s: tuple[float, ...]
    latency_s: tuple[float, ...]
    power_t0_s: tuple[float, ...] = ()
    power_t1_s: tuple[float, ...] = ()
    power_w: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One assessed record (docs/design.md, energies): back to back or paced, per inference.

    ``energy_j``: whole board; ``energy_active_j``: above quiet power; ``power_w``: mean while measured (at ``fps``, or
    flat out); ``idle_power_w``: quiet power P0. All four None without a power source. ``budget``: of each quantity the
    parts of its 95 % half-width (absolute, same unit). ``verdict``: "ok" or "rejected" with ``reason``; ``warnings``:
    what does not reject. ``disturbed_share``: of the windows used, those during which something else ran on the core.
    """

    id: str
    subject: str
    fps: float | None
    kind: str
    verdict: str
    reason: str | None
    latency_s: Quantity
    latency_median_s: Quantity
    latency_p99_s: Quantity
    energy_j: Quantity | None = None
    energy_active_j: Quantity | None = None
    power_w: Quantity | None = None
    idle_power_w: Quantity | None = None
    budget: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    windows: Windows | None = None
    count: int = 0
    missed: int = 0
    temp_before_c: float | None = None
    temp_after_c: float | None = None
    throttled: tuple[str, ...] = ()
    disturbed_share: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the verdict is "ok"."""
        return self.verdict == "ok"

    def half_width(self, quantity: str, *, without: tuple[str, ...] = ()) -> float:
        """95 % half-width of a quantity with some parts left out (``("gain",)`` to compare on one sensor)."""
        parts = self.budget[quantity]
        return math.sqrt(sum(value * value for part, value in parts.items() if part not in without))

    def without_gain(self, quantity: str) -> Quantity | None:
        """A quantity without the sensor's gain error, which two measurements by one sensor share."""
        whole: Quantity | None = getattr(self, quantity)
        if whole is None or whole.value is None:
            return whole
        half = self.half_width(quantity, without=("gain",))
        return Quantity.around(whole.value, half, n=whole.n, kind=whole.kind, basis=whole.basis)

    def to_json(self) -> dict[str, Any]:
        """Everything but the windows, quantities in their JSON form; infinite parts are null."""
        names = (*QUANTITIES, "latency_median_s", "latency_p99_s")
        shown = {name: _json_or_none(getattr(self, name)) for name in names}
        budget = {q: {p: v if math.isfinite(v) else None for p, v in parts.items()} for q, parts in self.budget.items()}
        plain = (
            "id",
            "subject",
            "fps",
            "kind",
            "verdict",
            "reason",
            "count",
            "missed",
            "temp_before_c",
            "temp_after_c",
        )
        facts = {name: getattr(self, name) for name in plain}
        return {**facts, **shown, "budget": budget, "warnings": list(self.warnings), "throttled": list(self.throttled)}


def _json_or_none(quantity: Quantity | None) -> dict[str, Any] | None:
    return None if quantity is None else quantity.to_json()
