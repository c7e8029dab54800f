"""How well ``rig calibrate --device local`` predicts networks that it has not seen, in real time on this computer.

    python study.py                # after rig calibrate --device local; writes results.json and the table of README.md
    python study.py --predict-only # the measurements of results.json, priced with the cost model as it is now

Each network is measured in several rounds, all networks in random order in each, one ONNX Runtime session at a time.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from power_models.validate import Prediction, summarize
from rig.configuration import configuration_of
from rig.connection.session import Session, Subject
from rig.cost_models import load_cost_model, price
from rig.profiles import load_profile
from rig.quality.verdict import assess
from rig.store.store import Store, utc_now
from rig.workloads.calibration_networks import plans_of
from rig.workloads.network_file import read_kernels

HERE = Path(__file__).parent
DEVICE = "local"
SMALL = (
    "resnet20",
    "resnet20-0.75",
    "resnet20-0.5",
    "resnet20-0.3",
    "resnet32",
    "vgg16",
    "vgg16-0.5",
    "mobilenetv2",
    "mobilenetv2-0.5",
)
LIGHT = ("squeezenet", "resnet50", "shufflenet", "densenet121", "bvlc_alexnet")
# A ResNet-20 as pruning leaves it: every layer at a width of its own.
PRUNED = {"conv1": 11, "layer1.0.conv1": 7, "layer1.1.conv1": 12, "layer1.2.conv1": 5, "layer2.0.conv1": 21}
PRUNED |= {"layer2.0.conv2": 23, "layer2.1.conv1": 9, "layer2.2.conv1": 17, "layer3.0.conv1": 39, "layer3.1.conv1": 14}
ROUNDS = 5


def write_networks(folder: Path) -> dict[str, Path]:
    """ONNX files by name: networks for one-channel 28×28 images, and those that come with the onnx package."""
    from rig.compression.export import to_onnx
    from rig.compression.networks import build

    small = {name: build(name) for name in SMALL} | {"resnet20-pruned": build("resnet20", widths=PRUNED)}
    files = {}
    for name, network in small.items():
        files[name] = folder / f"{name}.onnx"
        if not files[name].exists():
            onnx.save(to_onnx(network.eval(), (1, 28, 28)), files[name])
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return files | {f"light_{name}": light / f"light_{name}.onnx" for name in LIGHT}


def measure(files: dict[str, Path]) -> dict[str, Any]:
    """Name → latencies of the rounds (mean and median of each, seconds), with their verdicts; and the configuration."""
    profile = load_profile(DEVICE)
    plan = plans_of(profile).networks
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
    configuration = None
    with Session(profile, "local-latency study") as session:
        for number in range(ROUNDS):
            order = random.Random(number).sample(sorted(files), len(files))
            for name in order:
                record = session.measure(Subject(name, path=files[name]), plan, request_id=f"study-{number}-{name}")
                session.ack([record["id"]])
                configuration = configuration_of(profile, record).to_json()
                made = assess(record)
                row = {"latency_s": made.latency_s.value, "median_s": made.latency_median_s.value}
                row["disturbed_share"] = made.disturbed_share
                found[name].append({**row, "verdict": made.verdict, "reason": made.reason})
                print(f"{name}: {1e3 * row['latency_s']:.3f} ms {made.reason or ''}", flush=True)
    return {"measured_utc": utc_now(), "configuration": configuration, "rounds": found}


def predict(files: dict[str, Path], measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Measured (the median of the rounds' median inferences) against predicted, as ``rig predict`` prices it.

    Rounds during most of which something else ran on the core are left out where there are others: the pulse of
    ``device_agents.pulse`` says so, not the network's own latency.
    """
    profile, model = load_profile(DEVICE), load_cost_model(Store(), DEVICE)
    rows = []
    for name, path in files.items():
        cost = price(model, read_kernels(path, profile.runtime.name, block=model.layout_block), path)
        rounds = measured["rounds"][name]
        least = min(one["disturbed_share"] for one in rounds)
        calm = [one for one in rounds if one["disturbed_share"] <= max(0.5, least)]
        values = sorted(one["median_s"] for one in calm)
        value, (predicted, lo, hi) = median(values), cost.latency_s
        rows.append(
            {
                "name": name,
                "measured_s": value,
                "rounds_used": len(calm),
                "rounds_spread": (values[-1] - values[0]) / value,
                "predicted_s": float(predicted),
                "lo_s": float(lo),
                "hi_s": float(hi),
                "error": float(predicted) / value - 1.0,
                "covered": bool(lo <= value <= hi),
            }
        )
    return rows


def table(rows: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| network | measured | predicted (95 %) | error | covered | spread of the rounds |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in rows:
        ms = {key: f"{1e3 * row[key]:.3f}" for key in ("measured_s", "predicted_s", "lo_s", "hi_s")}
        lines.append(
            f"| {row['name']} | {ms['measured_s']} ms | {ms['predicted_s']} ({ms['lo_s']} to {ms['hi_s']}) ms"
            f" | {100 * row['error']:+.1f} % | {'yes' if row['covered'] else 'no'}"
            f" | {100 * row['rounds_spread']:.1f} % |"
        )
    median_, mean, worst = (f"{100 * summary[name]:.1f} %" for name in ("median", "mean", "worst"))
    covered = f"the intervals cover {round(summary['coverage'] * summary['n'])} of {summary['n']}"
    lines.append(f"\nMedian error {median_}, mean {mean}, worst {worst}; {covered}.")
    return "\n".join(lines)


def main() -> None:
    """Measure (unless told not to), predict, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predict-only", action="store_true", help="use the measurements of results.json")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--networks", type=Path, help="a folder that keeps the exported networks from run to run")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="local-latency-") as folder:
        files = write_networks(options.networks or Path(folder))
        measured = json.loads(options.out.read_text())["measured"] if options.predict_only else measure(files)
        if not options.predict_only:  # whatever comes of the prediction, the measurements are kept
            options.out.write_text(json.dumps({"measured": measured}, indent=1) + "\n")
        rows = predict(files, measured)
    subjects = [
        Prediction(r["name"], "network", r["measured_s"], r["predicted_s"], r["lo_s"], r["hi_s"], False) for r in rows
    ]
    summary = dict(summarize(subjects)._asdict())
    result = {"schema": "rig.local-latency/1", "summary": summary, "networks": rows, "measured": measured}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows, summary))


if __name__ == "__main__":
    main()
