"""Layer by layer: what a multiply-accumulate costs in each layer of one network, recovered from whole networks.

    python experiments/power-vs-flops/recovered.py TABLE…   # recovered.json and recovered.png; then study.py

The prices are those of ``power_models.composition``, the rig's cost model of boards that have whole networks only,
fitted to all networks of a table, with its own 95 % intervals; they are recovered, not measured. Two layers of equal
MACs whose intervals are apart answer whether removing the same FLOPs saves the same joules.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from layers import kind_of
from measured_sets import BOARDS
from resampling import rounded

from device_agents.records import Configuration, KernelSpec
from power_models.composition_fit import fit_from_networks
from power_models.kernel_cost import KernelCosts
from power_models.measured_tables import TableNetwork, read_table

HERE = Path(__file__).resolve().parent
NETWORKS = ("mobilenet-v1-1.0-224", "mobilenet-v2-1.0-224")
EQUAL = 1.05


def study_table(path: Path, named: Sequence[str] = NETWORKS) -> dict[str, Any]:
    """``{"board, dtype, network": facts}`` of the named networks of a table whose quiet power is known."""
    networks = [row for row in read_table(path).networks if row.energy_j is not None]
    if not networks or any(row.idle_power_w is None for row in networks):
        return {}
    device = networks[0].device
    board = next((name for start, name in BOARDS.items() if device.startswith(start)), device)
    configuration = Configuration(device, "", "", "", 0, False, "", "wall")
    model = fit_from_networks(networks, [], configuration, "imported")
    chosen = [row for row in networks if any(row.name.startswith(f"{name}-") for name in named)]
    return {
        f"{board}, {row.dtype}, {row.name}": facts_of(row, model.predict(row.kernels))
        for row in sorted(chosen, key=lambda row: (row.dtype, row.name))
    }


def facts_of(row: TableNetwork, costs: KernelCosts) -> dict[str, Any]:
    """Every layer with weights, in order; ranges by kind; the pair of equal MACs that is told apart best."""
    layers = [_layer(kernel, costs, i) for i, kernel in enumerate(row.kernels) if kind_of(kernel) is not None]
    kinds = {}
    for kind in dict.fromkeys(layer["kind"] for layer in layers):
        prices = [layer["nj_per_mac"]["value"] for layer in layers if layer["kind"] == kind]
        kinds[kind] = [min(prices), max(prices)]
    return {
        "measured_mj": 1e3 * float(row.energy_active_j or np.nan),
        "recovered_mj": 1e3 * float(np.sum(costs.energy_j)),
        "layers": layers,
        "kinds": kinds,
        "equal": equal_layers(layers),
    }


def _layer(kernel: KernelSpec, costs: KernelCosts, place: int) -> dict[str, Any]:
    scale = 1e9 / kernel.macs
    bounds = (costs.energy_j[place], costs.energy_lo_j[place], costs.energy_hi_j[place])
    value, lo, hi = (scale * float(bound) for bound in bounds)
    return {
        "label": kernel.label,
        "kind": kind_of(kernel),
        "mmac": kernel.macs / 1e6,
        "nj_per_mac": {"value": value, "lo": lo, "hi": hi},
    }


def equal_layers(layers: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Two layers of one kind and equal MACs (5 %) whose intervals do not touch, those furthest apart; or None."""
    best: dict[str, Any] | None = None
    for cheap in layers:
        for dear in layers:
            low, high = cheap["nj_per_mac"], dear["nj_per_mac"]
            macs = sorted((cheap["mmac"], dear["mmac"]))
            if cheap["kind"] != dear["kind"] or macs[1] > EQUAL * macs[0] or low["hi"] >= high["lo"]:
                continue
            ratio = high["value"] / low["value"]
            if best is None or ratio > best["ratio"]:
                best = {"cheaper": cheap, "dearer": dear, "ratio": ratio}
    return best


def main() -> None:
    """Fit, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--network", action="append", help="start of a network's name; default: two MobileNets")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    from figures import draw_layers

    found: dict[str, Any] = {}
    for path in asked.tables:
        found |= study_table(path, asked.network or NETWORKS)
    found = rounded(found, 4)
    (asked.out / "recovered.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw_layers({name: facts for name, facts in found.items() if ", float32, " in name}, asked.out / "recovered.png")


if __name__ == "__main__":
    main()
