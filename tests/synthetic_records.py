"""MeasureRecords made up from known truth: what a device would deliver, with every disturbance a test asks for."""

import numpy as np


def synthetic_record(
    identity="m-1",
    *,
    latency_s=0.010,
    quiet_w=2.9,
    active_j=0.030,
    fps=None,
    windows=12,
    window_s=1.0,
    quiet_s=2.0,
    warmup_s=0.5,
    seed=0,
    latency_sd=0.01,
    window_sd=0.002,
    rate_hz=100.0,
    sensor_window_s=None,
    step_w=0.00125,
    noise_w=0.010,
    gain=1.0,
    gain_uncertainty=0.003,
    offset_s=1.7,
    drift=2e-5,
    clock_uncertainty_s=0.0005,
    quiet_drift_w=0.0,
    latency_slope=0.0,
    trace=True,
    subject="net",
    kind="simulated",
    plan=None,
):
    """A record whose latency, quiet power and active energy are known; times start at 100 s on the runtime's clock."""
    rng = np.random.default_rng(seed)
    period_s = latency_s if fps is None else 1.0 / fps
    phases, segments = [], []
    now = 100.0

    def quiet(name, watts):
        nonlocal now
        phases.append(_phase(name, now, now + quiet_s, 0, [], None))
        segments.append((now, now + quiet_s, watts))
        now += quiet_s

    quiet("quiet_before", quiet_w - 0.5 * quiet_drift_w)
    for number in range(-1, windows):
        length = warmup_s if number < 0 else window_s
        factor = 1.0 + window_sd * rng.standard_normal() + latency_slope * number
        count = max(1, round(length / (period_s if fps else period_s * factor)))
        samples = latency_s * factor * (1.0 + latency_sd * rng.standard_normal(min(count, 2000)))
        seconds = count * period_s if fps else count * latency_s * factor
        name = "warmup" if number < 0 else "window"
        phases.append(_phase(name, now, now + seconds, count, samples.tolist(), float(samples.mean())))
        segments.append((now, now + seconds, quiet_w + active_j * count / seconds))
        now += seconds
    quiet("quiet_after", quiet_w + 0.5 * quiet_drift_w)
    record = {
        "format_version": 1,
        "id": identity,
        "subject": subject,
        "subject_sha256": "0" * 64,
        "fps": fps,
        "plan": {"fps": fps, "window_s": window_s, "quiet_s": quiet_s, **(plan or {})},
        "runtime": "virtual",
        "runtime_version": "1",
        "options": {},
        "kind": kind,
        "serial": "s1",
        "started_utc": "2026-01-01T00:00:00.000Z",
        "phases": phases,
        "trace": None,
        "trace_problem": None,
        "sensor": None,
        "clock": None,
        "inputs": {"distribution": "normal", "seed": 0},
        "environment": {},
        "kernels": None,
    }
    if trace:
        averaging = 1.0 / rate_hz if sensor_window_s is None else sensor_window_s
        record["sensor"] = {
            "name": "virtual",
            "rate_hz": rate_hz,
            "window_s": averaging,
            "step_w": step_w,
            "noise_w": noise_w,
            "gain_uncertainty": gain_uncertainty,
            "boundary": "board_input",
        }
        record["clock"] = {
            "offset_s": offset_s,
            "drift": drift,
            "reference_s": 100.0,
            "uncertainty_s": clock_uncertainty_s,
        }
        ends = np.arange(99.5, now + 0.5, 1.0 / rate_hz)
        watts = gain * _averaged(segments, ends, averaging, quiet_w) + noise_w * rng.standard_normal(len(ends))
        if step_w:
            watts = np.round(watts / step_w) * step_w
        record["trace"] = {
            "source": "virtual",
            "rail": "VDD_IN",
            "boundary": "board_input",
            "clock": "sensor",
            "times_s": (ends + offset_s + drift * (ends - 100.0)).tolist(),
            "power_w": watts.tolist(),
            "energy_counter_j": None,
        }
    return record


def _phase(name, t0_s, t1_s, count, samples, mean):
    return {
        "name": name,
        "t0_s": t0_s,
        "t1_s": t1_s,
        "count": count,
        "latency_s": samples,
        "latency_mean_s": mean,
        "missed": 0,
        "temp_c": 55.0,
        "throttled": [],
        "freq_hz": 1.5e9,
    }


def _averaged(segments, ends, averaging, outside_w):
    """Mean of the true power over the averaging window before each time stamp."""
    edges = [99.0] + [segment[0] for segment in segments] + [segments[-1][1], ends[-1] + 1.0]
    levels = [outside_w] + [segment[2] for segment in segments] + [outside_w]
    energy = np.concatenate([[0.0], np.cumsum(np.diff(edges) * levels)])
    starts = np.maximum(ends - averaging, 99.0)
    return (np.interp(ends, edges, energy) - np.interp(starts, edges, energy)) / (ends - starts)
