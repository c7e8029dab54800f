"""The structure in two GPUs' residuals: a campaign whose own cost grew from row to row.

    python experiments/kernel-tables/drift.py ../shared/data/kernels/t4_conv_latency.csv \
        ../shared/data/kernels/v100_conv_latency.csv --out experiments/kernel-tables/drift.json

For each table: the quickest rows of every tenth of the file, the drift found in two disjoint halves of the rows, and
for both tables together the correlation of the held-out residuals of one quick model, with the drift and without it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from device_agents.records import KernelSpec
from power_models.drift import find_drift, without
from power_models.features import Floats, KernelColumns
from power_models.measured_tables import read_table
from power_models.roofline import Roofline
from power_models.tiles import size_features
from power_models.trees import HistogramTrees

FOLDS = 4


def residuals(columns: KernelColumns, latency_s: Floats) -> Floats:
    """log(measured/predicted) of every row by a roofline and trees that did not see its fold."""
    target, place = np.log(latency_s), np.random.default_rng(0).permutation(len(latency_s)) % FOLDS
    features, found = size_features(columns), np.zeros(len(latency_s))
    for fold in range(FOLDS):
        rest, test = np.flatnonzero(place != fold), np.flatnonzero(place == fold)
        anchor = Roofline(("conv",)).fit(columns.take(rest[:1500]), target[rest[:1500]], np.ones(len(rest[:1500])))
        left = target - anchor.predict(columns)
        trees = HistogramTrees().fit(features[rest], left[rest], np.ones(len(rest)))
        found[test] = left[test] - trees.predict(features[test])
    return found


def study(path: str) -> tuple[dict[str, object], dict[str, dict[KernelSpec, float]]]:
    """What one table shows, and its residuals by kernel before and after."""
    rows = read_table(path).kernels
    columns = KernelColumns.of([row.kernel for row in rows])
    latency, places = np.array([row.latency_s for row in rows]), np.array([float(row.line) for row in rows])
    drift = find_drift(columns, latency, places)
    halves = [find_drift(columns.take(half), latency[half], places[half]) for half in _halves(len(rows))]
    tenths = [float(np.quantile(part, 0.02)) for part in np.array_split(latency, 10)]
    kept = {"as measured": latency}
    if drift is not None:
        kept["without the drift"] = without(latency, places, drift.slope_s)
    left = {name: residuals(columns, own) for name, own in kept.items()}
    errors = {name: float(np.abs(np.expm1(-own)).mean()) for name, own in left.items()}
    about: dict[str, object] = {
        "rows": len(rows),
        "quickest_s_by_tenth_of_the_file": tenths,
        "drift_s_a_row": None if drift is None else drift.slope_s,
        "drift_s_a_row_in_halves": [None if one is None else one.slope_s for one in halves],
        "mean_error_of_a_quick_model": errors,
    }
    keyed = {name: dict(zip([row.kernel for row in rows], own.tolist(), strict=True)) for name, own in left.items()}
    return about, keyed


def _halves(count: int) -> list[np.ndarray]:
    order = np.random.default_rng(1).permutation(count)
    return [np.sort(order[::2]), np.sort(order[1::2])]


def main() -> None:
    """Study the tables, print and store what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs=2)
    parser.add_argument("--out", default="experiments/kernel-tables/drift.json")
    asked = parser.parse_args()
    found = {Path(path).name: study(path) for path in asked.tables}
    (_, first), (_, second) = found.values()
    result: dict[str, object] = {name: about for name, (about, _) in found.items()}
    for name in set(first) & set(second):
        both = [spec for spec in first[name] if spec in second[name]]
        pair = np.array([[first[name][spec], second[name][spec]] for spec in both])
        result[f"correlation of residuals, {name}"] = float(np.corrcoef(pair.T)[0, 1])
    text = json.dumps(result, indent=1, sort_keys=True)
    Path(asked.out).write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
