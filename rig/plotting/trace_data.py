"""Section 2, the numbers: what the meter and the clockwork of one measurement show, reduced for drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rig.plotting.numbers import Interval
from rig.sensors.calibration import SensorCalibration

MEAN_BIN_S = 0.1
MAX_BINS = 1200
T95 = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
    10: 2.228,
    12: 2.179,
    15: 2.131,
    20: 2.086,
    30: 2.042,
    60: 2.000,
}


class Span(NamedTuple):
    """Part of a measurement: ``used`` (a measured window), ``idle`` (quiet), or excluded with its reason."""

    t0_s: float
    t1_s: float
    used: bool
    idle: bool
    reason: str


class StatePoint(NamedTuple):
    """Temperature and clock of one phase, at its end; None where the device does not tell."""

    time_s: float
    temp_c: float | None
    freq_mhz: float | None


class TraceData(NamedTuple):
    """One measurement for drawing. ``level``: power in W from the meter, or latency in ms on a time-only device.

    ``envelope``: (time, low, high) per bin; ``mean``: (time, mean) per bin of ``bin_s``; times from the first phase.
    ``windows``: mean of each measured window in order; ``window_mean``: their mean with its 95 % interval.
    """

    measurement_id: str
    subject: str
    simulated: bool
    quantity: str
    unit: str
    source: str
    bin_s: float
    envelope: tuple[tuple[float, float, float], ...]
    mean: tuple[tuple[float, float], ...]
    idle_level: float | None
    spans: tuple[Span, ...]
    states: tuple[StatePoint, ...]
    windows: tuple[float, ...]
    window_mean: Interval
    note: str
    rejected: str | None


def trace_data(
    record: dict[str, Any], trace: dict[str, Any] | None, rejected: str | None = None, idle_w: float | None = None
) -> TraceData:
    """Reduce a MeasureRecord and its trace (PowerTrace JSON, None on a time-only device).

    ``rejected``: why the quality check refused the measurement, if it did; every window is then drawn as excluded.
    ``idle_w``: quiet power as assessed; by default the mean of the quiet phases.
    """
    phases = record["phases"]
    start = phases[0]["t0_s"]
    spans = tuple(_span(phase, start, rejected) for phase in phases)
    states = tuple(_state(phase, start) for phase in phases)
    fields: dict[str, Any] = {
        "measurement_id": record["id"],
        "subject": record["subject"],
        "simulated": record["kind"] == "simulated",
        "spans": spans,
        "states": states,
        "rejected": rejected,
    }
    if trace is None:
        return _latency_trace(record, start, fields)
    times = _runtime_clock(np.asarray(trace["times_s"], dtype=float), record.get("clock")) - start
    sensor = record.get("sensor") or {}
    power = np.asarray(trace["power_w"], dtype=float)
    if sensor.get("calibration"):  # the stored trace is what the source said; the figures are corrected
        power = SensorCalibration.from_json(sensor["calibration"]["fit"]).corrected_w(power)
    keep = (times >= spans[0].t0_s) & (times <= spans[-1].t1_s)
    times, power = times[keep], power[keep]
    bin_s = _bin_width(spans[-1].t1_s)
    windows = tuple(_mean(times, power, s.t0_s, s.t1_s) for s in spans if s.used)
    idle = [_mean(times, power, s.t0_s, s.t1_s) for s in spans if s.idle]
    return TraceData(
        quantity="power",
        unit="W",
        source=f"{sensor.get('name', trace['source'])}, {trace['boundary'].replace('_', ' ')}",
        bin_s=bin_s,
        envelope=_envelope(times, power, bin_s),
        mean=_means(times, power, bin_s),
        idle_level=idle_w if idle_w is not None else math.fsum(idle) / len(idle) if idle else None,
        windows=windows,
        window_mean=mean_interval(windows),
        note="",
        **fields,
    )


def _latency_trace(record: dict[str, Any], start: float, fields: dict[str, Any]) -> TraceData:
    busy = [p for p in record["phases"] if p.get("count") and p.get("latency_mean_s") is not None]
    middle = [0.5 * (p["t0_s"] + p["t1_s"]) - start for p in busy]
    envelope = tuple(
        (t, 1e3 * min(p["latency_s"]), 1e3 * max(p["latency_s"]))
        for t, p in zip(middle, busy, strict=True)
        if p["latency_s"]
    )
    used = [s.used for s in fields["spans"]]
    windows = tuple(
        1e3 * p["latency_mean_s"]
        for p, u in zip(record["phases"], used, strict=True)
        if u and p.get("latency_mean_s") is not None
    )
    why = record.get("trace_problem") or "this device has no power meter"
    return TraceData(
        quantity="latency",
        unit="ms",
        source=f"{record['runtime']} {record.get('runtime_version') or ''}".strip(),
        bin_s=math.nan,
        envelope=envelope,
        mean=tuple((t, 1e3 * p["latency_mean_s"]) for t, p in zip(middle, busy, strict=True)),
        idle_level=None,
        windows=windows,
        window_mean=mean_interval(windows),
        note=f"No power: {why}. Latency is shown in its place.",
        **fields,
    )


def _span(phase: dict[str, Any], start: float, rejected: str | None) -> Span:
    t0, t1 = phase["t0_s"] - start, phase["t1_s"] - start
    name = phase["name"]
    if name.startswith("quiet"):
        return Span(t0, t1, False, True, "quiet")
    if name != "window":
        return Span(t0, t1, False, False, "warm-up" if name == "warmup" else name)
    if phase.get("throttled"):
        return Span(t0, t1, False, False, "throttled: " + ", ".join(phase["throttled"]))
    return Span(t0, t1, rejected is None, False, "" if rejected is None else f"rejected: {rejected.split(':')[0]}")


def _state(phase: dict[str, Any], start: float) -> StatePoint:
    freq = phase.get("freq_hz")
    return StatePoint(phase["t1_s"] - start, phase.get("temp_c"), None if freq is None else freq / 1e6)


def _runtime_clock(times_s: np.ndarray, clock: dict[str, Any] | None) -> np.ndarray:
    """Sensor time stamps on the runtime's clock: the inverse of ``t + offset + drift (t − reference)``."""
    if clock is None:
        return times_s
    drift, reference = clock.get("drift") or 0.0, clock.get("reference_s") or 0.0
    return reference + (times_s - clock["offset_s"] - reference) / (1.0 + drift)


def _bin_width(duration_s: float) -> float:
    """0.1 s, or the smallest multiple of it that keeps a long trace drawable."""
    return MEAN_BIN_S * max(1, math.ceil(duration_s / MEAN_BIN_S / MAX_BINS))


def _edges(times: np.ndarray, bin_s: float) -> tuple[np.ndarray, np.ndarray]:
    """(bin number of each sample, bins that hold any)."""
    number = np.floor(times / bin_s + 1e-9).astype(int)
    return number, np.unique(number)


def _envelope(times: np.ndarray, power: np.ndarray, bin_s: float) -> tuple[tuple[float, float, float], ...]:
    number, bins = _edges(times, bin_s)
    starts = np.searchsorted(number, bins)
    if not len(bins):
        return ()
    low, high = np.minimum.reduceat(power, starts), np.maximum.reduceat(power, starts)
    centre = (bins + 0.5) * bin_s
    return tuple(zip(centre.tolist(), low.tolist(), high.tolist(), strict=True))


def _means(times: np.ndarray, power: np.ndarray, bin_s: float) -> tuple[tuple[float, float], ...]:
    number, bins = _edges(times, bin_s)
    if not len(bins):
        return ()
    starts = np.searchsorted(number, bins)
    counts = np.diff(np.append(starts, len(number)))
    mean = np.add.reduceat(power, starts) / counts
    return tuple(zip(((bins + 0.5) * bin_s).tolist(), mean.tolist(), strict=True))


def _mean(times: np.ndarray, power: np.ndarray, t0: float, t1: float) -> float:
    """Time-weighted mean (trapezoid) over [t0, t1] cut to the samples there are; nan without samples."""
    t0, t1 = max(t0, float(times[0])) if len(times) else t0, min(t1, float(times[-1])) if len(times) else t1
    if len(times) < 2 or t1 <= t0:
        return math.nan
    inside = (times > t0) & (times < t1)
    grid = np.concatenate(([t0], times[inside], [t1]))
    return float(np.trapezoid(np.interp(grid, times, power), grid) / (t1 - t0))


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean with its 95 % Student interval over independent windows; no interval under two windows."""
    values = [v for v in values if math.isfinite(v)]
    if not values:
        return Interval(math.nan)
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Interval(mean)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    half = _student(len(values) - 1) * spread
    return Interval(mean, mean - half, mean + half)


def _student(freedom: int) -> float:
    """Two-sided 95 % point of Student's t; between table rows the smaller freedom (wider) is taken."""
    if freedom > max(T95):
        return 1.98 if freedom < 120 else 1.96
    return T95[max(f for f in T95 if f <= freedom)]
