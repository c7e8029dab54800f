"""Which rows of a real table of kernels must be measured until the others are known?

Real measurements: the table stands for the device, measuring is looking a row up. A fifth of the rows is judged on and
never chosen; all strategies have the same regressors (``regressors.py``).

    python experiments/active-design/tables_study.py ../shared/data/kernels/tx2_gpu_conv.csv \
        ../shared/data/kernels/tx2_cpu_conv.csv --seeds 3 --out experiments/active-design/tables.json

nn-Meter's neighbours are the rows nearest in channels among those that share everything else (a table has no others);
its prior is the table's own distribution. Space-filling: the row furthest from all chosen ones (standardized features).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from regressors import FixedModel

from power_models.design import Surveyor, Totals, prior_of_rows
from power_models.kernel_cost import KernelRow
from power_models.kernel_process import FeatureSpace
from power_models.measured_tables import read_table
from power_models.table_fit import kernel_rows

COUNTS = (25, 50, 75, 100, 150, 200, 300, 400)
LARGE_ERROR, NEIGHBOURS, FIRST = 0.1, 4, 50
TARGETS = 300
STRATEGIES = ("ours", "random", "space-filling", "nn-meter")


class Pool:
    """Rows to choose from, and rows to judge on."""

    def __init__(self, rows: Sequence[KernelRow], seed: int) -> None:
        self.random = np.random.default_rng(seed)
        order = self.random.permutation(len(rows))
        fifth = len(rows) // 5
        self.judged = [rows[i] for i in order[:fifth]]
        self.rows = [rows[i] for i in order[fifth:]]
        self.truth = np.array([[row.latency_s, row.energy_active_j] for row in self.judged])

    def judge(self, model: FixedModel) -> list[float]:
        """Mean absolute relative errors of latency and energy."""
        found = model.costs([row.kernel for row in self.judged])
        return [float(e) for e in np.abs(found / self.truth - 1).mean(axis=0)]


def ours(pool: Pool, taken: list[int], count: int) -> list[int]:
    """I-optimal for the rows of the pool, each weighing alike."""
    chosen = [pool.rows[i] for i in taken]
    prior = prior_of_rows([r.kernel for r in chosen], np.log([r.latency_s for r in chosen]))
    targets = [pool.rows[i].kernel for i in np.random.default_rng(1).permutation(len(pool.rows))[:TARGETS]]
    left = [i for i in range(len(pool.rows)) if i not in set(taken)]
    totals = Totals(targets, np.eye(len(targets)))
    surveyor = Surveyor(prior, totals, [pool.rows[i].kernel for i in left], [r.kernel for r in chosen])
    return [left[i] for i in surveyor.choose(count).places]


def space_filling(pool: Pool, taken: list[int], count: int) -> list[int]:
    """The furthest row from all chosen ones, again and again (Kennard and Stone 1969)."""
    table = FeatureSpace.of([row.kernel for row in pool.rows]).points([row.kernel for row in pool.rows]).table
    found = list(taken) or [int(np.argmin((table**2).sum(1)))]
    nearest = np.min([((table - table[i]) ** 2).sum(1) for i in found], axis=0)
    while len(found) < len(taken) + count:
        found.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, ((table - table[found[-1]]) ** 2).sum(1))
    return found[len(taken) :]


def nn_meter(pool: Pool, taken: list[int], count: int) -> list[int]:
    """Rows near those with large errors in a held-out fifth, then at random."""
    found: list[int] = []
    if len(taken) >= FIRST:
        order = np.random.default_rng(10).permutation(len(taken))
        test, train = order[: len(taken) // 5], order[len(taken) // 5 :]
        model = FixedModel([pool.rows[taken[i]] for i in train], (0.0, 0.0))
        rows = [pool.rows[taken[i]] for i in test]
        errors = np.abs(model.costs([r.kernel for r in rows])[:, 0] / [r.latency_s for r in rows] - 1)
        for i in np.argsort(-errors):
            if errors[i] > LARGE_ERROR:
                found += [j for j in neighbours(pool, taken[test[i]]) if j not in taken and j not in found]
    rest = [int(i) for i in pool.random.permutation(len(pool.rows)) if i not in taken and i not in found]
    return [*found, *rest][:count]


def neighbours(pool: Pool, position: int) -> list[int]:
    """Rows that differ in channels only, by 0.5 to 1.2 times where there are such, the nearest first."""
    spec = pool.rows[position].kernel
    same = [
        i
        for i, row in enumerate(pool.rows)
        if i != position
        and row.kernel._replace(in_channels=0, out_channels=0) == spec._replace(in_channels=0, out_channels=0)
    ]

    def distance(i: int) -> float:
        other = pool.rows[i].kernel
        return abs(np.log(other.in_channels / spec.in_channels)) + abs(np.log(other.out_channels / spec.out_channels))

    return sorted(same, key=distance)[:NEIGHBOURS]


def run(pool: Pool, strategy: str, counts: Sequence[int]) -> list[list[float]]:
    """Errors (latency, energy) after each count."""
    taken: list[int] = []
    at_random = [int(i) for i in np.random.default_rng(5).permutation(len(pool.rows))]
    found = []
    for count in counts:
        more = count - len(taken)
        if strategy == "random":
            taken = at_random[:count]
        else:
            choose = {"ours": ours, "space-filling": space_filling, "nn-meter": nn_meter}[strategy]
            taken += choose(pool, taken, more)
        found.append(pool.judge(FixedModel([pool.rows[i] for i in taken], (0.0, 0.0))))
    return found


def main() -> None:
    """Run, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    found = []
    for path in options.tables:
        rows = kernel_rows(read_table(path).kernels)
        for seed in range(options.seeds):
            for strategy in options.strategies:
                began = time.process_time()
                errors = run(Pool(rows, seed), strategy, options.counts)
                found.append({"table": path.name, "seed": seed, "strategy": strategy, "errors": errors})
                line = " ".join(f"{100 * a:.1f}/{100 * b:.1f}" for a, b in errors)
                print(f"{path.name} {seed} {strategy:13s} {line} | {time.process_time() - began:.0f} s", flush=True)
                if options.out:
                    result = {"kind": "imported", "counts": options.counts, "trials": found}
                    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
