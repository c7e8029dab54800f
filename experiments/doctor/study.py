"""``rig doctor`` on simulated boards whose meters differ: how far off its window, lag, step and noise are.

    python experiments/doctor/study.py [--boards 100] [--exponential 40]     writes results.json beside this file

Each board draws its meter's data sheet (window 10 ms to 1 s, lag, rate, step to 0.4 W, noise) from its seed; everything
runs through the agent as on a real board. The meters of ``--exponential`` further boards forget exponentially; their
window is the time that holds 99 % of a sample's weight. 0 boards of a kind: those of results.json are kept.
Simulated: no figure here is of a real sensor.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rig.commands import doctor
from rig.commands.options import DoctorOptions
from rig.doctor.load_curve import TIME_CONSTANTS

PLACE = Path(__file__).parent


def drawn_meter(seed: int, exponential: bool = False) -> dict[str, float]:
    """A meter's data sheet: log-uniform where it spans decades."""
    draw = random.Random(f"doctor-study-{seed}{'-exponential' if exponential else ''}")
    window_s = 0.010 * 100.0 ** draw.random()
    rate_hz = draw.choice([r for r in (5.0, 10.0, 20.0, 50.0, 100.0, 200.0) if 0.5 <= r * window_s <= 40.0])
    more = {"time_constant_s": window_s / TIME_CONSTANTS} if exponential else {}
    return {
        **more,
        "window_s": window_s,
        "rate_hz": rate_hz,
        "lag_s": window_s * draw.random() * 0.5,
        "step_w": 0.001 * 400.0 ** draw.random(),
        "noise_w": 0.003 * 10.0 ** draw.random(),
        "gain_uncertainty": 0.01,
    }


def board(seed: int, steps: int, folder: Path, exponential: bool = False) -> dict[str, Any]:
    """One board: its truth and what the doctor said."""
    meter = drawn_meter(seed, exponential)
    devices = folder / "config" / "devices"
    devices.mkdir(parents=True, exist_ok=True)
    table = ", ".join(f"{name} = {value!r}" for name, value in meter.items())
    (devices / "virtual-pi4.toml").write_text(
        f'[runtime]\noptions = {{ board = "pi4", seed = {seed}, perturb = {seed}, meter = {{ {table} }} }}\n'
    )
    (source,) = doctor.run(DoctorOptions("virtual-pi4", steps=steps))["sources"]
    return {"seed": seed, "truth": meter, "found": {key: rounded(source[key]) for key in SHOWN}}


SHOWN = (
    "shape",
    "shape_told",
    "window_s",
    "lag_s",
    "delay_s",
    "step_w",
    "noise_w",
    "spacing_s",
    "update_period_s",
    "passes",
)


def rounded(value: Any) -> Any:
    """What is shown of a figure: six digits, of a quantity value, lo and hi."""
    if isinstance(value, dict):
        return {key: rounded(value[key]) for key in ("value", "lo", "hi")}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors over all boards: median, 95th percentile, worst; how often the stated interval holds the truth."""
    shapes = Counter(row["found"]["shape"] for row in rows)
    told = sum(row["found"]["shape_told"] for row in rows)
    figures: dict[str, Any] = {"boards": len(rows), "shapes": dict(sorted(shapes.items())), "shape_told": told}
    for name in ("window_s", "lag_s", "delay_s"):
        errors, held = [], []
        for row in rows:
            truth = row["truth"]
            centre_s = truth.get("time_constant_s", 0.5 * truth["window_s"])
            true_s = truth["lag_s"] + centre_s if name == "delay_s" else truth[name]
            found = row["found"][name]
            if found["value"] is None:
                continue
            errors.append(abs(found["value"] - true_s) / truth["window_s"])
            held.append(found["lo"] <= true_s <= found["hi"])
        figures[name] = {**spread(errors), "of": "the true window", "held": float(np.mean(held)), "found": len(errors)}
    for name in ("step_w", "noise_w"):
        errors = [
            abs(row["found"][name] - row["truth"][name]) / row["truth"][name]
            for row in rows
            if row["found"][name] is not None and (name == "step_w" or row["truth"]["noise_w"] > row["truth"]["step_w"])
        ]
        figures[name] = {**spread(errors), "of": "the true value", "found": len(errors)}
    return figures


def kept(exponential: bool) -> list[dict[str, Any]]:
    """The rows of one kind of meter in results.json."""
    rows: list[dict[str, Any]] = json.loads((PLACE / "results.json").read_text())["rows"]
    return [row for row in rows if ("time_constant_s" in row["truth"]) == exponential]


def spread(errors: list[float]) -> dict[str, float]:
    """Median, 95th percentile and worst of relative errors."""
    return {"median": float(np.median(errors)), "p95": float(np.quantile(errors, 0.95)), "worst": float(max(errors))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--boards", type=int, default=100)
    parser.add_argument("--exponential", type=int, default=40)
    parser.add_argument("--steps", type=int, default=16)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(RIG_HOME=str(folder / "home"), RIG_CONFIG=str(folder / "config"))
        rows = [board(seed, chosen.steps, folder) for seed in range(chosen.boards)] or kept(exponential=False)
        more = [board(seed, chosen.steps, folder, exponential=True) for seed in range(chosen.exponential)]
        more = more or kept(exponential=True)
    figures = {"boxcar": judged(rows), **({"exponential": judged(more)} if more else {})}
    head = json.dumps({"steps": chosen.steps, "figures": figures}, indent=1)[:-2]
    lines = ",\n".join("  " + json.dumps(row) for row in [*rows, *more])  # a board a line
    (PLACE / "results.json").write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
