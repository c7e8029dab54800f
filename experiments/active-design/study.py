"""How many kernels must be measured until unseen networks of a search space are priced within 5 % and 3 %?

SIMULATED: the board is virtual-pi4's physics (or a sibling with perturbed constants) plus measuring noise. All
strategies have the same board, the same search space, the same regressors (``regressors.py``) and are judged on the
same networks, which nobody chose from.

    python experiments/active-design/study.py --boards nominal 0 1 2 0+surprise --seeds 3 --out simulated.json
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "cost-models"))

from campaign import direct_rows
from regressors import FixedModel
from strategies import NnMeter, Ours, Sobol, grid_of, random_of, zoo_kernels
from study_boards import board_of

from device_agents.records import Configuration, KernelSpec
from device_agents.virtual_board.physics import BoardModel
from power_models.kernel_cost import KernelCostModel, KernelRow
from power_models.kernels import KernelNode, kernel_graph
from rig.collect.search_space import SearchSpace
from rig.workloads.families import rough_seconds

COUNTS = (8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)
STRATEGIES = ("ours", "random", "grid", "sobol", "nn-meter", "nn-meter-near")
CONFIGURATION = Configuration("virtual-pi4", "study", "virtual", "1", 4, False, "nominal", "board_input")
TARGETS, JUDGED = 48, 60
LEVELS = (0.05, 0.03)


def seed_network(name: str) -> list[KernelNode]:
    """The kernels of a network for one-channel 28×28 images."""
    import torch

    from rig.compression.networks import build

    buffer = io.BytesIO()
    torch.onnx.export(build(name).eval(), (torch.zeros(1, 1, 28, 28),), buffer, dynamo=False, opset_version=17)
    return kernel_graph(onnx.load_from_string(buffer.getvalue()), "virtual")


def drawn(spaces: Sequence[SearchSpace], count: int, seed: int) -> list[list[KernelSpec]]:
    """Networks of the spaces in turn, as kernels."""
    lists = [space.draw(count, seed) for space in spaces]
    return [[node.spec for node in lists[i % len(spaces)][i]] for i in range(count)]


class Trial:
    """One board, one seed: what the strategies share."""

    def __init__(self, board: BoardModel, spaces: Sequence[SearchSpace], seed: int, product: bool) -> None:
        self.board, self.seed, self.product = board, seed, product
        self.targets = drawn(spaces, TARGETS, 1000 + seed)
        self.kinds = sorted({spec.kind for network in self.targets for spec in network})
        self.around = [node.spec for space in spaces for node in space.nodes]
        judged = drawn(spaces, JUDGED, 5000 + seed)
        self.distinct = list(dict.fromkeys(spec for network in judged for spec in network))
        place = {spec: i for i, spec in enumerate(self.distinct)}
        self.counts = np.zeros((len(judged), len(self.distinct)))
        for row, network in zip(self.counts, judged, strict=True):
            np.add.at(row, [place[spec] for spec in network], 1.0)
        self.truth = np.array([board.inference_cost(specs) for specs in judged])

    def measure(self, kernels: Sequence[KernelSpec]) -> list[KernelRow]:
        """Each kernel's cost with noise; the same kernel gives the same row in every strategy."""
        rows = []
        for spec in kernels:
            digest = hashlib.sha256(repr((self.seed, tuple(spec))).encode()).digest()
            noise = int.from_bytes(digest[:7], "little")
            rows += direct_rows(spec.label, self.board, [spec], noise).rows
        return [row._replace(group=f"{row.group}-{i}") for i, row in enumerate(rows)]

    def fit(self, rows: Sequence[KernelRow]) -> FixedModel | ProductModel:
        """The regressors that all strategies have."""
        return (ProductModel if self.product else FixedModel)(rows, self.board.inference_cost([]))

    def split_errors(self, rows: Sequence[KernelRow]) -> np.ndarray:
        """|relative error| of a fifth of the rows, predicted by the others; 0 of the others (nn-Meter's builder)."""
        order = np.random.default_rng(10).permutation(len(rows))
        test, train = order[: max(len(rows) // 5, 1)], order[max(len(rows) // 5, 1) :]
        model, errors = self.fit([rows[i] for i in train]), np.zeros(len(rows))
        priced = [i for i in test if rows[i].kernel.kind in model.known]
        if priced:
            found = model.costs([rows[i].kernel for i in priced])[:, 0]
            errors[priced] = np.abs(found / np.array([rows[i].latency_s for i in priced]) - 1)
        return errors

    def judge(self, model: FixedModel | ProductModel) -> tuple[float, float]:
        """Mean absolute relative errors of unseen networks (latency, active energy); 1 where a kind is unknown."""
        if not set(self.kinds) <= model.known:
            return 1.0, 1.0
        prices = model.costs(self.distinct)
        totals = self.counts @ prices + np.array(model.overhead)
        latency, energy = np.abs(totals / self.truth - 1).mean(axis=0)
        return float(latency), float(energy)


class ProductModel:
    """What ``rig calibrate`` fits, under the same interface."""

    def __init__(self, rows: Sequence[KernelRow], overhead: tuple[float, float]) -> None:
        own = [row._replace(configuration=None) for row in rows]
        self.model = KernelCostModel.fit(own, CONFIGURATION, "simulated", overhead=overhead)
        self.overhead, self.known = overhead, {kind for kind, _ in self.model.known_kinds}

    def costs(self, kernels: Sequence[KernelSpec]) -> np.ndarray:
        """(seconds, joules) (n, 2)."""
        found = self.model.predict(kernels)
        return np.stack([found.latency_s, found.energy_j], 1)


def run_strategy(trial: Trial, name: str, counts: Sequence[int]) -> dict[str, list[float]]:
    """Errors at each number of measured kernels."""
    nearby = [spec for network in trial.targets for spec in network]
    chooser = {
        "ours": lambda: Ours(trial.targets, trial.seed),
        "random": lambda: random_of(trial.targets, trial.seed),
        "grid": lambda: grid_of(trial.kinds, trial.seed, max(counts)),
        "sobol": lambda: Sobol(trial.kinds, trial.around, trial.seed),
        "nn-meter": lambda: NnMeter(
            zoo_kernels(trial.kinds) + _lacking(nearby, trial), trial.seed, trial.split_errors, False
        ),
        "nn-meter-near": lambda: NnMeter(nearby, trial.seed, trial.split_errors, True),
    }[name]()
    rows: list[KernelRow] = []
    model: FixedModel | ProductModel | None = None
    found: dict[str, list[float]] = {"latency_s": [], "energy_active_j": []}
    for count in counts:
        if isinstance(chooser, Sobol):
            rows = trial.measure(chooser.whole(count))
        else:
            price = None if model is None else _price(model)
            rows += trial.measure(chooser.next(rows, count - len(rows), price))
        model = trial.fit(rows)
        for errors, error in zip(found.values(), trial.judge(model), strict=True):
            errors.append(error)
    return found


def _lacking(nearby: Sequence[KernelSpec], trial: Trial) -> list[KernelSpec]:
    """Kinds that the zoo has not: taken from the search space."""
    have = {spec.kind for spec in zoo_kernels(trial.kinds)}
    return [spec for spec in nearby if spec.kind not in have]


def _price(model: FixedModel | ProductModel) -> Callable[[Sequence[KernelSpec]], np.ndarray]:
    def seconds(specs: Sequence[KernelSpec]) -> np.ndarray:
        cost = np.array([rough_seconds(spec) for spec in specs])
        priced = [i for i, spec in enumerate(specs) if spec.kind in model.known]
        cost[priced] = model.costs([specs[i] for i in priced])[:, 0]
        return cost

    return seconds


def needed(counts: Sequence[int], errors: Sequence[float], level: float) -> float | None:
    """The number from which on the error stays at or below ``level``; None where it never does."""
    below = [error <= level for error in errors]
    for i in range(len(counts)):
        if all(below[i:]):
            return float(counts[i])
    return None


def main() -> None:
    """Run, print a line a strategy and trial, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", nargs="+", default=["nominal", "0", "1"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=["resnet20", "mobilenetv2"])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--product", action="store_true", help="the product's own fit instead of the fixed regressors")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    spaces = [SearchSpace.of(seed_network(name)) for name in options.networks]
    trials = json.loads(options.out.read_text())["trials"] if options.out and options.out.exists() else []
    done = {(trial["board"], trial["seed"], trial["strategy"]) for trial in trials}
    for name in options.boards:
        for seed in range(options.seeds):
            trial = Trial(board_of(name), spaces, seed, options.product)
            for strategy in options.strategies:
                if (name, seed, strategy) in done:
                    continue
                began = time.process_time()
                errors = run_strategy(trial, strategy, options.counts)
                worst = [max(pair) for pair in zip(*errors.values(), strict=True)]
                about = {f"{100 * level:g} %": needed(options.counts, worst, level) for level in LEVELS}
                trials.append({"board": name, "seed": seed, "strategy": strategy, "errors": errors, "needed": about})
                line = " ".join(f"{100 * e:.1f}" for e in worst)
                print(
                    f"{name} {seed} {strategy:14s} {about} | {line} | {time.process_time() - began:.0f} s", flush=True
                )
                if options.out:
                    result = {
                        "kind": "simulated",
                        "networks": options.networks,
                        "counts": options.counts,
                        "trials": trials,
                    }
                    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
