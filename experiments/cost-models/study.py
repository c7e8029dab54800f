"""Errors and coverage of the cost models on simulated boards: kernels held out, and whole networks.

Everything here is SIMULATED (virtual-pi4 and siblings with perturbed constants). One campaign a board: ``--kernels``
kernels of the calibration grid, which is not told of the networks that are predicted.

    python experiments/cost-models/study.py --direct             # the board's own cost plus noise: minutes
    python experiments/cost-models/study.py --boards nominal     # through the agent, the sensor, rig.collect

The boards of the reported table are the nominal one, perturbed seeds 0 to 9, and both again with the surprise effect.
Everything was tuned on the nominal board and on seeds 101 to 104 only.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from campaign import direct_rows, real_rows
from subjects import evaluation_networks

from device_agents.records import Configuration
from device_agents.virtual_board.physics import BoardModel
from power_models.kernel_cost import KernelCostModel
from power_models.network_check import NetworkRow, learn_from_networks
from power_models.validate import Prediction, by_family, predict_networks, predict_rows, summarize, to_json
from rig.workloads.grid import design

HERE = Path(__file__).parent
REPORTED = ["nominal", *map(str, range(10)), "nominal+surprise", *(f"{seed}+surprise" for seed in range(10))]


def board_of(name: str) -> BoardModel:
    """``nominal`` or a seed of a perturbed board, with ``+surprise`` for the effect that the features do not know."""
    base, _, surprise = name.partition("+")
    board = BoardModel.load("pi4", surprise=bool(surprise))
    return board if base == "nominal" else board.perturbed(int(base))


def study_board(name: str, networks: dict, kernels: int, held_out: int, drawn: int, direct: bool) -> dict:
    """One campaign, one model, its errors."""
    board = board_of(name)
    seed = 500 + sum(map(ord, name))
    training = design(kernels, seed)
    known = set(training) | {spec for specs in networks.values() for spec in specs}
    # The design comes family by family: what is held out is drawn from all of it.
    fresh = [spec for spec in design(2 * held_out, seed + 50_000) if spec not in known]
    fresh = random.Random(seed).sample(fresh, min(held_out, len(fresh)))
    if direct:
        campaign, rest = direct_rows(name, board, training, seed, drawn), direct_rows(name, board, fresh, seed + 1)
    else:
        campaign, rest = real_rows(name, training, seed, drawn), real_rows(name, fresh, seed + 1)
    configuration = Configuration("virtual-pi4", name, "virtual", "1", 4, False, "nominal", "board_input")
    started = time.process_time()
    rows = [row._replace(configuration=None) for row in campaign.rows]
    model = KernelCostModel.fit(rows, configuration, "simulated", overhead=campaign.overhead)
    model = learn_from_networks(model, campaign.networks)
    seconds = time.process_time() - started
    truth = [NetworkRow(n, specs, *board.inference_cost(specs)) for n, specs in networks.items()]
    return {
        "fit_cpu_s": seconds,
        "rows": len(rows),
        "kernels": predict_rows(model, rest.rows),
        "networks": predict_networks(model, truth),
        "network_widths": model.network_widths,
        "chosen": {n: [m.latency.names, m.energy.names if m.energy else None] for n, m in model.models.items()},
    }


def main() -> None:
    """Run the boards asked for, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direct", action="store_true", help="rows from the physics plus noise, not through the agent")
    parser.add_argument("--boards", nargs="+", default=REPORTED)
    parser.add_argument("--kernels", type=int, default=440)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--networks", type=int, default=30, help="drawn networks measured whole in a campaign")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    networks = evaluation_networks()
    boards = {}
    kept: dict[str, list[dict]] = {"plain": [], "surprise": []}
    for name in options.boards:
        found = study_board(name, networks, options.kernels, options.held_out, options.networks, options.direct)
        kept["surprise" if "surprise" in name else "plain"].append(found)
        boards[name] = _board_json(found)
        print(_line(name, boards[name]), flush=True)
    groups = {tail: _group(found) for tail, found in kept.items() if found}
    print(json.dumps(groups, indent=1))
    result = {
        "kind": "simulated",
        "rows_from": "physics plus noise" if options.direct else "agent, virtual sensor, rig.collect.collector",
        "kernels_a_campaign": options.kernels,
        "networks_a_campaign": options.networks,
        "groups": groups,
        "boards": boards,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _board_json(found: dict) -> dict:
    kernels = {quantity: to_json(by_family(own)) for quantity, own in found["kernels"].items()}
    networks = {
        quantity: {p.name: _network(p) for p in predictions} for quantity, predictions in found["networks"].items()
    }
    return {k: found[k] for k in ("fit_cpu_s", "rows", "network_widths", "chosen")} | {
        "kernels": kernels,
        "networks": networks,
    }


def _network(p: Prediction) -> dict:
    inside = p.lo <= p.measured <= p.hi
    return {
        "error": p.predicted / p.measured - 1,
        "lo": p.lo / p.measured - 1,
        "hi": p.hi / p.measured - 1,
        "in": inside,
    }


def _group(found: list[dict]) -> dict:
    """Errors and coverage over all boards of a group."""
    table: dict[str, dict] = {}
    for what in ("kernels", "networks"):
        for quantity in ("latency_s", "energy_active_j"):
            everything = [p for one in found for p in one[what][quantity]]
            table[f"{what} {quantity}"] = dict(summarize(everything)._asdict())
    table["network scores"] = {
        "latency_s": _scores([p for one in found for p in one["networks"]["latency_s"]]),
        "energy_active_j": _scores([p for one in found for p in one["networks"]["energy_active_j"]]),
    }
    per_board = [summarize(one["kernels"]["latency_s"]).median for one in found]
    table["worst board, kernels latency_s, median"] = {"median": float(np.max(per_board))}
    return table


def _scores(predictions: list[Prediction]) -> float:
    """Root mean square of log error over log half-width: 1/1.96 where the intervals are just wide enough."""
    scores = [np.log(p.predicted / p.measured) / np.log(p.hi / p.predicted) for p in predictions]
    return float(np.sqrt(np.mean(np.square(scores))))


def _line(name: str, about: dict) -> str:
    parts = [f"{name:18s} fit {about['fit_cpu_s']:.0f} s"]
    for quantity in ("latency_s", "energy_active_j"):
        kernels = about["kernels"][quantity]["all"]
        errors = {n: own["error"] for n, own in about["networks"][quantity].items()}
        worst = max(errors, key=lambda n: abs(errors[n]))
        inside = sum(own["in"] for own in about["networks"][quantity].values())
        parts.append(
            f"{quantity}: kernels median {kernels['median']:.3f} cover {kernels['coverage']:.3f}"
            f" width x{kernels['width']:.2f},"
            f" networks worst {errors[worst]:+.3f} ({worst}) in {inside}/{len(errors)}"
        )
    return " | ".join(parts)


if __name__ == "__main__":
    main()
