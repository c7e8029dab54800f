"""Is reducing power the same as reducing FLOPs? And is energy not just time? Answered by measured tables.

python experiments/power-vs-flops/study.py TABLE…    # results.json, figures and README.md of the tables given
python experiments/power-vs-flops/study.py           # README.md again, from results.json

Tables of networks (JSON lines) and of kernels (CSV), as ``power_models.measured_tables`` reads them. ``--out FOLDER``
writes elsewhere. README.md has the method and the tables that the committed results come from.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import layers
import numpy as np
from kernel_watts import VERY_LONG_S, kernel_study
from measured_sets import LEAST, Array, CostSet, read_sets, same_but_for_resolution, same_but_for_width
from pairs import decisions, equal_pairs
from precision import boards_disagree, precision_effect
from resampling import draws_of, estimate, kendall, mean, quantile, rounded, spearman
from scales import (
    constant,
    family_errors,
    non_negative,
    one_parameter,
    random_fold_errors,
    two_parameters,
)

HERE = Path(__file__).resolve().parent
SCHEMA = "power-vs-flops/1"


def network_study(found: CostSet) -> dict[str, Any]:
    """Everything about one set of networks."""
    draws = draws_of(found.label, found.architecture)
    by_family = draws_of(f"{found.label} families", found.family)
    steered = found.steered_j
    return {
        "board": found.board,
        "dtype": found.dtype,
        "networks": len(found),
        "architectures": int(found.architecture.max()) + 1,
        "families": int(found.family.max()) + 1,
        "active_known": found.active_j is not None,
        "idle_power_w": found.idle_power_w,
        "mmac": [float(found.macs.min() / 1e6), float(found.macs.max() / 1e6)],
        "power_w": [float(q) for q in np.quantile(found.power_w, [0.0, 0.05, 0.5, 0.95, 1.0])],
        "energy_over_power_times_latency": [
            float(q) for q in np.quantile(found.energy_j / (found.power_w * found.latency_s), [0.05, 0.5, 0.95])
        ],
        "equal_fps": equal_fps(found, draws),
        "rank": ranks(found, draws, by_family),
        "errors": errors(found, draws, by_family),
        "equal_macs": equal_pairs(found, found.macs, steered, draws),
        "equal_macs_power": equal_pairs(found, found.macs, found.power_w, draws),
        "equal_seconds": equal_pairs(found, found.latency_s, steered, draws),
        "decisions": {
            "macs": decisions(found, found.macs, steered, draws),
            "latency": decisions(found, found.latency_s, steered, draws),
        },
        "layers": layers.joules_per_mac(found),
        "elasticity": {
            "width": layers.elasticity(found, same_but_for_width, steered),
            "resolution": layers.elasticity(found, same_but_for_resolution, steered),
            "width, seconds": layers.elasticity(found, same_but_for_width, found.latency_s),
            "resolution, seconds": layers.elasticity(found, same_but_for_resolution, found.latency_s),
        },
    }


def equal_fps(found: CostSet, draws: Array) -> dict[str, Any] | None:
    """Power at the fastest whole frame rate that every network can serve; None where quiet power is unknown."""
    if found.active_j is None or found.idle_power_w is None:
        return None
    fps = float(np.floor(1.0 / found.latency_s.max()))
    at_fps = fps * found.active_j
    per_mac = found.active_j / found.macs
    return {
        "fps": fps,
        "above_quiet_w": [float(at_fps.min()), float(at_fps.max())],
        "nj_per_mac": {
            "p5": estimate(quantile(per_mac * 1e9, 0.05), draws),
            "median": estimate(quantile(per_mac * 1e9, 0.5), draws),
            "p95": estimate(quantile(per_mac * 1e9, 0.95), draws),
        },
    }


def ranks(found: CostSet, draws: Array, by_family: Array) -> dict[str, Any]:
    """Rank correlations of FLOPs and seconds with what was measured; ``family``: the interval over whole families."""
    measured = {"energy": found.energy_j, "power": found.power_w, "latency": found.latency_s}
    measured["energy over latency"] = found.energy_j / found.latency_s
    if found.active_j is not None:
        measured["active"] = found.active_j
    result: dict[str, Any] = {}
    for proxy, x in (("macs", found.macs), ("latency", found.latency_s)):
        for name, y in measured.items():
            if proxy == name:
                continue
            whole = spearman(x, y)
            result[f"{proxy} {name}"] = {
                "spearman": estimate(whole, draws),
                "spearman_family": estimate(whole, by_family),
                "kendall": estimate(kendall(x, y), draws),
            }
    return result


def errors(found: CostSet, draws: Array, by_family: Array) -> dict[str, Any]:
    """Held-out percentage errors of each proxy after its best scale, against each measured quantity."""
    targets = {"energy": found.energy_j, "power": found.power_w, "latency": found.latency_s}
    if found.active_j is not None:
        targets["active"] = found.active_j
    work = layers.work_matrix(found)
    work = work[:, work.max(axis=0) > 0]
    proxies: dict[str, Any] = {
        "macs, one": (found.macs, one_parameter),
        "macs, two": (found.macs, two_parameters),
        "latency, one": (found.latency_s, one_parameter),
        "latency, two": (found.latency_s, two_parameters),
        "per kind": (work, non_negative),
        "constant": (found.macs, constant),
    }
    result: dict[str, Any] = {}
    for target, y in targets.items():
        for proxy, (x, fit) in proxies.items():
            if proxy.startswith(target) or (proxy == "constant") != (target == "power"):
                continue
            error = random_fold_errors(fit, x, y)
            size = np.abs(error).mean(axis=0)
            worst = int(np.argmax(size))
            several = int(found.family.max()) > 0
            without = np.abs(family_errors(fit, x, y, found.family)) if several else np.full(len(y), np.nan)
            result[f"{target} by {proxy}"] = {
                "mape": estimate(mean(size), draws),
                "mape_family": estimate(mean(size), by_family),
                "family_left_out": estimate(mean(without), draws),
                "median": float(np.median(size)),
                "worst": float(size[worst]),
                "worst_name": found.names[worst],
                "worst_sign": float(np.sign(error[:, worst].mean())),
            }
    return result


def study(paths: list[Path]) -> tuple[dict[str, Any], list[CostSet], list[CostSet]]:
    """Results of all tables, and the sets they were made of."""
    networks, kernels, left_out = read_sets(paths)
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "left_out": left_out,
        "networks": {},
        "precision": {},
        "boards": {},
        "kernels": {},
    }
    for found in networks:
        print(f"{found.label}: {len(found)} networks", flush=True)
        results["networks"][found.label] = network_study(found)
    for board in dict.fromkeys(found.board for found in networks):
        by_dtype = {found.dtype: found for found in networks if found.board == board}
        if {"float32", "int8"} <= set(by_dtype):
            results["precision"][board] = precision_effect(by_dtype["float32"], by_dtype["int8"])
    for place, first in enumerate(networks):
        for second in networks[place + 1 :]:
            if first.dtype == second.dtype and first.board != second.board:
                both = boards_disagree(first, second)
                if both is not None:
                    results["boards"][f"{first.board} and {second.board}, {first.dtype}"] = both
    for found in kernels:
        print(f"{found.label}: {len(found)} kernels", flush=True)
        if np.sum(found.latency_s >= VERY_LONG_S) < LEAST:
            left_out.append(f"{found.label}: fewer than {LEAST} kernels of {VERY_LONG_S:g} s and more")
            continue
        results["kernels"][found.label] = kernel_study(found)
    return rounded(results), networks, kernels


def main() -> int:
    """Compute what was asked, write, and say what was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    from figures import draw_all
    from readme import MissingFigure, write_readme, write_tables

    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "results.json"
    if asked.tables:
        results, networks, kernels = study(asked.tables)
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        draw_all(results, networks, kernels, asked.out)
        for line in results["left_out"]:
            print(f"left out: {line}")
    try:
        write_readme(path, asked.out / "README.md")
    except MissingFigure as missing:
        write_tables(path, asked.out / "tables.md")
        print(f"README.md not written: {missing}; the tables are in {asked.out / 'tables.md'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
