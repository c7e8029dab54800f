"""Imported MLPerf power runs beside the rows of the published table: how far apart are watts, joules, seconds?

python experiments/mlperf-import/compare.py [FOLDER ...]     default: the genuine runs of tests/golden/mlperf
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from rig.mlperf import power_run, summary

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "rig" / "devices" / "data" / "rpi4_tflite.jsonl.gz"
GOLDEN = ROOT / "tests" / "golden" / "mlperf"
QUANTITIES = ("power_w", "energy_j", "idle_power_w", "latency_s")


def main() -> None:
    """Print one line a run and quantity."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    folders = parser.parse_args().folders or sorted(path for path in GOLDEN.iterdir() if path.is_dir())
    with gzip.open(TABLE, "rt", encoding="utf-8") as rows:
        table = {row["network"]: row for row in map(json.loads, rows)}
    print("| run | quantity | imported | table | difference |\n| --- | --- | --- | --- | --- |")
    for folder in folders:
        run = power_run.read(folder)
        network: dict[str, Any] = summary.network_row(run, "")
        for name in QUANTITIES:
            ours, theirs = network[name]["value"], table[run.name][name]
            print(f"| {run.name} | {name} | {ours:.6g} | {theirs:.6g} | {100 * (ours / theirs - 1):+.4f} % |")
        print(f"|  | clocks | {run.clocks.how} | | ± {1e3 * run.clocks.uncertainty_s:.2f} ms |")


if __name__ == "__main__":
    main()
