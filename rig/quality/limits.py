"""Why a figure is not as sure as was asked, and what would make it so: a longer measurement, or another source.

     asked ± 2 %     reached ± 3.9 % = sampling 0.6, quantization 3.8, gain 0.6 ...    (half-widths, in quadrature)
                     the largest part is named; where no time would bring it down, that is said

The warnings of a measurement and ``rig measure --explain`` say the same by this one function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from device_agents.records import MeasurePlan
from rig.measurement import Measurement
from rig.quality.stats import NORMAL_975, quadrature

TOLERANCE = 1.05  # what was asked and a little: half-widths are themselves known to some per cent only
CHECKED = ("latency_s", "energy_j")


class Shortfall(NamedTuple):
    """One figure whose interval is wider than was asked (relative half-widths of 95 %).

    ``limited_by``: the largest part of its budget, with its ``share`` of the square; ``why``: that in words;
    ``certain``: no longer measurement helps; ``fix``: what would.
    """

    quantity: str
    wanted_rel: float
    reached_rel: float
    limited_by: str
    share: float
    why: str
    certain: bool
    fix: str

    @property
    def sentence(self) -> str:
        """The whole in one line."""
        head = f"{self.quantity}: ±{100 * self.reached_rel:.2g} % reached, ±{100 * self.wanted_rel:.2g} % was wanted"
        return f"{head}; {self.why}; {self.fix}"

    def to_json(self) -> dict[str, Any]:
        """The fields as a plain dict."""
        return self._asdict()


def shortfalls(made: Measurement, plan: MeasurePlan, record: Mapping[str, Any]) -> list[Shortfall]:
    """Each of latency and energy whose interval is wider than ``plan.rel_ci``, with the remedy."""
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
        found.append(_shortfall(name, shares, plan, record, made))
    return found


def _shortfall(
    name: str, shares: Mapping[str, float], plan: MeasurePlan, record: Mapping[str, Any], made: Measurement
) -> Shortfall:
    reached, asked = quadrature(*shares.values()), plan.rel_ci
    limiting = max(shares, key=lambda part: shares[part])
    others = quadrature(*(value for part, value in shares.items() if part != limiting))
    room = (asked**2 - others**2) ** 0.5 if others < asked else 0.0
    certain = limiting not in ("sampling", "drift")
    if limiting == "sampling":
        why, fix = _more_time(shares["sampling"], room, record)
    else:
        why = f"limited by {limiting} (±{100 * shares[limiting]:.2g} %)"
        if certain:
            why += ", which no longer measurement lowers: this source cannot reach it"
        fix = _remedy(limiting, shares[limiting], room or 0.7 * asked, record, made, name)
    return Shortfall(name, asked, reached, limiting, (shares[limiting] / reached) ** 2, why, certain, fix)


def _more_time(sampling: float, room: float, record: Mapping[str, Any]) -> tuple[str, str]:
    """Windows that would do: the half-width falls with the root of their number."""
    windows = [phase for phase in record["phases"] if phase["name"] == "window"]
    spent_s = windows[-1]["t1_s"] - windows[0]["t0_s"]
    when = {"max_s": " in the time given", "temperature": " before the board was too hot"}.get(
        str(record.get("stopped")), ""
    )
    if room <= 0.0:
        return f"limited by sampling{when}, and by the other parts too", "see them with rig measure --explain"
    needed_s = spent_s * (sampling / room) ** 2
    longer = f"about {needed_s:.3g} s of windows instead of {spent_s:.3g} s would do (plan.max_s)"
    return f"limited by sampling{when}", longer


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
