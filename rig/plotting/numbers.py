"""Numbers for pictures: display units, quantities without their label, intervals as plain floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from rig.units import Quantity

STEPS = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "J": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")),
    "W": ((1.0, "W"), (1e-3, "mW")),
    "FLOP": ((1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1.0, "FLOP")),
    "params": ((1e6, "million parameters"), (1e3, "thousand parameters"), (1.0, "parameters")),
}


class Interval(NamedTuple):
    """A value and its bounds in a display unit; a bound is None where there is no interval."""

    value: float
    lo: float | None = None
    hi: float | None = None


def interval(quantity: Quantity | None, factor: float = 1.0) -> Interval | None:
    """The quantity divided by ``factor`` (SI per display unit); None where it is missing."""
    if quantity is None or quantity.value is None:
        return None
    return Interval(*(None if x is None else x / factor for x in (quantity.value, quantity.lo, quantity.hi)))  # type: ignore[arg-type]


def display_unit(values: Sequence[float], unit: str) -> tuple[float, str]:
    """(SI per display unit, its name) so that the largest magnitude is at least 1 where possible."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    steps = STEPS.get(unit, ((1.0, unit),))
    for factor, shown in steps:
        if largest >= factor:
            return factor, shown
    return steps[-1]


def bare(quantity: Quantity | None, unit: str) -> str:
    """The number without its kind, for a spot inside a figure whose legend states the kind."""
    if quantity is None:
        return "n/a"
    kind = "measured" if quantity.kind == "simulated" else quantity.kind
    return replace(quantity, kind=kind, basis=None).format(unit)


def total(intervals: Sequence[Interval]) -> Interval:
    """The sum, its bounds added as if the errors went all one way (the cautious case)."""
    value = math.fsum(i.value for i in intervals)
    bounded = bool(intervals) and all(i.lo is not None and i.hi is not None for i in intervals)
    if not bounded:
        return Interval(value)
    return Interval(value, math.fsum(i.lo or 0.0 for i in intervals), math.fsum(i.hi or 0.0 for i in intervals))


def percent(share: float, digits: int = 0) -> str:
    """``64 %``."""
    return f"{100 * share:.{digits}f} %".replace("-", "−")


def compact(x: float) -> str:
    """Three significant digits without an exponent, for labels of exact or derived numbers."""
    if x == 0 or not math.isfinite(x):
        return "0" if x == 0 else "n/a"
    return f"{round(x, 2 - math.floor(math.log10(abs(x)))):,.{max(0, 2 - math.floor(math.log10(abs(x))))}f}".replace(
        "-", "−"
    )


def quantile(values: Sequence[float], q: float) -> float:
    """Linear-interpolated quantile (type 7); nan for no values."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); (0, 1) without trials."""
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
