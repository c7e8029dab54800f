"""Two power sources at several load levels: the pairs of mean powers that a calibration is fitted to.

     duty   0 … 1 and back to 0      each level twice, so that a slow drift cancels in its mean
     batch  a few duty periods       source and reference over the very same stretches of the runtime's clock

What the load does within a level both sources see alike: the scatter of a level is that of their differences.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from device_agents.intervals import student_t_975
from rig.errors import BadInputError, DeviceError, TransientDeviceError
from rig.quality.power import MIN_SAMPLES, PowerCurve, UnusableTrace
from rig.quality.stats import NORMAL_975, quadrature
from rig.sensors.calibration import SensorCalibration, fit_sensor

LEVELS = 6
MIN_LEVELS = 5
LEVEL_S = 6.0  # both halves of a level together, for a source that is not slow
DUTY_PERIOD_S = 0.1
BATCHES = 6  # of half a level
WINDOWS_A_HALF = 5.0  # half a level holds so many of the windows that a source needs


class Levels(NamedTuple):
    """Mean powers of each level (W), the standard errors of their differences, and how sure the reference is.

    ``rounded_w``: 95 % half-widths of what the steps of both leave at the lowest and at the highest level. A load that
    is on and off by turns reads as two powers only, each of them rounded the same way at every level: what that does
    is a straight line from end to end, which no scatter about the line shows.
    """

    source_w: list[float]
    reference_w: list[float]
    difference_se_w: list[float]
    reference_gain_uncertainty: float
    rounded_w: tuple[float, float] = (0.0, 0.0)

    def fit(self) -> SensorCalibration:
        """The calibration; BadInputError where these levels give none."""
        fitted = self._line()
        quantile = student_t_975(fitted.levels - 2)
        low_w, high_w = self.rounded_w
        slope = quadrature(low_w, high_w) / (fitted.highest_w - fitted.lowest_w) / quantile
        at_pivot_w = max(low_w, high_w) / quantile
        return replace(
            fitted,
            gain_se=quadrature(fitted.gain_se, fitted.gain * slope),
            level_se_w=quadrature(fitted.level_se_w, at_pivot_w),
        )

    def _line(self) -> SensorCalibration:
        try:
            return fit_sensor(
                self.source_w,
                self.reference_w,
                self.reference_gain_uncertainty,
                reference_se_w=self.difference_se_w if min(self.difference_se_w, default=0.0) > 0.0 else None,
            )
        except ValueError as error:
            raise BadInputError(
                f"no calibration can be fitted: {error}",
                "use levels that differ, in watts, over the range you measure in",
            ) from error


def level_seconds(*needed_s: float) -> float:
    """Seconds of a level that give sources enough to say which need windows of so many seconds."""
    return max(LEVEL_S, *(2.0 * WINDOWS_A_HALF * seconds for seconds in needed_s))


def curve_of(part: Mapping[str, Any], known: Mapping[str, Any]) -> PowerCurve:
    """The samples of one source under the load; ``known``: what is stored of it (characterization, calibration).

    Raises TransientDeviceError where there is no usable trace.
    """
    problem = part.get("trace_problem") or (None if part.get("trace") else "no sample came")
    if problem:
        raise TransientDeviceError(f"power source {part['name']}: {problem}", "look at it with rig doctor")
    try:
        return PowerCurve(part["trace"], {**(part.get("sensor") or {}), **known}, part.get("clock"))
    except UnusableTrace as error:
        raise TransientDeviceError(f"power source {part['name']}: {error}", "look at it with rig doctor") from error


def compare_levels(
    spans: Sequence[Sequence[float]],
    counts: Sequence[int],
    source: PowerCurve,
    reference: PowerCurve,
    reference_gain_uncertainty: float,
) -> Levels:
    """Mean powers of both sources over the same stretches; ``counts``: steps of each half level, up and then down.

    The two curves are on the runtime's clock, wherever they were sampled. Raises DeviceError where a trace does not
    reach over the levels.
    """
    settle_s = sum(0.5 * curve.window_s + curve.shift_s + curve.update_s for curve in (source, reference))
    halves = []
    first = 0
    for count in counts:
        steps = spans[first : first + count]
        first += count
        halves.append(_half(source, reference, steps[0][0] + settle_s, steps[-1][2] - settle_s))
    levels = len(counts) // 2
    pairs = [(halves[i], halves[-1 - i]) for i in range(levels)]
    return Levels(
        [0.5 * (up[0] + down[0]) for up, down in pairs],
        [0.5 * (up[1] + down[1]) for up, down in pairs],
        [0.5 * quadrature(up[2], down[2]) for up, down in pairs],
        reference_gain_uncertainty,
        (max(half[3] for half in pairs[0]), max(half[3] for half in pairs[-1])),
    )


def _half(source: PowerCurve, reference: PowerCurve, t0_s: float, t1_s: float) -> tuple[float, float, float, float]:
    """Mean powers of half a level, the standard error of their difference, the half-width that their steps leave."""
    shortest_s = max(DUTY_PERIOD_S, *(max(2.0 * c.window_s, MIN_SAMPLES * c.update_s) for c in (source, reference)))
    batches = min(BATCHES, int((t1_s - t0_s) / shortest_s))
    if batches < 3:
        raise DeviceError(
            f"a level of {t1_s - t0_s:.3g} s is too short for these sources, which need {3.0 * shortest_s:.3g} s",
            "characterize them first (rig doctor), or give --level-time",
        )
    edges = np.linspace(t0_s, t1_s, batches + 1)
    try:
        a, b = ([curve.mean_w(low, high) for low, high in pairwise(edges)] for curve in (source, reference))
    except UnusableTrace as error:
        raise TransientDeviceError(str(error), "give the same command again") from error
    scatter = float(np.std(np.asarray(b) - np.asarray(a), ddof=1)) / math.sqrt(batches)
    rounded_w = quadrature(*(c.quantization_half_width(c.samples(t0_s, t1_s)) for c in (source, reference)))
    return float(np.mean(a)), float(np.mean(b)), quadrature(scatter, rounded_w / NORMAL_975), rounded_w


def read_points(path: Path, reference_gain_uncertainty: float) -> Levels:
    """Pairs (source W, reference W) typed in by a person: two columns, a heading allowed, # for remarks.

    Raises BadInputError naming file, line and what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read: {error}", "give a CSV file with two columns of watts") from error
    source_w: list[float] = []
    reference_w: list[float] = []
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        try:
            a, b = (float(cell) for cell in cells)
        except ValueError:
            if not source_w and not any(_is_number(cell) for cell in cells):
                continue  # the heading
            raise BadInputError(
                f"{path}, line {number}: {','.join(row)!r} is not two numbers", "write: source W, reference W"
            ) from None
        if not (math.isfinite(a) and math.isfinite(b)) or a < 0.0 or b < 0.0:
            raise BadInputError(f"{path}, line {number}: {a:g}, {b:g} are no powers", "write: source W, reference W")
        source_w.append(a)
        reference_w.append(b)
    if len(source_w) < MIN_LEVELS:
        raise BadInputError(
            f"{path}: {len(source_w)} pairs, a calibration takes {MIN_LEVELS} or more", "measure at more load levels"
        )
    return Levels(source_w, reference_w, [0.0] * len(source_w), reference_gain_uncertainty)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
