"""What a power source cannot do, whatever the time: said before measuring (afterwards: ``rig.quality.limits``).

step      a step with less noise than half of itself leaves every mean off by up to half a step: time does not help
windows   a window shorter than the source's averaging cannot be told from its neighbours: it has to be longer
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from device_agents.records import MeasurePlan
from rig.doctor.readings import step_error_w
from rig.quality.power import MIN_SAMPLES

MIN_WINDOWS = 3
FINER = 0.5  # of the wanted half-width: what a step that does not matter leaves


class Limit(NamedTuple):
    """Something that keeps an asked interval out of reach; ``certain``: no time would help."""

    code: str
    message: str
    fix: str
    certain: bool


def before(sensor: Mapping[str, Any], plan: MeasurePlan) -> list[Limit]:
    """What is out of reach of a source that was characterized, before anything is measured."""
    known = sensor.get("characterization") or {}
    found = []
    needed_s = needed_window_s(known, sensor)
    if MIN_WINDOWS * needed_s > plan.max_s:
        found.append(
            Limit(
                "source-too-slow",
                f"power source {sensor['name']} needs windows of {needed_s:.3g} s, and {MIN_WINDOWS} of them do not "
                f"fit into plan.max_s = {plan.max_s:g} s",
                f"plan.window_s = {_up(needed_s)} and plan.max_s = {_up(plan.min_windows * needed_s)}",
                True,
            )
        )
    elif plan.min_windows * needed_s > plan.max_s:
        found.append(
            Limit(
                "few-windows",
                f"power source {sensor['name']} needs windows of {needed_s:.3g} s: {int(plan.max_s / needed_s)} fit "
                f"into plan.max_s = {plan.max_s:g} s, {plan.min_windows} are wanted",
                f"plan.max_s = {_up(plan.min_windows * needed_s)}",
                False,
            )
        )
    floor = step_floor(known, sensor)
    if floor is not None and floor > plan.rel_ci:
        step_w, level_w = _step_w(known, sensor), _level_w(known)
        wanted_w = FINER * plan.rel_ci * level_w
        found.append(
            Limit(
                "step-too-coarse",
                f"±{100 * plan.rel_ci:.2g} % cannot be reached with power source {sensor['name']}, whatever the time: "
                f"its step of {step_w:.3g} W, with a noise of {_noise_w(known):.2g} W, leaves "
                f"±{100 * floor:.2g} % of {level_w:.3g} W",
                f"a source with a step of {wanted_w:.2g} W or less, or rel_ci = {_up(floor)} in [plan]",
                True,
            )
        )
    return found


def needed_window_s(known: Mapping[str, Any], sensor: Mapping[str, Any]) -> float:
    """The shortest window for this source: two of its averaging windows, or five of its updates."""
    window_s = float(_first(known.get("window_s"), sensor.get("window_s")))
    spacing_s = max(float(known.get("update_period_s") or 0.0), float(known.get("spacing_s") or 0.0))
    if not spacing_s and sensor.get("rate_hz"):
        spacing_s = 1.0 / float(sensor["rate_hz"])
    return max(2.0 * window_s, MIN_SAMPLES * spacing_s)


def step_floor(known: Mapping[str, Any], sensor: Mapping[str, Any]) -> float | None:
    """The relative half-width that the source's step leaves of a mean power under load; None where that is unknown."""
    level_w = _level_w(known)
    if level_w <= 0.0:
        return None
    step_w = _step_w(known, sensor)
    return step_error_w(step_w, _noise_w(known)) / level_w


def _step_w(known: Mapping[str, Any], sensor: Mapping[str, Any]) -> float:
    return float(_first(known.get("step_w"), sensor.get("step_w")))


def _noise_w(known: Mapping[str, Any]) -> float:
    """The noise that averages steps away: the least that was seen, since a load's disturbances are not always there."""
    seen = [float(value) for value in (known.get("noise_w"), known.get("busy_noise_w")) if value is not None]
    return min(seen, default=0.0)


def _level_w(known: Mapping[str, Any]) -> float:
    return float(known.get("quiet_w") or 0.0) + float(known.get("active_w") or 0.0)


def _first(*values: float | None) -> float:
    return next((value for value in values if value is not None), 0.0)


def _up(value: float) -> str:
    """Rounded up to two digits, so that a value to be typed in is enough."""
    digits = 1 - math.floor(math.log10(value))
    factor = 10.0**digits
    return f"{math.ceil(value * factor - 1e-9) / factor:g}"
