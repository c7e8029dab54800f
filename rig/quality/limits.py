"""Why a figure is not as sure as was asked, and what would make it so: a longer measurement, or another source.

     asked ± 2 %     reached ± 3.9 % = sampling 0.6, quantization 3.8, gain 0.6 ...    (half-widths, in quadrature)
                     the largest part is named; where it alone exceeds what was asked, no time would help

The gain of the source is told apart: it is not in the ratio of two networks measured by the same source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from device_agents.records import MeasurePlan
from rig.measurement import Measurement
from rig.quality.stats import NORMAL_975, quadrature

TOLERANCE = 1.05  # what was asked and a little: half-widths are themselves known to some per cent only
CHECKED = ("latency_s", "energy_j")


def shortfalls(made: Measurement, plan: MeasurePlan, record: Mapping[str, Any]) -> list[str]:
    """One sentence for each of latency and energy whose interval is wider than ``plan.rel_ci``, with the remedy."""
    found = []
    for name in CHECKED:
        quantity = getattr(made, name)
        parts = made.budget.get(name, {})
        if (
            quantity is None
            or not quantity.value
            or quadrature(*parts.values()) <= TOLERANCE * (plan.rel_ci * abs(quantity.value))
        ):
            continue
        shares = {part: value / abs(quantity.value) for part, value in parts.items()}
        found.append(_sentence(name, shares, plan, record, made))
    return found


def _sentence(
    name: str, shares: Mapping[str, float], plan: MeasurePlan, record: Mapping[str, Any], made: Measurement
) -> str:
    reached, asked = quadrature(*shares.values()), plan.rel_ci
    limiting = max(shares, key=lambda part: shares[part])
    others = quadrature(*(value for part, value in shares.items() if part != limiting))
    room = (asked**2 - others**2) ** 0.5 if others < asked else 0.0
    head = f"{name}: ±{100 * reached:.2g} % reached, ±{100 * asked:.2g} % was wanted; "
    if limiting == "sampling":
        return head + _more_time(shares["sampling"], room, record)
    what = f"limited by {limiting} (±{100 * shares[limiting]:.2g} %)"
    if limiting != "drift":
        what += ", which no longer measurement lowers: this source cannot reach it"
    return f"{head}{what}; {_remedy(limiting, shares[limiting], room or 0.7 * asked, record, made, name)}"


def _more_time(sampling: float, room: float, record: Mapping[str, Any]) -> str:
    """Windows that would do: the half-width falls with the root of their number."""
    windows = [phase for phase in record["phases"] if phase["name"] == "window"]
    spent_s = windows[-1]["t1_s"] - windows[0]["t0_s"]
    why = {"max_s": " in the time given", "temperature": " before the board was too hot"}.get(
        str(record.get("stopped")), ""
    )
    if room <= 0.0:
        return f"limited by sampling{why}, and by the other parts too (--explain lists them)"
    needed_s = spent_s * (sampling / room) ** 2
    return (
        f"limited by sampling{why}: about {needed_s:.3g} s of windows instead of {spent_s:.3g} s would do (plan.max_s)"
    )


def _remedy(part: str, share: float, room: float, record: Mapping[str, Any], made: Measurement, name: str) -> str:
    """What would bring a part down to ``room`` (relative)."""
    sensor = record.get("sensor") or {}
    factor = room / share
    if part == "gain":
        return (
            f"calibrate it against a meter of {100 * room / NORMAL_975:.2g} % or better (rig calibrate-sensor); ratios "
            "of networks do not hold it"
        )
    if part == "quantization":
        step_w = float(sensor.get("step_w") or 0.0)
        return f"a source or range with a step of {factor * step_w:.2g} W or less (now {step_w:.2g} W) would"
    if part == "clock":
        doubt_s = float((record.get("clock") or {}).get("uncertainty_s") or 0.0)
        return (
            f"a clock known to ± {1e3 * factor * doubt_s:.2g} ms (now {1e3 * doubt_s:.2g} ms) or longer windows would"
        )
    if part == "drift":
        before, after = made.temp_before_c, made.temp_after_c
        heat = (
            f" ({before:.0f} to {after:.0f} °C)"
            if before is not None and after is not None and name != "latency_s"
            else ""
        )
        return (
            f"the board is not steady{heat}: a longer warm-up (plan.warmup_max_s), cooling or a pinned clock would help"
        )
    quiet_s = float((record.get("plan") or {}).get("quiet_s") or 0.0)
    return f"a longer quiet phase would lower it (plan.quiet_s, now {quiet_s:g} s)"
