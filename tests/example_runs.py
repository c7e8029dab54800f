"""EXAMPLE run folders for the tests of the report: invented numbers of realistic shape, never a measurement.

Made by a seeded generator, so that golden tests may compare figure data exactly. ``optimize_result``,
``measure_result`` and ``calibrate_result`` give ``result.json``; ``write_run`` puts one into a store, with records.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from device_agents.records import KernelSpec
from rig.store.store import Store

EXAMPLE = "EXAMPLE numbers, invented"
SENSOR = {
    "name": "virtual INA226",
    "rate_hz": 500.0,
    "window_s": 0.002,
    "step_w": 0.00125,
    "noise_w": 0.03,
    "gain_uncertainty": 0.003,
    "boundary": "board_input",
}


def quantity(
    value: float | None,
    half: float | None = None,
    kind: str = "simulated",
    n: int | None = 10,
    basis: str | None = None,
) -> dict[str, Any]:
    """A quantity's JSON form."""
    lo, hi = (None, None) if value is None or half is None else (value - half, value + half)
    return {"value": value, "lo": lo, "hi": hi, "level": 0.95, "n": n, "kind": kind, "basis": basis}


def device(simulated: bool = True, powered: bool = True) -> dict[str, Any]:
    return {
        "name": "virtual-pi4" if simulated else "local",
        "serial": "EXAMPLE-0001",
        "runtime": "virtual" if simulated else "onnxruntime",
        "runtime_version": "1",
        "power_mode": "performance, 1800 MHz",
        "meter": "virtual INA226" if powered else None,
        "boundary": "board_input" if powered else None,
        "simulated": simulated,
    }


def resnet_layers(widths: tuple[int, ...] = (16, 32, 64), blocks: int = 3) -> list[tuple[str, KernelSpec, str]]:
    """(name, spec, group) of a small residual network for 32 × 32 images, in order."""
    layers: list[tuple[str, KernelSpec, str]] = []
    previous, size = 1, 32
    stem = KernelSpec("conv", 1, previous, size, size, widths[0], size, size, 3, 3, 1, 1, fused="relu")
    layers.append(("stem", stem, "stage1"))
    previous = widths[0]
    for stage, width in enumerate(widths, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            out = size // stride
            name = f"stage{stage}.block{block + 1}"
            first = KernelSpec("conv", 1, previous, size, size, width, out, out, 3, 3, stride, 1, fused="relu")
            second = KernelSpec("conv", 1, width, out, out, width, out, out, 3, 3, 1, 1, fused="add+relu")
            layers.append((f"{name}.conv1", first, f"{name}.inner"))
            layers.append((f"{name}.conv2", second, f"stage{stage}"))
            if stride == 2:
                short = KernelSpec("conv", 1, previous, size, size, width, out, out, 1, 1, 2, 0)
                layers.append((f"{name}.shortcut", short, f"stage{stage}"))
            previous, size = width, out
    pool = KernelSpec("global_avg_pool", 1, previous, size, size, previous, 1, 1)
    layers.append(("pool", pool, f"stage{len(widths)}"))
    layers.append(("fc", KernelSpec("fc", 1, previous, 1, 1, 10, 1, 1), "output"))
    return layers


def energy_of(spec: KernelSpec) -> float:
    """An invented cost in joules: launch, MACs (blocks of 8 channels), bytes."""
    padded = spec.macs * math.ceil(spec.out_channels / 8) * 8 / max(spec.out_channels, 1)
    return 25e-6 + 0.55e-9 * padded + 1.4e-9 * (spec.input_bytes + spec.output_bytes)


def kernels(
    layers: list[tuple[str, KernelSpec, str]], simulated: bool = True, powered: bool = True
) -> list[dict[str, Any]]:
    rows = []
    basis = "simulated" if simulated else "measured"
    for index, (name, spec, _) in enumerate(layers):
        joules = energy_of(spec)
        rows.append(
            {
                "name": name,
                "label": spec.label,
                "kind": spec.kind,
                "calls": 1,
                "macs": spec.macs,
                "latency_s": quantity(joules / 2.2, 0.05 * joules / 2.2, "predicted", None, basis),
                "energy_active_j": quantity(joules, 0.06 * joules, "predicted", None, basis) if powered else None,
                "extrapolated": index == 3,
                "source": "cost model",
            }
        )
    return rows


def network(
    name: str,
    layers: list[tuple[str, KernelSpec, str]],
    accuracy: float,
    simulated: bool,
    powered: bool,
    measurement: str,
) -> dict[str, Any]:
    kind = "simulated" if simulated else "measured"
    active = 1.04 * sum(energy_of(spec) for _, spec, _ in layers)
    latency = active / 2.2
    fps = 60.0
    power = 2.71 + fps * active
    return {
        "name": name,
        "accuracy_test": quantity(accuracy, 0.0045, "measured", 10000),
        "accuracy_val": accuracy + 0.002,
        "macs": sum(spec.macs for _, spec, _ in layers),
        "params": sum(spec.weight_bytes // 4 for _, spec, _ in layers),
        "size_bytes": sum(spec.weight_bytes for _, spec, _ in layers) + 4200,
        "power_w": quantity(power, 0.013, kind) if powered else None,
        "idle_power_w": quantity(2.71, 0.008, kind) if powered else None,
        "energy_j": quantity(active + 2.71 * latency, 0.0006, kind) if powered else None,
        "energy_active_j": quantity(active, 0.012 * active, kind) if powered else None,
        "latency_s": quantity(latency, 0.004 * latency, kind),
        "latency_p50_s": 0.99 * latency,
        "latency_p99_s": 1.13 * latency,
        "fps": fps,
        "missed_deadlines": 0,
        "frames": 1800,
        "measurement_id": measurement,
        "onnx": f"artifacts/{name}.onnx",
    }


def optimize_result(simulated: bool = True, powered: bool = True) -> dict[str, Any]:
    """An example ``rig.optimize/1``."""
    before, after = resnet_layers(), resnet_layers((12, 24, 40), blocks=3)
    dropped = {"stage3.block3.conv1", "stage3.block3.conv2"}
    kept = [entry for entry in after if entry[0] not in dropped]
    baseline = network("resnet20-example", before, 0.931, simulated, powered, "base-0")
    result = network("resnet20-example-small", kept, 0.927, simulated, powered, "final-0")
    kind = "simulated" if simulated else "measured"
    limit_name = "power" if powered else "latency"
    measured_key = "power_w" if powered else "latency_s"
    base_value, end_value = baseline[measured_key]["value"], result[measured_key]["value"]
    limit = end_value + 0.02 * (base_value - end_value) + (0.02 if powered else 0.02 * end_value)
    half = 0.013 if powered else 0.004 * end_value
    rounds = []
    for number, (width, excess, verdict) in enumerate(
        ((0.78, 0.12, "missed"), (0.73, 0.02, "undecided"), (0.70, 0.0, "met")), start=1
    ):
        value = end_value + excess * (base_value - end_value) + (0.02 if verdict == "undecided" and powered else 0.0)
        rounds.append(
            {
                "round": number,
                "width": width,
                "predicted": {limit_name: quantity(end_value * 0.995, 3 * half, "predicted", None, kind)},
                "measured": {limit_name: quantity(value, half, kind)},
                "accuracy_val": 0.934 - 0.002 * number,
                "verdict": verdict,
            }
        )
    controller = [
        {
            "step": step,
            "log_strength": -9.0 + 4.0 * (1 - math.exp(-step / 40)),
            "true_cost": 1.02 + 0.95 * math.exp(-step / 55),
            "relaxed_cost": 1.0 + 0.98 * math.exp(-step / 50),
            "target_cost": max(1.0, 1.97 - step / 200),
            "loss": 0.4,
            "alive_share": 0.68 + 0.32 * math.exp(-step / 60),
        }
        for step in range(0, 300, 5)
    ]
    widths = {name: spec.out_channels for name, spec, _ in after}
    layers = [
        {
            "name": name,
            "group": group,
            "before": spec.out_channels,
            "after": spec.out_channels if name == "fc" else widths[name],
            "prunable": name != "fc",
            "removed": name in dropped,
            "why": "output" if name == "fc" else None,
        }
        for name, spec, group in before
        if spec.kind != "global_avg_pool"
    ]
    return {
        "schema": "rig.optimize/1",
        "run_id": "o-0001",
        "kind": kind,
        "basis": kind,
        "device": device(simulated, powered),
        "command_line": f"rig optimize --device {device(simulated)['name']} --task fashion-mnist --model resnet20 "
        "--target-power 3.6W --fps 60",
        "task": "fashion-mnist",
        "model": "resnet20",
        "seed": 0,
        "budget": [
            {
                "quantity": limit_name,
                "limit": limit,
                "unit": "W" if powered else "s",
                "fps": 60 if powered else None,
                "relative": 0.5,
            }
        ],
        "verdict": "met",
        "baseline": baseline,
        "result": result,
        "budget_used": quantity(0.972, 0.011, kind),
        "rounds": rounds,
        "controller": controller,
        "stages": [{"name": "baseline", "seconds": 41.0, "accuracy_val": 0.933, "predicted": None}],
        "layers": layers,
        "kernels": {"before": kernels(before, simulated, powered), "after": kernels(kept, simulated, powered)},
        "validation": validation(simulated, powered),
        "measurements": ["base-0", "final-0"],
        "warnings": [],
        "versions": {"rig": "0.1.0", "calibration": "c-0001", "model_sha256": "0" * 16 + "EXAMPLE"},
        "timings": {"shrink_s": 61.0, "fine_tune_s": 80.0},
    }


def validation(simulated: bool = True, powered: bool = True) -> list[dict[str, Any]]:
    """Held-out kernels of five kinds and six networks with invented errors."""
    rng = np.random.default_rng(7)
    kind = "simulated" if simulated else "measured"
    rows = []
    for index in range(96):
        name = ("conv3x3", "conv1x1", "depthwise3x3", "fc", "add")[index % 5]
        what, scale = ("network", 8e-3) if index >= 90 else ("kernel", 2e-4)
        truth = scale * 10 ** rng.uniform(-1, 1.0)
        for field in ("latency_s", "energy_active_j") if powered else ("latency_s",):
            unit = truth / 2.2 if field == "latency_s" else truth
            guess = unit * math.exp(rng.normal(0.006, 0.03))
            rows.append(
                {
                    "name": f"example-net-{index - 89}"
                    if what == "network"
                    else f"{name} {16 + index}->{24 + index} @28",
                    "what": what,
                    "quantity": field,
                    "measured": quantity(unit, 0.01 * unit, kind),
                    "predicted": quantity(guess, 0.065 * guess, "predicted", None, kind),
                    "extrapolated": index % 23 == 5,
                }
            )
    return rows


def measure_result(simulated: bool = True, powered: bool = True) -> dict[str, Any]:
    """An example ``rig.measure/1``."""
    full = optimize_result(simulated, powered)
    shared = ("kind", "basis", "device", "versions")
    return {
        "schema": "rig.measure/1",
        "run_id": "m-0001",
        "command_line": "rig measure example.onnx --fps 60",
        **{k: full[k] for k in shared},
        "network": full["baseline"],
        "kernels": {"before": [], "after": full["kernels"]["before"]},
        "measurements": ["base-0"],
        "warnings": [],
    }


def calibrate_result(simulated: bool = True, powered: bool = True) -> dict[str, Any]:
    """An example ``rig.calibrate/1``."""
    full = optimize_result(simulated, powered)
    shared = ("kind", "basis", "device", "versions", "validation")
    measured = []
    for row in full["kernels"]["before"]:
        fields = {
            f: row[f] and {**row[f], "kind": full["kind"], "basis": None} for f in ("latency_s", "energy_active_j")
        }
        measured.append({**row, **fields, "extrapolated": False, "source": "chain"})
    return {
        "schema": "rig.calibrate/1",
        "run_id": "c-0001",
        "command_line": "rig calibrate --device virtual-pi4",
        **{k: full[k] for k in shared},
        "kernels": {"before": measured, "after": []},
        "measurements": ["base-0"],
        "warnings": [],
        "timings": {"collect_s": 200.0},
    }


def record(
    identity: str,
    subject: str,
    busy_w: float,
    latency_s: float,
    simulated: bool = True,
    powered: bool = True,
    throttled: bool = False,
) -> dict[str, Any]:
    """An example MeasureRecord: quiet, warm-up, ten windows, quiet; a sensor clock 38 ms ahead."""
    rng = np.random.default_rng(11)
    phases, now = [], 100.0
    plan = [("quiet_before", 2.0), ("warmup", 3.0), *[("window", 1.0)] * 10, ("quiet_after", 2.0)]
    for number, (name, seconds) in enumerate(plan):
        busy = not name.startswith("quiet")
        count = int(seconds * 60) if busy else 0
        samples = (latency_s * (1 + 0.03 * rng.standard_normal(count))).tolist()
        phases.append(
            {
                "name": name,
                "t0_s": now,
                "t1_s": now + seconds,
                "count": count,
                "latency_s": samples,
                "latency_mean_s": float(np.mean(samples)) if samples else None,
                "missed": 0,
                "temp_c": 58.0 + 4.0 * (1 - math.exp(-number / 4)),
                "throttled": ["soft-temperature"] if throttled and number == 8 else [],
                "freq_hz": 1.5e9 if throttled and number == 8 else 1.8e9,
            }
        )
        now += seconds
    trace = None
    if powered:
        times = np.arange(99.9, now + 0.1, 0.002)
        busy = np.zeros_like(times, dtype=bool)
        for phase in phases:
            if phase["count"]:
                busy |= (times >= phase["t0_s"]) & (times < phase["t1_s"])
        cycle = ((times * 60) % 1.0) < 60 * latency_s
        power = np.where(
            busy & cycle, 2.71 + (busy_w - 2.71) / min(1.0, 60 * latency_s), 2.71
        ) + 0.03 * rng.standard_normal(len(times))
        trace = {
            "source": "virtual INA226",
            "rail": "5V",
            "boundary": "board_input",
            "clock": "sensor",
            "times_s": (times + 0.038).tolist(),
            "power_w": power.tolist(),
            "energy_counter_j": None,
        }
    return {
        "format_version": 1,
        "id": identity,
        "subject": subject,
        "subject_sha256": "EXAMPLE",
        "fps": 60.0,
        "plan": {},
        "runtime": "virtual",
        "runtime_version": "1",
        "options": {},
        "kind": "simulated" if simulated else "measured",
        "serial": "EXAMPLE-0001",
        "started_utc": "2026-01-02T03:04:05.000Z",
        "phases": phases,
        "trace": trace,
        "trace_problem": None,
        "sensor": SENSOR if powered else None,
        "clock": {"offset_s": 0.038, "drift": 0.0, "reference_s": 100.0, "uncertainty_s": 0.0006},
        "inputs": {},
        "environment": {},
        "kernels": None,
    }


def write_run(root: Path, result: dict[str, Any], simulated: bool = True, powered: bool = True) -> Path:
    """Put an example run into a store under ``root``; returns the run folder."""
    command = result["schema"].split(".")[1].split("/")[0]
    facts = {
        "started_utc": "2026-01-02T03:04:05.000Z",
        "environment": {"rig": "0.1.0", "python": "3.11.0", "libraries": {"numpy": "2.0.0"}},
    }
    run = Store(root).new_run(command, result["device"]["name"], argv=["rig", command])
    run.update(**facts, note=EXAMPLE)
    roles = [result.get(role) for role in ("baseline", "result", "network")]
    for network_json in [n for n in roles if n is not None] or [None]:
        identity = network_json["measurement_id"] if network_json else "base-0"
        power = network_json["power_w"]["value"] if network_json and network_json["power_w"] else 4.5
        latency = network_json["latency_s"]["value"] if network_json else 0.01
        run.add_measurement(
            record(
                identity, network_json["name"] if network_json else "kernel chain", power, latency, simulated, powered
            )
        )
    run.write_json("result.json", {**result, "run_id": run.id})
    return run.path
