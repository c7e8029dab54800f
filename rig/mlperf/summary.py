"""A power run as the store keeps it: a record with its trace, and the network's quantities as of rig measure."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

import numpy as np

from rig.mlperf.power_run import FEWEST_QUIET, SETTLING_S, PowerRun
from rig.quality.stats import batch_means, quantile
from rig.units import Quantity

STRETCHES = 20  # of the run, whose means give the interval of its power
KIND = "imported"


def device_name(run: PowerRun) -> str:
    """What the device is called where the user does not say."""
    return "mlperf-" + (re.sub(r"[^a-z0-9]+", "-", run.sut.lower()).strip("-") or "device")


def power(run: PowerRun) -> Quantity:
    """Mean of the meter while loadgen ran; the interval is the scatter of its stretches, without the meter's error."""
    watts = np.asarray(run.running_w)
    batches = min(STRETCHES, len(watts) // 5)
    scatter = batch_means([float(part.mean()) for part in np.array_split(watts, batches)])
    return Quantity.around(float(watts.mean()), scatter.half_width, n=scatter.n, kind=KIND)


def quiet_power(run: PowerRun) -> Quantity | None:
    """Median of the meter after the run; None where its log ends too early."""
    watts = run.quiet_w
    if len(watts) < FEWEST_QUIET:
        return None
    value, lo, hi = quantile(np.asarray(watts), 0.5, float(len(watts)))
    return Quantity(value, lo, hi, n=len(watts), kind=KIND)


def network_row(run: PowerRun, measurement_id: str) -> dict[str, Any]:
    """The network in the form of ``rig measure``; what the logs do not tell is null."""
    mean, quiet = power(run), quiet_power(run)
    active = None
    if quiet is not None and mean.value is not None and quiet.value is not None:
        half = math.hypot(mean.half_width or math.inf, quiet.half_width or math.inf)
        active = Quantity.around(mean.value - quiet.value, half, n=mean.n, kind=KIND).scaled(run.period_s)
    return {
        "name": run.name,
        "power_w": mean.to_json(),
        "idle_power_w": quiet.to_json() if quiet else None,
        "energy_j": mean.scaled(run.period_s).to_json(),
        "energy_active_j": active.to_json() if active else None,
        "latency_s": Quantity(run.latency_mean_s, n=run.count, kind=KIND).to_json(),
        "latency_p50_s": run.latency_quantiles_s.get(0.5),
        "latency_p99_s": run.latency_quantiles_s.get(0.99),
        "fps": None,
        "missed_deadlines": None,
        "frames": run.count,
        "measurement_id": measurement_id,
    }


def caveats(run: PowerRun) -> list[str]:
    """What a reader of the figures must know."""
    found = [
        "power: the interval is the scatter within the run; the meter's own uncertainty is not in the logs",
        "latency: loadgen logs the mean and percentiles of the whole run, so its mean has no interval",
    ]
    if quiet_power(run) is None:
        found.append(f"quiet power: the meter's log ends before {SETTLING_S:g} s after the run")
    if not run.valid:
        found.append("loadgen did not call this run VALID")
    if run.clocks.uncertainty_s > 0.1:
        found.append(f"clocks: {run.clocks.how}")
    return found


def record(run: PowerRun, identity: str, device: str) -> dict[str, Any]:
    """A MeasureRecord: the run as one window, the quiet time after it, the whole trace on the meter's clock."""
    last_s = run.readings[-1][0] - run.clocks.offset_s
    phases = [_phase(run, "window", 0.0, run.duration_s, run.count)]
    if last_s > run.duration_s + SETTLING_S:
        phases.append(_phase(run, "quiet_after", run.duration_s + SETTLING_S, last_s, 0))
    meter = (run.meter or "").split(",")[0] or "meter"
    gaps = np.diff([t for t, _ in run.readings])
    period_s = float(np.median(gaps)) if len(gaps) else 1.0
    quiet = quiet_power(run)
    started = datetime.datetime.fromtimestamp(run.started_utc_s, datetime.timezone.utc)
    return {
        "format_version": 1,
        "id": identity,
        "subject": run.name,
        "subject_sha256": None,
        "fps": None,
        "plan": {},
        "runtime": run.sut,
        "runtime_version": run.loadgen_version,
        "options": {},
        "kind": KIND,
        "serial": device,
        "started_utc": started.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "phases": phases,
        "trace": {
            "source": f"ptd-{meter}",
            "rail": "input",
            "boundary": "wall",
            "clock": "server",
            "times_s": [t for t, _ in run.readings],
            "power_w": [w for _, w in run.readings],
            "energy_counter_j": None,
        },
        "trace_problem": None,
        "quiet_power_w": quiet.value if quiet else None,
        "sensor": {
            "name": f"ptd-{meter}",
            "rate_hz": 1.0 / period_s,
            "window_s": period_s,
            "step_w": None,
            "noise_w": None,
            "gain_uncertainty": None,
            "boundary": "wall",
            "identity": run.meter,
        },
        "clock": {
            "offset_s": run.clocks.offset_s,
            "drift": 0.0,
            "reference_s": 0.0,
            "uncertainty_s": run.clocks.uncertainty_s,
        },
        "inputs": None,
        "environment": {},
        "kernels": None,
    }


def _phase(run: PowerRun, name: str, t0_s: float, t1_s: float, count: int) -> dict[str, Any]:
    return {
        "name": name,
        "t0_s": t0_s,
        "t1_s": t1_s,
        "count": count,
        "latency_s": [],
        "latency_mean_s": run.latency_mean_s if count else None,
        "missed": 0,
        "temp_c": None,
        "throttled": [],
        "freq_hz": None,
    }
