"""A record's verdict: what was measured, how sure that is and why, or the reason why it may not be used.

     quiet_before │ warm-up │ window window window ... │ quiet_after      on the runtime's clock; the power trace is
       P0 ─┐                    latency, power means         ┌─ P0        mapped onto it by record["clock"]
           └─ mean of both; their difference is a part of every budget ─┘

Half-widths are 95 %. Their parts: sampling (batch means over windows), quantization, gain (kept apart: it cancels in
ratios), clock, idle (P0's own uncertainty), drift (of P0, and what slope is left in the windows).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from device_agents.pulse import is_quiet
from device_agents.records import MeasurePlan
from rig.measurement import Measurement, Windows
from rig.quality import comparison as quality_compare
from rig.quality.clock_check import DEVICE_CLOCKS, checked_shift_s, edge_lag
from rig.quality.comparison import ChainResult, PacedLine, difference_chain, paced_line
from rig.quality.conditions import condition_warnings, new_flags
from rig.quality.limits import shortfalls
from rig.quality.power import MIN_SAMPLES, PowerCurve, UnusableTrace
from rig.quality.stats import NORMAL_975, Interval, batch_means, inefficiency, quadrature, quantile, slope_over
from rig.units import Quantity

__all__ = ["ChainResult", "Measurement", "PacedLine", "assess", "compare", "difference_chain", "paced_line"]

MIN_WINDOWS = 3
DRIFT_TOLERANCE = 0.02  # change of latency over the windows that is not worth a rejection, relative
DRIFT_SIGNIFICANCE = 2.0  # in units of the slope's 95 % half-width
MAX_CLOCK_DRIFT = 1e-3  # no crystal is that bad: a clock stepped between the exchanges
MAX_CLOCK_SHARE = 0.25  # of a window: beyond it, windows cannot be told from what is next to them
JOINING_SLACK = 0.95  # a window that ends with its last inference may be a little short
QUIET_SETTLING_SHARE = 0.1  # of a quiet phase, left out at its start
QUIET_BATCHES = 10


class Rejected(Exception):
    """Why a record may not be used."""


class _Power(NamedTuple):
    """Means and budget parts (W, J) of the power side."""

    windows: list[tuple[float, float, int]]
    power_w: tuple[float, ...]
    quantities: dict[str, tuple[float, int]]
    budget: dict[str, dict[str, float]]
    notes: tuple[str, ...] = ()


def assess(record: Mapping[str, Any], pulse_fast_s: float | None = None) -> Measurement:
    """Turn a MeasureRecord into quantities with intervals and a verdict; never raises for what a device may deliver.

    A rejected record still carries whatever could be computed from it. ``pulse_fast_s``: of the record's campaign
    (``device_agents.pulse``), where that saw faster pulses than the session had when the record was made.
    """
    plan = plan_of(record)
    windows = [phase for phase in record["phases"] if phase["name"] == "window" and phase["count"]]
    kind = record.get("kind", "measured")
    if not windows:
        nothing = Quantity(None, kind=kind)
        return _measurement(record, kind, "no window was measured", (nothing, nothing, nothing))
    measured, windows = windows, _undisturbed(record, windows, pulse_fast_s)
    latency, latency_budget = _latency(windows, kind)
    reasons = _condition_reasons(record, windows, plan)
    power: _Power | None = None
    try:
        power = _power(record, windows)
    except (Rejected, UnusableTrace) as error:
        reasons.append(str(error))
    budget = {"latency_s": latency_budget, **(power.budget if power else {})}
    made = _measurement(record, kind, "; ".join(reasons) or None, latency, windows, power, budget)
    disturbed = sum(not is_quiet(window, pulse_fast_s) for window in windows) / len(windows)
    notes = power.notes if power else ()
    return _with_warnings(replace(made, disturbed_share=disturbed, warnings=notes), record, plan, len(measured))


def plan_of(record: Mapping[str, Any]) -> MeasurePlan:
    """The plan that a record was measured by; of what an older rig did not store, the default."""
    return MeasurePlan(**{k: v for k, v in (record.get("plan") or {}).items() if k in MeasurePlan._fields})


def _undisturbed(
    record: Mapping[str, Any], windows: list[dict[str, Any]], pulse_fast_s: float | None
) -> list[dict[str, Any]]:
    """The windows during which nothing else ran on the core (``device_agents.pulse``).

    All of them where a power trace goes with them (it cannot be cut so finely), and where too few are left.
    """
    quiet = [window for window in windows if is_quiet(window, pulse_fast_s)]
    return windows if record.get("trace") is not None or len(quiet) < MIN_WINDOWS else quiet


def compare(
    a: Sequence[Measurement | Mapping[str, Any]],
    b: Sequence[Measurement | Mapping[str, Any]],
    quantity: str = "energy_active_j",
) -> Quantity:
    """Ratio b / a of a quantity, from interleaved measurements (records or assessed) paired by round.

    Raises ValueError for unequal or empty lists, rejected measurements, or a quantity that is missing.
    """
    pairs = [[m if isinstance(m, Measurement) else assess(m) for m in side] for side in (a, b)]
    return quality_compare.ratio(pairs[0], pairs[1], quantity)


# --- latency ----------------------------------------------------------------------------------------------------


def _latency(windows: Sequence[Mapping[str, Any]], kind: str) -> tuple[tuple[Quantity, ...], dict[str, float]]:
    """((mean, median, p99), budget of the mean)."""
    means = [phase["latency_mean_s"] for phase in windows]
    counts = [phase["count"] for phase in windows]
    interval = batch_means(means, counts, looked=True)
    slope = slope_over(means)
    drift = 0.5 * abs(slope.change) if slope.significance > 1.0 else 0.0
    budget = {"sampling": interval.half_width, "drift": drift}
    mean = Quantity.around(interval.mean, quadrature(*budget.values()), n=interval.n, kind=kind)
    batches = [phase["latency_s"] for phase in windows if phase.get("latency_s")]
    if not batches:
        missing = Quantity(None, kind=kind)
        return (mean, missing, missing), budget
    pooled = np.concatenate([np.asarray(batch, dtype=float) for batch in batches])
    independent = max(1.0, sum(counts) / inefficiency(batches, counts))
    independent = min(independent, float(len(pooled)))  # thinned samples
    quantiles = (Quantity(*quantile(pooled, share, independent), n=interval.n, kind=kind) for share in (0.5, 0.99))
    return (mean, *quantiles), budget


# --- conditions -------------------------------------------------------------------------------------------------


def _condition_reasons(record: Mapping[str, Any], windows: Sequence[Mapping[str, Any]], plan: MeasurePlan) -> list[str]:
    """Everything about the run itself, apart from the trace, that rejects it."""
    reasons = []
    phases = record["phases"]
    new = new_flags(phases)
    if new:
        first = min(new.values())
        flags = ", ".join(sorted(new))
        reasons.append(f"throttled: {flags} set in phase {first + 1} of {len(phases)} ({phases[first]['name']})")
    hottest = max((phase["temp_c"] for phase in phases if phase.get("temp_c") is not None), default=None)
    if hottest is not None and hottest > plan.max_temp_c:
        reasons.append(f"too hot: {hottest:.1f} °C, the limit is {plan.max_temp_c:.1f} °C")
    if len(windows) < MIN_WINDOWS:
        reasons.append(
            f"too few windows: {len(windows)}, at least {MIN_WINDOWS} are needed (plan.max_s or the frame rate)"
        )
    means = [phase["latency_mean_s"] for phase in windows]
    slope = slope_over(means)
    tolerance = max(DRIFT_TOLERANCE, plan.rel_ci) * float(np.mean(means))
    if abs(slope.change) > tolerance and slope.significance > DRIFT_SIGNIFICANCE:
        reasons.append(f"latency still drifting: {100 * slope.change / float(np.mean(means)):+.1f} % over the windows")
    starts = [phase["t0_s"] for phase in phases]
    if any(later < earlier for earlier, later in pairwise(starts)):
        reasons.append("clock step: the phases are not in order on the runtime's clock")
    return reasons


def _with_warnings(made: Measurement, record: Mapping[str, Any], plan: MeasurePlan, measured: int) -> Measurement:
    warnings = [*made.warnings, *((record.get("sensor") or {}).get("outdated") or ())]
    used = len(made.windows.t0_s) if made.windows is not None else measured
    if used < measured:
        warnings.append(f"{measured - used} of {measured} windows left out: something else ran on the core")
    if made.disturbed_share > 0.5:
        warnings.append(f"something else ran on the core during {100 * made.disturbed_share:.0f} % of the windows")
    flags = record["phases"][0].get("throttled") or ()
    if flags:
        warnings.append(f"already set before the measurement: {', '.join(flags)}")
    warnings.extend(condition_warnings([phase for phase in record["phases"] if phase["name"] == "window"]))
    if made.latency_s.n is not None and made.latency_s.n < plan.min_windows:
        warnings.append(f"{made.latency_s.n} windows instead of {plan.min_windows}: the interval is wider for it")
    missed_ticks, ticks = (int((record.get("sampling") or {}).get(key) or 0) for key in ("missed", "samples"))
    if missed_ticks and not (record.get("sensor") or {}).get("counts_energy"):  # a counter loses nothing by it
        warnings.append(
            f"the sampler missed {missed_ticks} of {missed_ticks + ticks} readings: the device is overloaded"
        )
    warnings.extend(one.sentence for one in shortfalls(made, plan, record))
    if made.missed:
        warnings.append(f"{made.missed} deadlines missed, {made.count} frames run")
    return Measurement(**{**made.__dict__, "warnings": tuple(warnings)})


# --- power ------------------------------------------------------------------------------------------------------


def _power(record: Mapping[str, Any], windows: Sequence[Mapping[str, Any]]) -> _Power | None:
    """The power side; None where no source was asked for. Raises Rejected or UnusableTrace."""
    trace, sensor, clock = record.get("trace"), record.get("sensor"), record.get("clock")
    problem = record.get("trace_problem")
    if problem:
        raise Rejected(f"power trace: {problem}")
    if trace is None:
        if sensor is not None:
            raise Rejected(f"the power source {sensor.get('name')} was asked for and its trace is missing")
        return None
    _check_clock(clock, windows)
    curve = PowerCurve(trace, sensor, clock)
    span = (min(p["t0_s"] for p in record["phases"]), max(p["t1_s"] for p in record["phases"]))
    curve.mean_w(*span)  # raises where the trace does not reach over the measurement
    load = [phase for phase in record["phases"] if phase["name"] in ("warmup", "window")]
    wrong = curve.problem(*span, load=(load[0]["t0_s"], load[-1]["t1_s"]), duty=_duty(record, load))
    if wrong:
        raise Rejected(wrong)
    notes = _check_edges(record, windows, curve)
    joined = _joined_windows(windows, curve)
    quiet, quiet_parts = _quiet(record["phases"], curve)
    return _budgeted(curve, joined, quiet, quiet_parts)._replace(notes=notes)


def _duty(record: Mapping[str, Any], load: Sequence[Mapping[str, Any]]) -> float:
    """Share of the load's time in which an inference ran: 1 back to back, less for frames at a pace."""
    if record.get("fps") is None:
        return 1.0
    busy_s = sum(phase["count"] * (phase["latency_mean_s"] or 0.0) for phase in load)
    return min(1.0, busy_s / sum(phase["t1_s"] - phase["t0_s"] for phase in load))


def _check_clock(clock: Mapping[str, Any] | None, windows: Sequence[Mapping[str, Any]]) -> None:
    if not clock:
        return
    drift, doubt = float(clock.get("drift") or 0.0), float(clock.get("uncertainty_s") or 0.0)
    if abs(drift) > MAX_CLOCK_DRIFT:
        raise Rejected(f"clock step: the sensor's clock ran off by {1e6 * drift:.0f} ppm, no crystal does that")
    shortest = min(phase["t1_s"] - phase["t0_s"] for phase in windows)
    if doubt > MAX_CLOCK_SHARE * shortest:
        raise Rejected(f"the sensor's clock is known to ± {doubt:.3g} s only, windows last {shortest:.3g} s")


def _check_edges(record: Mapping[str, Any], windows: Sequence[Mapping[str, Any]], curve: PowerCurve) -> tuple[str, ...]:
    """Look for the load's edges in the trace of a source with a clock of its own; a warning where they are elsewhere.

    The clock part of the budget then holds what the trace says, instead of what the clocks said.
    """
    if record["trace"].get("clock") in DEVICE_CLOCKS:
        return ()
    lag = edge_lag(record["phases"], curve)
    if lag is None or lag.excess_s(curve) == 0.0:
        return ()
    seen = (
        f"the load's edges are {1e3 * lag.lag_s:+.3g} ± {1e3 * lag.uncertainty_s:.2g} ms off in the trace, the clocks "
        f"agree to ± {1e3 * curve.shift_s:.2g} ms"
    )
    if abs(lag.lag_s) > MAX_CLOCK_SHARE * min(phase["t1_s"] - phase["t0_s"] for phase in windows):
        raise Rejected(f"clock: {seen}: another meter, another clock, or a wrong averaging window")
    curve.shift_s = checked_shift_s(lag, curve)
    return (f"clock: {seen}; the averaging window or delay of the source is not as declared (rig doctor finds it)",)


def _joined_windows(windows: Sequence[Mapping[str, Any]], curve: PowerCurve) -> list[tuple[float, float, int]]:
    """(t0, t1, inferences) of stretches long enough for the sensor, neighbouring windows joined where needed."""
    needed_s = max(2.0 * curve.window_s, MIN_SAMPLES * curve.update_s)
    joined: list[tuple[float, float, int]] = []
    start, count = windows[0]["t0_s"], 0
    for phase in windows:
        if count == 0:
            start = phase["t0_s"]
        count += phase["count"]
        if phase["t1_s"] - start >= JOINING_SLACK * needed_s:
            joined.append((start, phase["t1_s"], count))
            count = 0
    if len(joined) < MIN_WINDOWS:
        total = windows[-1]["t1_s"] - windows[0]["t0_s"]
        raise Rejected(
            f"too few windows for this sensor: {len(joined)} of {needed_s:.3g} s or more in {total:.3g} s "
            f"(averages over {curve.window_s:.3g} s, a new value every {curve.update_s:.3g} s; "
            f"raise plan.window_s to {needed_s:.3g} s and plan.max_s to at least {MIN_WINDOWS * needed_s:.3g} s)"
        )
    return joined


class _Quiet(NamedTuple):
    value_w: float
    n: int


def _quiet(phases: Sequence[Mapping[str, Any]], curve: PowerCurve) -> tuple[_Quiet, dict[str, float]]:
    """P0 from the phases before and after, and its parts without the gain."""
    intervals, samples, shifts = [], [], []
    for phase in phases:
        if phase["name"] not in ("quiet_before", "quiet_after"):
            continue
        t0, t1 = phase["t0_s"], phase["t1_s"]
        edge = 0.5 * curve.window_s + curve.shift_s
        stretch = (t0 + edge + QUIET_SETTLING_SHARE * (t1 - t0), t1 - edge)
        inside = curve.samples(*stretch) if stretch[1] > stretch[0] else np.empty(0)
        if len(inside) < MIN_SAMPLES * curve.update_s / curve.period_s:
            needed = (2.0 * edge + MIN_SAMPLES * curve.update_s) / (1.0 - QUIET_SETTLING_SHARE)
            raise Rejected(
                f"quiet phase of {t1 - t0:.3g} s is too short for this sensor: plan.quiet_s at least {needed:.2g}"
            )
        intervals.append(_quiet_interval(curve, stretch, inside))
        samples.append(inside)
        shifts.append(curve.shifted_half_width([stretch]))
    if not intervals:
        raise Rejected("no quiet phase was measured, so quiet power is unknown (plan.quiet_s)")
    means = [interval.mean for interval in intervals]
    parts = {
        "sampling": quadrature(*(interval.half_width for interval in intervals)) / len(intervals),
        "quantization": curve.quantization_half_width(np.concatenate(samples)),
        "clock": max(shifts),
        "drift": 0.5 * (max(means) - min(means)),
    }
    return _Quiet(float(np.mean(means)), sum(interval.n for interval in intervals)), parts


def _quiet_interval(curve: PowerCurve, stretch: tuple[float, float], inside: np.ndarray) -> Interval:
    """Mean over a quiet stretch by batch means; a stretch too short for batches takes the samples' own scatter."""
    batches = min(
        QUIET_BATCHES, int((stretch[1] - stretch[0]) / max(2.0 * curve.window_s, MIN_SAMPLES * curve.update_s))
    )
    if batches >= MIN_WINDOWS:
        edges = np.linspace(*stretch, batches + 1)
        return batch_means([curve.mean_w(a, b) for a, b in pairwise(edges)])
    overlap = max(1.0, curve.window_s / curve.period_s, curve.update_s / curve.period_s)
    scatter = max(float(np.std(inside, ddof=1)), curve.noise_w)
    return Interval(curve.mean_w(*stretch), NORMAL_975 * scatter * math.sqrt(overlap / len(inside)), 1)


def _budgeted(
    curve: PowerCurve, joined: list[tuple[float, float, int]], quiet: _Quiet, quiet_parts: dict[str, float]
) -> _Power:
    """Power, energy and active energy with all their parts."""
    last = joined[-1]
    trimmed = last[1] - min(0.5 * curve.window_s + curve.shift_s, 0.4 * (last[1] - last[0]))
    stretches = [(t0, t1) for t0, t1, _ in joined[:-1]] + [(last[0], trimmed)]
    power_w = [curve.mean_w(*stretch) for stretch in stretches]
    seconds = [(t1 - t0) / count for t0, t1, count in joined]  # a inference: its latency, or one frame's period
    period_s = sum(t1 - t0 for t0, t1, _ in joined) / sum(count for _, _, count in joined)
    energies = [w * s for w, s in zip(power_w, seconds, strict=True)]
    power, energy = batch_means(power_w), batch_means(energies, looked=True)
    active = batch_means([(w - quiet.value_w) * s for w, s in zip(power_w, seconds, strict=True)], looked=True)
    slope = slope_over(power_w)
    drift_w = 0.5 * abs(slope.change) if slope.significance > 1.0 else 0.0
    inside = np.concatenate([curve.samples(*stretch) for stretch in stretches])
    common_w = {
        "quantization": curve.quantization_half_width(inside),
        "clock": curve.shifted_half_width(stretches),
        "drift": drift_w,
    }
    # The gain of an inference's energy is that of the mean power over it, so a calibration's offset counts as well.
    gain_w, active_gain_w = (
        curve.level_gain_half_width(energy.mean / period_s),
        curve.change_gain_half_width(active.mean / period_s),
    )
    scaled = {part: value * period_s for part, value in common_w.items()}
    idle_w = quadrature(quiet_parts["sampling"], quiet_parts["quantization"], quiet_parts["clock"])
    budget = {
        "power_w": {"sampling": power.half_width, "gain": curve.level_gain_half_width(power.mean), **common_w},
        "energy_j": {"sampling": energy.half_width, "gain": gain_w * period_s, **scaled},
        "energy_active_j": {
            "sampling": active.half_width,
            "gain": active_gain_w * period_s,
            **scaled,
            "idle": idle_w * period_s,
            "drift": quadrature(drift_w, quiet_parts["drift"]) * period_s,
        },
        "idle_power_w": {**quiet_parts, "gain": curve.level_gain_half_width(quiet.value_w)},
    }
    quantities = {
        "power_w": (power.mean, power.n),
        "energy_j": (energy.mean, energy.n),
        "energy_active_j": (active.mean, active.n),
        "idle_power_w": (quiet.value_w, quiet.n),
    }
    return _Power(joined, tuple(power_w), quantities, budget)


def _measurement(
    record: Mapping[str, Any],
    kind: str,
    reason: str | None,
    latency: tuple[Quantity, ...],
    windows: Sequence[Mapping[str, Any]] = (),
    power: _Power | None = None,
    budget: Mapping[str, Mapping[str, float]] | None = None,
) -> Measurement:
    temps = [phase["temp_c"] for phase in record["phases"] if phase.get("temp_c") is not None]
    flags = sorted({flag for phase in record["phases"] for flag in phase.get("throttled") or ()})
    quantities: dict[str, Quantity] = {}
    for name, (value, n) in (power.quantities if power else {}).items():
        quantities[name] = Quantity.around(value, quadrature(*(budget or {})[name].values()), n=n, kind=kind)
    shown = Windows(
        tuple(phase["t0_s"] for phase in windows),
        tuple(phase["t1_s"] for phase in windows),
        tuple(phase["latency_mean_s"] for phase in windows),
        tuple(w[0] for w in power.windows) if power else (),
        tuple(w[1] for w in power.windows) if power else (),
        power.power_w if power else (),
    )
    return Measurement(
        id=record["id"],
        subject=record["subject"],
        fps=record.get("fps"),
        kind=kind,
        verdict="rejected" if reason else "ok",
        reason=reason,
        latency_s=latency[0],
        latency_median_s=latency[1],
        latency_p99_s=latency[2],
        **quantities,
        budget=budget or {},
        windows=shown,
        count=sum(phase["count"] for phase in windows),
        missed=sum(phase.get("missed") or 0 for phase in windows),
        temp_before_c=temps[0] if temps else None,
        temp_after_c=temps[-1] if temps else None,
        throttled=tuple(flags),
    )
