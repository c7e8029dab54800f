"""Several measurements together: ratios of interleaved pairs, the paced line, chains differenced.

A sensor's gain error is shared by everything it measures: it cancels in a ratio, and is left out there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from device_agents.intervals import student_t_975
from rig.measurement import Measurement
from rig.quality.stats import NORMAL_975, quadrature
from rig.units import Quantity

LINEAR_TOLERANCE = 0.02  # of the active power at the highest rate: deviations below it do not matter
CHAIN_TOLERANCE = 0.05  # of the difference between two chains
MIN_ROUNDS = 3
MAX_MISSED_SHARE = 0.1  # of the frames run: beyond it the device does not rest between frames at all


def _checked(measurements: Sequence[Measurement], quantity: str) -> list[float]:
    """The values of a quantity; ValueError names the measurement that is rejected or lacks it."""
    values = []
    for m in measurements:
        if not m.ok:
            raise ValueError(f"measurement {m.id} of {m.subject} was rejected: {m.reason}")
        found: Quantity | None = getattr(m, quantity)
        if found is None or found.value is None:
            raise ValueError(f"measurement {m.id} of {m.subject} has no {quantity}")
        values.append(found.value)
    return values


def _kind(measurements: Sequence[Measurement]) -> str:
    """The weakest kind among them: one simulated measurement makes the result simulated."""
    kinds = {m.kind for m in measurements}
    return "simulated" if "simulated" in kinds else sorted(kinds)[0]


def ratio(a: Sequence[Measurement], b: Sequence[Measurement], quantity: str) -> Quantity:
    """Ratio b / a with its 95 % interval; measurement i of both sides belongs to round i.

    From three rounds on the interval is that of the rounds' log ratios (Student t), below that of the measurements
    themselves. Raises ValueError for unequal or empty lists, rejected measurements, or values that are not above zero.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"comparing {len(a)} with {len(b)} measurements: both sides need one for each round")
    values_a, values_b = np.asarray(_checked(a, quantity)), np.asarray(_checked(b, quantity))
    if min(values_a.min(), values_b.min()) <= 0.0:
        raise ValueError(f"{quantity} is not above zero in every measurement: no ratio")
    logs = np.log(values_b / values_a)
    within = [
        quadrature(*(m.half_width(quantity, without=("gain",)) / v for m, v in ((x, vx), (y, vy))))
        for x, vx, y, vy in zip(a, values_a, b, values_b, strict=True)
    ]
    n = len(logs)
    if n >= MIN_ROUNDS:
        half = student_t_975(n - 1) * float(np.std(logs, ddof=1)) / math.sqrt(n)
    else:
        half = max(quadrature(*within) / n, 0.5 * float(np.ptp(logs)))
    middle = float(np.mean(logs))
    kind = _kind([*a, *b])
    return Quantity(math.exp(middle), math.exp(middle - half), math.exp(middle + half), n=n, kind=kind)


class PacedLine(NamedTuple):
    """P(fps) = P0 + fps e, fitted to paced measurements.

    ``idle_power_w``: P0, where the line meets rate 0; ``energy_active_j``: e, its slope. ``linear``: whether the line
    holds within 2 % of the active power or within the measurements' uncertainty. ``quiet_power_w``: quiet power as
    measured beside them; ``idle_excess_w``: P0 minus that (a device that does not rest between frames shows it here).
    ``fps``: the rates that were really run. ``missed``: deadlines missed at all of them. ``covariance``: of P0 (W) and
    e (J), 95 % half-widths squared, gain left out; ``gain``: its relative half-width.
    """

    idle_power_w: Quantity
    energy_active_j: Quantity
    linear: bool
    worst_residual_w: float
    quiet_power_w: float
    idle_excess_w: float
    fps: tuple[float, ...]
    missed: int
    covariance: tuple[tuple[float, float], tuple[float, float]]
    gain: float

    def power_at(self, fps: float, *, with_gain: bool = True) -> Quantity:
        """Mean power at a rate (W) with the interval of the line; without the gain it is what the same source reads.

        The line says nothing of rates that the device cannot keep.
        """
        value = float(self.idle_power_w.value or 0.0) + fps * float(self.energy_active_j.value or 0.0)
        (idle, both), (_, active) = self.covariance
        half = math.sqrt(max(0.0, idle + 2.0 * fps * both + fps * fps * active))
        half = quadrature(half, self.gain * value) if with_gain else half
        return Quantity.around(value, half, n=len(self.fps), kind=self.idle_power_w.kind)


def paced_line(measurements: Sequence[Measurement]) -> PacedLine:
    """Fit P(fps) = P0 + fps e to paced measurements at three or more rates, weighted by their uncertainty.

    Raises ValueError for fewer rates, back-to-back or rejected measurements, or a rate that was not held.
    """
    power = np.asarray(_checked(measurements, "power_w"))
    quiet = float(np.mean(_checked(measurements, "idle_power_w")))
    for m in measurements:
        if m.fps is None or m.missed > MAX_MISSED_SHARE * m.count:
            why = "is not paced" if m.fps is None else f"missed {m.missed} deadlines"
            raise ValueError(f"measurement {m.id} of {m.subject} {why}: it is not on the line")
    # The rate that was run: a frame dropped for a late one is missing from it.
    fps = power / np.asarray(_checked(measurements, "energy_j"))
    wanted = {m.fps for m in measurements}
    if len(wanted) < 3:
        raise ValueError(f"a line needs three frame rates, not {len(wanted)}")
    errors = np.asarray([m.half_width("power_w", without=("gain",)) for m in measurements]) / NORMAL_975
    errors = np.maximum(errors, 1e-6 * power)
    design = np.stack([np.ones_like(fps), fps], axis=1) / errors[:, None]
    covariance = np.linalg.inv(design.T @ design)
    idle_w, active_j = (float(x) for x in covariance @ design.T @ (power / errors))
    residuals = power - idle_w - active_j * fps
    freedom = len(fps) - 2
    chi_squared = float(np.sum((residuals / errors) ** 2)) / freedom
    scale = student_t_975(freedom) if chi_squared > 1.0 else NORMAL_975
    widths = covariance * scale**2 * max(1.0, chi_squared)
    half = np.sqrt(np.diag(widths))
    worst = float(np.max(np.abs(residuals)))
    gain = float(np.mean([m.budget["power_w"].get("gain", 0.0) / v for m, v in zip(measurements, power, strict=True)]))
    kind, n = _kind(measurements), len(fps)
    return PacedLine(
        Quantity.around(idle_w, quadrature(float(half[0]), gain * idle_w), n=n, kind=kind),
        Quantity.around(active_j, quadrature(float(half[1]), gain * active_j), n=n, kind=kind),
        worst <= LINEAR_TOLERANCE * abs(active_j) * float(fps.max()) or bool(np.all(np.abs(residuals) <= 2.5 * errors)),
        worst,
        quiet,
        idle_w - quiet,
        tuple(float(f) for f in fps),
        sum(m.missed for m in measurements),
        ((float(widths[0, 0]), float(widths[0, 1])), (float(widths[1, 0]), float(widths[1, 1]))),
        gain,
    )


class ChainResult(NamedTuple):
    """One kernel from chains of k1 and k2 copies: differences a copy, with standard errors (gain left out).

    ``overhead_s``/``overhead_j``: what is left at zero copies, the cost of a call. ``checks``: how far the third chain
    is off the line, in its standard errors, of latency and of energy. ``problem``: why it may not be used (not linear
    at the third k, or no difference), else None.
    """

    latency_s: float
    latency_se_s: float
    energy_active_j: float | None
    energy_se_j: float | None
    overhead_s: float
    overhead_se_s: float
    overhead_j: float | None
    overhead_se_j: float | None
    checks: tuple[float, ...]
    problem: str | None


def difference_chain(
    short: Measurement, long: Measurement, k1: int, k2: int, third: Measurement | None = None, k3: int | None = None
) -> ChainResult:
    """Difference chains of k1 < k2 copies of a kernel, with a third k as a check that cost is linear in k.

    Raises ValueError for rejected measurements or k1 >= k2.
    """
    if not 0 < k1 < k2:
        raise ValueError(f"chains of {k1} and {k2} copies cannot be differenced")
    latency = _line(short, long, k1, k2, "latency_s")
    seen = [_curvature(latency, third, k3, k2 - k1, "latency_s")]
    energy = None
    if short.energy_active_j is not None and long.energy_active_j is not None:
        energy = _line(short, long, k1, k2, "energy_active_j")
        seen.append(_curvature(energy, third, k3, k2 - k1, "energy_active_j"))
    problems = [one.problem for one in seen if one]
    if latency.slope <= 0.0:
        problems.append(f"{k2} copies were not slower than {k1}")
    found = "; ".join(problem for problem in problems if problem)
    return ChainResult(
        latency.slope,
        latency.slope_se,
        energy.slope if energy else None,
        energy.slope_se if energy else None,
        latency.intercept,
        latency.intercept_se,
        energy.intercept if energy else None,
        energy.intercept_se if energy else None,
        tuple(one.deviation for one in seen if one),
        found or None,
    )


class _Line(NamedTuple):
    slope: float
    slope_se: float
    intercept: float
    intercept_se: float


def _line(short: Measurement, long: Measurement, k1: int, k2: int, quantity: str) -> _Line:
    low, high = _checked([short, long], quantity)
    low_se, high_se = (m.half_width(quantity, without=("gain",)) / NORMAL_975 for m in (short, long))
    slope = (high - low) / (k2 - k1)
    intercept_se = quadrature(k2 * low_se, k1 * high_se) / (k2 - k1)
    return _Line(slope, quadrature(low_se, high_se) / (k2 - k1), low - k1 * slope, intercept_se)


class _Curvature(NamedTuple):
    deviation: float
    problem: str | None


def _curvature(line: _Line, third: Measurement | None, k3: int | None, copies: int, quantity: str) -> _Curvature | None:
    """What the third chain says: a problem beyond 5 % of the difference and beyond the uncertainty."""
    if third is None or k3 is None:
        return None
    (seen,) = _checked([third], quantity)
    expected = line.intercept + k3 * line.slope
    doubt = quadrature(
        third.half_width(quantity, without=("gain",)) / NORMAL_975, line.intercept_se, k3 * line.slope_se
    )
    off = seen - expected
    deviation = off / max(doubt, 1e-300)
    if abs(off) <= CHAIN_TOLERANCE * abs(line.slope) * copies or abs(deviation) <= 3.0:
        return _Curvature(deviation, None)
    share = 100.0 * off / (abs(line.slope) * copies or math.inf)
    return _Curvature(
        deviation, f"{quantity} is not linear in the number of copies: {share:+.1f} % of the difference at {k3} copies"
    )
