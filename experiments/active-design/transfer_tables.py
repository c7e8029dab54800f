"""Transfer between real boards, by their published tables: how many networks or kernels of the new one does it take?

    python experiments/active-design/transfer_tables.py ../shared/data --out transfer-tables.json

* Raspberry Pi 4 → Odroid N2+: n networks of the Odroid are given (drawn at random, three seeds), the others of its
  49 (float32) or 45 (int8) are judged on. The base is fitted to the Pi 4's
  94, as the shipped model is.
* TX2 CPU → TX2 GPU: a base that shares little with the new device. n convolutions are given, 700 others judged.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from device_agents.records import Configuration
from power_models.composition_fit import fit_from_networks
from power_models.kernel_cost import KernelCostModel
from power_models.measured_tables import TableNetwork, by_dtype, read_table
from power_models.network_check import NetworkRow
from power_models.network_cost import price_network
from power_models.table_fit import kernel_rows
from power_models.transfer_fit import fit_transferred
from power_models.validate import predict_rows, summarize

GIVEN_NETWORKS, GIVEN_KERNELS = (3, 5, 10, 20), (25, 50, 100)
SEEDS = 3
BASE_KERNELS, JUDGED_KERNELS = 300, 700


def configuration(name: str) -> Configuration:
    """A device's name and nothing else."""
    return Configuration(name, "table", "table", "", 1, False, "", "wall")


def scores(model: KernelCostModel, networks: Sequence[TableNetwork], factor: Sequence[float] = (1.0, 1.0)) -> dict:
    """MAPE of latency and active energy of networks, and the share within the intervals; of those that have a price."""
    found: dict[str, list[float]] = {}
    known = set(model.known_kinds)
    able = [n for n in networks if all((k.kind, k.dtype) in known for k in n.kernels)]
    for network in able:
        cost = price_network(model, network.kernels)
        pairs = (
            ("latency_s", cost.latency_s, network.latency_s),
            ("energy_active_j", cost.energy_j, network.energy_active_j),
        )
        for (name, (value, low, high), measured), by in zip(pairs, factor, strict=True):
            found.setdefault(name, []).append(abs(by * value / measured - 1))
            found.setdefault(f"{name} covered", []).append(float(by * low <= measured <= by * high))
    return {"networks": len(able), **{name: float(np.mean(values)) for name, values in found.items()}}


def one_factor(base: KernelCostModel, given: Sequence[TableNetwork]) -> tuple[float, float]:
    """The median ratios of measured to the base's: what a person would do by hand."""
    costs = [price_network(base, network.kernels) for network in given]
    latency = [n.latency_s / c.latency_s[0] for n, c in zip(given, costs, strict=True)]
    energy = [n.energy_active_j / c.energy_j[0] for n, c in zip(given, costs, strict=True)]
    return float(np.median(latency)), float(np.median(energy))


def from_pi4(data: Path, dtype: str) -> list[dict]:
    """Raspberry Pi 4 to Odroid N2+."""
    pi4 = read_table(data / "networks" / "rpi4_tflite.jsonl.gz").networks
    base = fit_from_networks(pi4, [], configuration("pi4"), "imported")
    networks = by_dtype(read_table(data / "networks" / "odroid_n2plus_tflite.jsonl.gz").networks, dtype)
    found = [{"given": 0, "seed": 0, "models": {"base as it is": scores(base, networks)}}]
    for count in GIVEN_NETWORKS:
        for seed in range(SEEDS):
            order = np.random.default_rng(seed).permutation(len(networks))
            given, rest = ([networks[i] for i in part] for part in (order[:count], order[count:]))
            rows = [NetworkRow(n.name, n.kernels, n.latency_s, n.energy_active_j) for n in given]
            about = configuration("odroid-n2plus"), "imported"
            models = {
                "transferred": scores(fit_transferred(base, [], *about, networks=rows), rest),
                "composition on the base": scores(fit_from_networks(given, [], *about, base=base), rest),
                "composition of these alone": scores(fit_from_networks(given, [], *about), rest),
                "one factor": scores(base, rest, one_factor(base, given)),
            }
            found.append({"given": count, "seed": seed, "models": models})
        _tell(f"pi4 to odroid {dtype}", count, [entry for entry in found if entry["given"] == count])
    return found


def between_processors(data: Path, base_name: str, name: str) -> list[dict]:
    """One of the TX2's processors to the other."""
    tables = {n: kernel_rows(read_table(data / "kernels" / f"tx2_{n}_conv.csv").kernels) for n in (base_name, name)}
    chosen = np.random.default_rng(9).permutation(len(tables[base_name]))[:BASE_KERNELS]
    base = KernelCostModel.fit([tables[base_name][i] for i in chosen], configuration(base_name), "imported")
    found = []
    for count in GIVEN_KERNELS:
        for seed in range(2):
            order = np.random.default_rng(seed).permutation(len(tables[name]))
            given, rest = ([tables[name][i] for i in part] for part in (order[:count], order[-JUDGED_KERNELS:]))
            models = {}
            transferred = fit_transferred(base, given, configuration(name), "imported")
            pairs = (
                ("transferred", transferred),
                ("these alone", KernelCostModel.fit(given, configuration(name), "imported")),
            )
            for label, model in pairs:
                summaries = {q: summarize(p) for q, p in predict_rows(model, rest).items()}
                models[label] = {q: s.mean for q, s in summaries.items()}
                models[label] |= {f"{q} covered": s.coverage for q, s in summaries.items()}
            entry = {"given": count, "seed": seed, "models": models, "priced_by": transferred.report["transfer"]}
            found.append(entry)
        _tell(f"TX2 {base_name} to {name}", count, found[-2:])
    return found


def _tell(what: str, count: int, entries: Sequence[dict]) -> None:
    parts = []
    for label in entries[0]["models"]:
        means = {q: np.mean([entry["models"][label][q] for entry in entries]) for q in entries[0]["models"][label]}
        parts.append(
            f"{label} {100 * means['latency_s']:.1f}/{100 * means['energy_active_j']:.1f} %"
            f" (covers {100 * means['latency_s covered']:.0f}/{100 * means['energy_active_j covered']:.0f})"
        )
    print(f"{time.strftime('%H:%M:%S')} {what}, {count}: " + "; ".join(parts), flush=True)


def main() -> None:
    """Run all, print a line a count, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with networks/ and kernels/")
    parser.add_argument("--only", choices=("networks", "kernels"), default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    result: dict = json.loads(options.out.read_text()) if options.out and options.out.exists() else {"kind": "imported"}
    parts = {
        "networks": [
            (f"pi4 to odroid-n2plus, {d}", lambda d=d: from_pi4(options.data, d)) for d in ("float32", "int8")
        ],
        "kernels": [
            (f"tx2 {a} to {b}", lambda a=a, b=b: between_processors(options.data, a, b)) for a, b in (("cpu", "gpu"),)
        ],
    }
    for part, jobs in parts.items():
        if options.only not in (None, part):
            continue
        for name, job in jobs:
            result[name] = job()
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
