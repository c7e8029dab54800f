"""A new simulated board from another's cost model and a few kernels: how many does it take?

SIMULATED: from the nominal virtual board to siblings with perturbed constants (and redrawn block sizes), kernels' costs
straight from the physics plus noise. Judged on the networks of ``experiments/cost-models/subjects.py``.

    python experiments/active-design/transfer_boards.py --out experiments/active-design/transfer-boards.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "cost-models"))

from campaign import direct_rows
from subjects import evaluation_networks

from device_agents.records import Configuration
from device_agents.virtual_board.physics import BoardModel
from power_models.kernel_cost import KernelCostModel
from power_models.network_check import NetworkRow
from power_models.transfer_fit import fit_transferred
from power_models.validate import predict_networks, summarize
from rig.workloads.grid import design

COUNTS = (12, 24, 48, 96)


def configuration(name: str) -> Configuration:
    """A board's name and nothing else."""
    return Configuration("virtual-pi4", name, "virtual", "1", 4, False, "nominal", "board_input")


def main() -> None:
    """Run, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--base-kernels", type=int, default=330)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    nominal = BoardModel.load("pi4")
    base_rows = direct_rows("base", nominal, design(options.base_kernels, 7), 7).rows
    overhead = nominal.inference_cost([])
    base = KernelCostModel.fit(base_rows, configuration("base"), "simulated", overhead=overhead)
    networks = evaluation_networks()
    kinds = sorted({spec.kind for specs in networks.values() for spec in specs})
    found = []
    for name in options.boards:
        board = nominal.perturbed(int(name))
        truth = [NetworkRow(n, specs, *board.inference_cost(specs)) for n, specs in networks.items()]
        for count in options.counts:
            kernels = design(count, 40 + int(name), kinds=kinds)
            random.Random(0).shuffle(kernels)
            rows = direct_rows(name, board, kernels, 11).rows
            about = {"overhead": board.inference_cost([])}
            models = {
                "base as it is": base,
                "own rows alone": KernelCostModel.fit(rows, configuration(name), "simulated", **about),
                "transferred": fit_transferred(base, rows, configuration(name), "simulated", **about),
            }
            entry = {"board": name, "kernels": count, "models": {}}
            for label, model in models.items():
                known = set(model.known_kinds)
                able = [n for n in truth if all((k.kind, k.dtype) in known for k in n.kernels)]
                own = {q: summarize(p)._asdict() for q, p in predict_networks(model, able).items()} if able else {}
                entry["models"][label] = {"networks": len(able), **own}
            report = models["transferred"].report.get("transfer", {})
            entry["priced_by"] = report
            found.append(entry)
            line = "; ".join(
                f"{label}: {own['networks']} networks, "
                + ", ".join(
                    f"{100 * own[q]['mean']:.1f} % (covers {100 * own[q]['coverage']:.0f})"
                    for q in own
                    if q != "networks"
                )
                for label, own in entry["models"].items()
            )
            print(f"board {name}, {count} kernels: {line}", flush=True)
            if options.out:
                options.out.write_text(
                    json.dumps({"kind": "simulated", "rows": found}, indent=1) + "\n", encoding="utf-8"
                )


if __name__ == "__main__":
    main()
