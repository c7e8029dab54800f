"""ResNet-20 on Fashion-MNIST at half of its cost: ``python study.py virtual-pi4|local [--seeds 0 1 2] [--ablation]``.

Each row is one ``rig optimize`` run (resumed if it was stopped, taken from the store if it is done). Writes
``results-<device>[-ablation].json`` beside this file; ``python study.py table`` writes the tables into README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.shared.pieces import Results, Row
from experiments.shared.stored_runs import runs_of
from experiments.shared.tables import table, write_behind
from rig.commands import optimize
from rig.commands.options import OptimizeOptions
from rig.compression.survey import Ablation
from rig.store.store import Store

HERE = Path(__file__).parent
TARGETS = {"virtual-pi4": {"target_power": "50%", "fps": "60"}, "local": {"target_latency": "50%"}}
MARK = "<!-- tables: python study.py table -->"


def main() -> None:
    """Parse, run the seeds one after the other, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*TARGETS, "table"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ablation", action="store_true", help="with the regularizer's gradient switched off")
    asked = parser.parse_args()
    if asked.what == "table":
        write_readme()
        return
    name = f"results-{asked.what}{'-ablation' if asked.ablation else ''}.json"
    for seed in asked.seeds:
        row = row_of(one_run(asked.what, seed, asked.ablation))
        Results(HERE / name, lambda one: one["seed"]).keep(row)
        print(json.dumps(row), flush=True)


def one_run(device: str, seed: int, ablation: bool) -> dict[str, Any]:
    """The result of one optimize run: finished earlier, resumed, or new."""
    options = OptimizeOptions(device, "fashion-mnist", "resnet20", seed=seed, **TARGETS[device])
    store = Store()
    mark = store.root / "ablations.json"
    ablations = json.loads(mark.read_text()) if mark.exists() else {}
    for manifest in runs_of(options):
        if manifest["state"] == "done" and (manifest["id"] in ablations) == ablation:
            return dict(store.open_run(manifest["id"]).read_json("result.json"))
        if manifest["state"] != "done" and not ablation:
            options = replace(options, resume=True)
            break
    result = optimize.run(options, Ablation(gradient_on=not ablation))
    if ablation:
        mark.write_text(json.dumps({**ablations, result["run_id"]: seed}))
    return result


def row_of(result: dict[str, Any]) -> Row:
    """What the issue's figures need of a run."""
    stages = {stage["name"]: stage for stage in result["stages"]}
    before, after = result["baseline"], result["result"]
    usage = next(iter(result["usage"].values()))
    bound = result["budget"][0]
    floor, whole = 0.0, before["latency_s"]["value"]
    if bound["quantity"] == "power":
        floor, whole = before["idle_power_w"]["value"], before["power_w"]["value"]
    limit = floor + bound["relative"] * (whole - floor)
    return {
        "device": result["device"]["name"],
        "kind": result["kind"],
        "seed": result["seed"],
        "verdict": result["verdict"],
        "quantity": bound["quantity"],
        # Against the baseline of the same turns: the meter's gain error and slow drift are in both.
        "limit": limit,
        "measured": {k: floor + usage[k] * (limit - floor) for k in ("value", "lo", "hi")},
        "ratio_to_baseline": {k: usage[k] * bound["relative"] for k in ("value", "lo", "hi")},
        "rounds_interleaved": usage["n"],
        "budget_used": usage["value"],
        "regularizer_reached": stages["shrink"]["reached"],
        "accuracy_drop_at_removal": stages["removal"]["accuracy_drop"],
        "baseline_test": before["accuracy_test"]["value"],
        "result_test": after["accuracy_test"]["value"],
        "change_points": 100 * (after["accuracy_test"]["value"] - before["accuracy_test"]["value"]),
        "macs_share": after["macs"] / before["macs"],
        "params_share": after["params"] / before["params"],
        "blocks_removed": result["blocks"]["removed"],
        "device_rounds": len(result["rounds"]),
        "seconds": {name: round(stage["seconds"], 1) for name, stage in stages.items()},
    }


def write_readme(folder: Path = HERE) -> None:
    """Put one table per results file behind the mark in README.md."""
    head = ["seed", "verdict", "limit", "measured", "share of baseline", "active budget used", "by the regularizer"]
    head += ["drop at removal", "baseline", "result", "change", "MACs left", "blocks removed"]
    parts = []
    for path in sorted(folder.glob("results-*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        label = "SIMULATED costs, real accuracies" if rows[0]["kind"] == "simulated" else "measured"
        title = f"### {path.stem.removeprefix('results-')} ({label})"
        parts.append(f"{title}\n\n{table(head, [_line(row) for row in rows])}\n")
    write_behind(MARK, folder, "\n".join(parts))


def _line(row: Row) -> list[str]:
    unit, factor = ("W", 1.0) if row["quantity"] == "power" else ("ms", 1e3)
    measured, ratio = row["measured"], row["ratio_to_baseline"]
    half = factor * (measured["hi"] - measured["lo"]) / 2
    return [
        str(row["seed"]),
        row["verdict"],
        f"{factor * row['limit']:.3f} {unit}",
        f"{factor * measured['value']:.3f} ± {half:.3f} {unit}",
        f"{ratio['value']:.3f} [{ratio['lo']:.3f}, {ratio['hi']:.3f}]",
        f"{100 * row['budget_used']:.1f} %",
        f"{100 * row['regularizer_reached']:.0f} %",
        f"{100 * row['accuracy_drop_at_removal']:.2f} points",
        f"{100 * row['baseline_test']:.2f} %",
        f"{100 * row['result_test']:.2f} %",
        f"{row['change_points']:+.2f}",
        f"{100 * row['macs_share']:.0f} %",
        ", ".join(row["blocks_removed"]) or "none",
    ]


if __name__ == "__main__":
    main()
