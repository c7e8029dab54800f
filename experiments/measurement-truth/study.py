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
import os
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from boards import Bench, Board, bench, drawn_board, drawn_kernel
from intervals import Row, by_windows, held, summary, truth_of
from paced import studied_paced

from device_agents.records import KernelSpec, MeasurePlan
from device_agents.virtual_board.physics import BoardModel
from device_agents.virtual_board.sensor import VirtualSensor
from rig.commands import calibrate_sensor
from rig.commands.options import CalibrateSensorOptions
from rig.measurement import Measurement
from rig.quality.stats import NORMAL_975, quadrature
from rig.quality.verdict import assess, difference_chain
from rig.sensors.calibration import SensorCalibration
from rig.sensors.store import with_sensor_knowledge

DEVICE = "virtual-pi4"
CHAIN_S = 0.012  # of the longer chain, about
SINGLE_CALIBRATED = tuple(
    f"calibrated/{name}" for name in ("energy_j/without gain", "energy_active_j/without gain", "latency_s")
)
SINGLE = ("energy_j", "energy_active_j", "power_w", "idle_power_w", "latency_s")


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
