"""A round on the device: networks measured in turn, and what that says about a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rig.compression.bench import Bench, pooled
from rig.compression.budget import Bound, Budget
from rig.measurement import Measurement
from rig.quality.verdict import compare
from rig.units import Quantity

Found = dict[tuple[str, float | None], list[Measurement]]


class Trial:
    """Measurements of networks by (name, rate); once judged, value, share of the budget used and verdict."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.values: dict[str, Quantity] = {}
        self.usages: dict[str, Quantity] = {}
        self.verdict = "undecided"

    @classmethod
    def measure(
        cls,
        bench: Bench,
        networks: Mapping[str, Path],
        tag: str,
        rates: Sequence[float | None],
        rounds: int,
        enough: Callable[[Any], bool] | None = None,
    ) -> Trial:
        """Measure the networks in turn on the held device."""
        return cls(bench.in_turn(networks, tag, rates, rounds, enough))

    def quantity(self, name: str, quantity: str, rate: float | None = None) -> Quantity | None:
        """A quantity of a network pooled over its measurements at a rate; None where it was not measured."""
        return pooled(self.found.get((name, rate), []), quantity)

    def latency_s(self, name: str) -> float:
        """Mean latency back to back."""
        found = self.quantity(name, "latency_s")
        return float(found.value) if found is not None and found.value is not None else float("nan")

    def energy_active_j(self, name: str) -> float:
        """Active energy an inference, back to back; 0 where the device has no power source."""
        found = self.quantity(name, "energy_active_j")
        return float(found.value) if found is not None and found.value is not None else 0.0

    def idle_power_w(self, name: str) -> float:
        """Quiet power; 0 where the device has no power source."""
        found = self.quantity(name, "idle_power_w")
        return float(found.value) if found is not None and found.value is not None else 0.0

    def most_used(self) -> float:
        """The largest share used of any bound."""
        return max((q.value or 0.0 for q in self.usages.values()), default=0.0)

    @property
    def measurements(self) -> list[str]:
        """Ids of everything measured."""
        return [m.id for several in self.found.values() for m in several]


def judge(trial: Trial, budget: Budget, name: str, counts: tuple[int, int]) -> Trial:
    """The same trial with values, shares used and verdict of network ``name``; ``counts``: its (MACs, parameters).

    A relative bound is judged by the ratio to the baseline measured in the same rounds (the sensor's gain and slow
    drift cancel), an absolute one by its value.
    """
    judged = Trial(trial.found)
    for bound in budget.bounds:
        value = _value(trial, bound, name, counts)
        judged.values[bound.name] = value
        judged.usages[bound.name] = _ratio_used(trial, bound, name) or _used(bound, value)
    verdicts = [_verdict(q) for q in judged.usages.values()]
    if _rate_lost(trial, budget, name):
        verdicts.append("missed")
    judged.verdict = "missed" if "missed" in verdicts else "undecided" if "undecided" in verdicts else "met"
    return judged


def _value(trial: Trial, bound: Bound, name: str, counts: tuple[int, int]) -> Quantity:
    if bound.quantity in ("flops", "params"):
        exact = float(2 * counts[0] if bound.quantity == "flops" else counts[1])
        return Quantity(exact, exact, exact, n=1)
    rate = bound.fps if bound.quantity == "power" else None
    energy = "energy_active_j" if bound.active_only else "energy_j"
    wanted = {"power": "power_w", "energy": energy, "latency": "latency_s"}[bound.quantity]
    found = trial.quantity(name, wanted, rate)
    return found if found is not None else Quantity(None)


def _ratio_used(trial: Trial, bound: Bound, name: str) -> Quantity | None:
    """Share used of a relative bound, by the interleaved ratio; None where an absolute value must do."""
    flat_power = bound.quantity == "power" and not bound.fps
    if bound.relative is None or flat_power or bound.quantity in ("flops", "params"):
        return None
    rate = bound.fps if bound.quantity == "power" and ("baseline", bound.fps) in trial.found else None
    wanted = "latency_s" if bound.quantity == "latency" else "energy_active_j"
    ours, theirs = trial.found.get((name, rate), []), trial.found.get(("baseline", rate), [])
    if not ours or len(ours) != len(theirs):
        return None
    return compare(theirs, ours, wanted).scaled(1.0 / bound.relative)


def _used(bound: Bound, value: Quantity) -> Quantity:
    if value.value is None:
        return value
    ends = [bound.used(v) if v is not None else None for v in (value.value, value.lo, value.hi)]
    return Quantity(*ends, n=value.n, kind=value.kind)


def _verdict(usage: Quantity) -> str:
    if usage.value is None or usage.lo is None or usage.hi is None:
        return "undecided"
    return "met" if usage.hi <= 1.0 else "missed" if usage.lo > 1.0 else "undecided"


def _rate_lost(trial: Trial, budget: Budget, name: str) -> bool:
    """Whether a frame rate that a bound names was not held (more than one deadline in a hundred missed)."""
    for bound in budget.bounds:
        paced = trial.found.get((name, bound.fps), []) if bound.quantity == "power" and bound.fps else []
        if any(m.missed > 0.01 * max(m.count, 1) for m in paced):
            return True
    return False
