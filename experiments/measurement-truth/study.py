"""Do stated intervals hold the truth? Kernels on virtual boards of known physics, measured until the rule stops.

    python experiments/measurement-truth/study.py [--boards 100] [--kernels 4] [--out FILE]
    python experiments/measurement-truth/study.py --paced [--boards 100] [--out FILE]

Production path: the agent's measurement with its runtime and sampler processes, ``rig.quality.verdict.assess``,
``difference_chain``, ``rig calibrate-sensor``; see boards.py for what each board draws and what the truth is.
Everything is SIMULATED.

Each board's meter is first calibrated by that command against a reference of 0.1 % that watches the same load at the
same time, and records are read by what it stored. Then every kernel is measured as two chains; ``rel_ci`` is 2, 1 or
0.5 %, so that the rule stops early, in time, or at max_s.

Counted, for each interval stated: whether it holds the truth. *As read*: the gain of the data sheet (2 %).
*Calibrated*: corrected, with the calibration's gain part. *Without gain*: the gain part left out, the truth as this
very meter (its gain is known here) would read it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from boards import (
    Bench,
    Board,
    bench,
    drawn_board,
    drawn_kernel,
    true_mean_latency_s,
    true_quiet_phase_w,
    true_window_quiet_w,
)

from device_agents.records import KernelSpec, MeasurePlan
from device_agents.virtual_board.physics import BoardModel
from device_agents.virtual_board.sensor import VirtualSensor
from rig.commands import calibrate_sensor
from rig.commands.options import CalibrateSensorOptions
from rig.measurement import Measurement
from rig.quality.stats import NORMAL_975, quadrature
from rig.quality.verdict import assess, difference_chain, paced_line
from rig.sensors.calibration import SensorCalibration
from rig.sensors.store import with_sensor_knowledge

DEVICE = "virtual-pi4"
CHAIN_S = 0.012  # of the longer chain, about
PACED_SHARES = (0.15, 0.3, 0.45, 0.6, 0.8)
SINGLE_CALIBRATED = tuple(
    f"calibrated/{name}" for name in ("energy_j/without gain", "energy_active_j/without gain", "latency_s")
)
SINGLE = ("energy_j", "energy_active_j", "power_w", "idle_power_w", "latency_s")

Row = dict[str, Any]


def true_gain(board: Board) -> float:
    """The gain that the board's meter drew (only to judge intervals that leave the gain out)."""
    return VirtualSensor("", board.meter, board.seed)._gain


def calibrated(board: Board, folder: Path) -> SensorCalibration:
    """Gain and offset of the board's meter by ``rig calibrate-sensor`` against the simulated reference of 0.1 %."""
    devices = folder / "config" / "devices"
    devices.mkdir(parents=True, exist_ok=True)
    options = ", ".join(f"{key} = {toml(value)}" for key, value in board.options.items())
    (devices / f"{DEVICE}.toml").write_text(f"[runtime]\noptions = {{ {options} }}\n", encoding="utf-8")
    with contextlib.redirect_stderr(io.StringIO()):
        found = calibrate_sensor.run(CalibrateSensorOptions(DEVICE, "virtual", "virtual_reference"))
    return SensorCalibration.from_json(found["calibration"]["fit"])


def toml(value: Any) -> str:
    """A plain value as TOML writes it."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def held(value: float, half: float, truth: float) -> Row:
    """One interval against the truth; relative to the truth."""
    return {"error": (value - truth) / truth, "half": half / truth, "held": abs(value - truth) <= half}


def single_rows(
    found: Measurement, truth: Mapping[str, float], period_s: float, read_w: Callable[[float], float]
) -> dict[str, Row]:
    """Each quantity of one measurement with its gain and without; ``read_w``: what this meter makes of true watts."""
    seen = {name: read_w(truth[name]) for name in ("power_w", "idle_power_w")}
    seen["energy_j"] = read_w(truth["energy_j"] / period_s) * period_s
    seen["energy_active_j"] = (read_w(truth["energy_active_j"] / period_s) - read_w(0.0)) * period_s
    rows = {}
    for name in SINGLE:
        quantity = getattr(found, name)
        rows[name] = held(quantity.value, found.half_width(name), truth[name])
        if name != "latency_s":
            half = found.half_width(name, without=("gain",))
            rows[name + "/without gain"] = held(quantity.value, half, seen[name])
    return rows


def truth_of(model: BoardModel, kernels: Sequence[KernelSpec], record: Mapping[str, Any]) -> dict[str, float]:
    """What a perfect meter would have found over endlessly many inferences at these temperatures."""
    latency_s, active_j = true_mean_latency_s(model, kernels), model.inference_cost(kernels)[1]
    quiet_w = true_window_quiet_w(model, record)
    quiet = [phase for phase in record["phases"] if phase["name"].startswith("quiet")]
    period_s = latency_s if record["fps"] is None else 1.0 / record["fps"]
    return {
        "latency_s": latency_s,
        "energy_active_j": active_j,
        "energy_j": active_j + quiet_w * period_s,
        "power_w": quiet_w + active_j / period_s,
        "idle_power_w": float(np.mean([true_quiet_phase_w(model, phase) for phase in quiet])),
    }


def chain_lengths(model: BoardModel, kernel: KernelSpec) -> tuple[int, int]:
    """(k1, k2): the longer chain takes about ``CHAIN_S``."""
    long = max(4, min(32, round(CHAIN_S / model.kernel_cost(kernel)[0])))
    return max(1, long // 4), long


def kernel_rows(board: Board, at: Bench, count: int) -> dict[str, Any]:
    """Calibrate a board's meter and measure ``count`` kernels; all intervals against the truth."""
    rng, model, gain = random.Random(board.seed), board.model(), true_gain(board)
    fitted = calibrated(board, at.folder)
    readers = {"as read": lambda watts: gain * watts, "calibrated": lambda watts: fitted.corrected_w(gain * watts)}
    rows: dict[str, list[Row]] = defaultdict(list)
    stops, rejected = Counter(), Counter()
    for _ in range(count):
        kernel = drawn_kernel(rng)
        plan = MeasurePlan(rel_ci=rng.choice((0.02, 0.01, 0.005)))
        lengths = chain_lengths(model, kernel)
        pair: dict[str, list[Measurement]] = {"as read": [], "calibrated": []}
        for k in lengths:
            record = at.measure(board, [kernel] * k, plan)
            stops[record["stopped"]] += 1
            for how, one in (("as read", record), ("calibrated", with_sensor_knowledge(record, DEVICE))):
                found = assess(one)
                pair[how].append(found)
                if not found.ok:
                    rejected[f"{how}: {str(found.reason).split(':')[0]}"] += 1
                    continue
                truth = truth_of(model, [kernel] * k, record)
                for name, row in single_rows(found, truth, truth["latency_s"], readers[how]).items():
                    rows[f"{how}/{name}"].append({**row, "n": getattr(found, name.split("/")[0]).n})
        for how, (short, long) in pair.items():
            if short.ok and long.ok:
                share = gain if how == "as read" else gain * fitted.gain
                gain_half = NORMAL_975 * (0.02 if how == "as read" else fitted.gain_uncertainty)
                for name, row in chain_rows(short, long, lengths, model.kernel_cost(kernel), share, gain_half).items():
                    rows[f"{how}/kernel {name}"].append(row)
    return {
        "meter": board.meter,
        "gain": gain,
        "residual_gain": gain * fitted.gain,
        "gain_uncertainty": fitted.gain_uncertainty,
        "rows": rows,
        "stops": stops,
        "rejected": rejected,
    }


def chain_rows(
    short: Measurement,
    long: Measurement,
    lengths: tuple[int, int],
    truth: tuple[float, float],
    gain: float,
    gain_half: float,
) -> dict[str, Row]:
    """A kernel's own energy and latency from two chains, its interval with the gain and without."""
    chain = difference_chain(short, long, *lengths)
    energy_j, half = float(chain.energy_active_j or 0.0), NORMAL_975 * float(chain.energy_se_j or 0.0)
    return {
        "energy": held(energy_j, quadrature(half, gain_half * energy_j), truth[1]),
        "energy/without gain": held(energy_j, half, gain * truth[1]),
        "latency": held(chain.latency_s, NORMAL_975 * chain.latency_se_s, truth[0]),
    }


def paced_rows(board: Board, at: Bench) -> list[Row]:
    """Four rates in random order: the line through three of them against the fourth, and one rate too fast."""
    rng, model = random.Random(7919 + board.seed), board.model()
    kernels = [drawn_kernel(rng)] * 6
    latency_s = true_mean_latency_s(model, kernels)
    kernels = kernels * max(1, round(0.006 / latency_s))
    latency_s = true_mean_latency_s(model, kernels)
    shares = rng.sample(PACED_SHARES, 4)
    records = [at.measure(board, kernels, MeasurePlan(fps=share / latency_s, max_s=30.0)) for share in shares]
    found = [assess(record) for record in records]
    too_fast = at.measure(board, kernels, MeasurePlan(fps=1.25 / latency_s, max_s=10.0))
    windows = [phase for phase in too_fast["phases"] if phase["name"] == "window"]
    frames = sum(w["count"] for w in windows)
    overrun = {"missed": sum(w["missed"] for w in windows), "count": frames}
    if not all(m.ok for m in found):
        return [{"rejected": [m.reason for m in found if not m.ok], "overrun": overrun}]
    rows = []
    for i in range(4):
        line = paced_line([m for j, m in enumerate(found) if j != i])
        fps, seen = shares[i] / latency_s, found[i]
        predicted, same = line.power_at(fps), line.power_at(fps, with_gain=False)
        truth_w = truth_of(model, kernels, records[i])["power_w"]
        both = quadrature(float(same.half_width or 0.0), seen.half_width("power_w", without=("gain",)))
        measured_w = float(seen.power_w.value)
        rows.append(
            {
                "share": shares[i],
                "outside": shares[i] in (min(shares), max(shares)),
                "truth": held(float(predicted.value), float(predicted.half_width), truth_w),
                "measured": held(float(predicted.value), both, measured_w),
                "linear": line.linear,
                "missed": line.missed,
                "overrun": overrun,
            }
        )
    return rows


def summary(rows: Sequence[Row]) -> Row:
    """Share held with its own 95 % interval, errors and widths."""
    n, hits = len(rows), sum(row["held"] for row in rows)
    share = hits / n
    doubt = NORMAL_975 * math.sqrt(max(share * (1.0 - share), 0.25 / n) / n)
    errors = np.asarray([row["error"] for row in rows])
    return {
        "n": n,
        "held": share,
        "held_half_width": doubt,
        "bias": float(errors.mean()),
        "bias_median": float(np.median(errors)),
        "error_rms": float(np.sqrt((errors**2).mean())),
        "half_median": float(np.median([row["half"] for row in rows])),
    }


def by_windows(rows: Sequence[Row]) -> dict[str, Row]:
    """How much is held by how many windows there were: the rule stops early where the scatter looks small."""
    found = {}
    for low, high in ((1, 9), (10, 10), (11, 20), (21, 1000)):
        chosen = [row for row in rows if row["n"] is not None and low <= row["n"] <= high]
        if chosen:
            found[f"{low} to {high}"] = {key: summary(chosen)[key] for key in ("n", "held", "held_half_width")}
    return found


def studied(boards: int, kernels: int, first: int = 0) -> Row:
    """All boards: coverage and bias of every interval."""
    rows: dict[str, list[Row]] = defaultdict(list)
    stops, rejected, residual, drawn = Counter(), Counter(), [], []
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, bench(Path(folder)) as at:
        os.environ.update(RIG_HOME=f"{folder}/home", RIG_CONFIG=f"{folder}/config")
        for seed in range(first, first + boards):
            one = kernel_rows(drawn_board(seed), at, kernels)
            for name, found in one["rows"].items():
                rows[name] += [{**row, "board": seed} for row in found]
            stops.update(one["stops"])
            rejected.update(one["rejected"])
            residual.append(one["residual_gain"] - 1.0)
            drawn.append({key: one[key] for key in ("meter", "gain", "residual_gain", "gain_uncertainty")})
            if seed % 10 == 9:
                print(f"{seed + 1 - first} boards, {time.monotonic() - started_s:.0f} s", flush=True)
    return {
        "boards": boards,
        "kernels": kernels,
        "stopped": dict(stops),
        "rejected": dict(rejected),
        "calibration": {"bias": float(np.mean(residual)), "rms": float(np.sqrt(np.mean(np.square(residual))))},
        "intervals": {name: summary(found) for name, found in sorted(rows.items())},
        "by_windows": {name: by_windows(found) for name, found in sorted(rows.items()) if name in SINGLE_CALIBRATED},
        "drawn": drawn,
        "rows": {name: found for name, found in sorted(rows.items()) if name.startswith("calibrated/")},
    }


def studied_paced(boards: int) -> Row:
    """All boards: does the line through three rates hold the fourth; are missed deadlines counted."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, bench(Path(folder)) as at:
        for seed in range(boards):
            rows += [{**row, "board": seed} for row in paced_rows(drawn_board(seed), at)]
    kept = [row for row in rows if "truth" in row]
    found: Row = {"boards": boards, "rejected": sum("rejected" in row for row in rows), "lines": len(kept)}
    for name in ("truth", "measured"):
        found[name] = summary([row[name] for row in kept])
        found[name + ", between the three"] = summary([row[name] for row in kept if not row["outside"]])
    found["linear"] = sum(row["linear"] for row in kept) / max(1, len(kept))
    overruns = {row["board"]: row["overrun"] for row in rows}.values()
    found["missed_when_too_fast"] = {
        "boards": len(overruns),
        "fewest_missed": min(one["missed"] for one in overruns),
        "share_of_frames": float(np.median([one["missed"] / one["count"] for one in overruns])),
    }
    found["rows"] = kept
    return found


def main() -> None:
    """Run, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=100)
    parser.add_argument("--kernels", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="number of the first board: rules are chosen on others")
    parser.add_argument("--paced", action="store_true")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found = studied_paced(chosen.boards) if chosen.paced else studied(chosen.boards, chosen.kernels, chosen.first)
    if chosen.paced:
        print(json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=1))
    else:
        for name, row in found["intervals"].items():
            print(
                f"{name:<44} {row['n']:5d}  held {100 * row['held']:5.1f} ± {100 * row['held_half_width']:.1f} %  bias "
                f"{100 * row['bias']:+.2f} %  rms {100 * row['error_rms']:.2f} %  ± {100 * row['half_median']:.2f} %"
            )
        print(json.dumps(found["by_windows"]))
        print({key: found[key] for key in ("stopped", "rejected", "calibration")})
    if chosen.out:
        found.pop("rows")
        chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
