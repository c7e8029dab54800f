"""Memory and time of fitting a table of many kernels, and of holding a fifth of them out beside every reference.

    python benchmarks/large_table.py [--rows 20000] [--energy] [--references]

The table is SIMULATED: convolutions of random sizes, of one family, priced by the simulated board's physics with
2 % of noise. Each figure is of a process of its own: memory is the most that it ever had, of which what it had
before the fit is told as ``before``; seconds are by the clock and by the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import resource
import time
from multiprocessing.connection import Connection

import numpy as np

from device_agents.records import Configuration, KernelSpec
from device_agents.virtual_board.physics import BoardModel
from power_models.cross_validation import OURS, fit_tables, hold_out
from power_models.evaluation import Row, measured
from power_models.measured_tables import TableKernel
from power_models.table_folds import random_folds

NOISE = 0.02
WHERE = Configuration("virtual-pi4", "", "virtual", "", 4, False, "", "board_input")


def table(count: int, energy: bool) -> list[Row]:
    """So many convolutions, each once."""
    rng, board = random.Random(0), BoardModel.load("pi4")
    specs: dict[KernelSpec, None] = {}
    while len(specs) < count:
        c_in, c_out = (round(math.exp(rng.uniform(math.log(4), math.log(512)))) for _ in range(2))
        size, side = rng.randrange(7, 113), rng.choice((3, 5, 7))
        specs[KernelSpec("conv", 1, c_in, size, size, c_out, size, size, side, side, 1, side // 2)] = None
    found: list[Row] = []
    for line, spec in enumerate(specs, 2):
        seconds, joules = (value * rng.gauss(1.0, NOISE) for value in board.kernel_cost(spec))
        power = {"power_w": joules / seconds, "energy_j": joules} if energy else {"power_w": None, "energy_j": None}
        found.append(TableKernel(spec, seconds, idle_power_w=None, line=line, **power))
    return found


def work(count: int, energy: bool, references: bool, answer: Connection) -> None:
    """One fold of five, and what it took."""
    rows = table(count, energy)
    fold = random_folds(rows, 5, 0)[0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s, busy_s = time.perf_counter(), time.process_time()
    found = {}
    made = hold_out(rows, fold, fit_tables(WHERE, "simulated"), references)
    test = [rows[i] for i in made.rows]
    for method, quantities in made.predicted.items():
        own = quantities["latency_s"].value
        found[method] = round(100 * float(np.nanmean(np.abs(own / measured(test, "latency_s") - 1))), 2)
    assert OURS in found
    answer.send(
        {
            "rows": count,
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "before_mb": round(before / 1024),
            "seconds": round(time.perf_counter() - began_s, 1),
            "processor_s": round(time.process_time() - busy_s, 1),
            "latency_mape_percent": found,
        }
    )


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000])
    parser.add_argument("--energy", action="store_true", help="the table holds energies too")
    parser.add_argument("--references", action="store_true", help="the references too")
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")  # its memory begins anew
    for count in asked.rows:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(count, asked.energy, asked.references, sender))
        process.start()
        sender.close()
        print(json.dumps({"kind": "simulated", "energy": asked.energy, **receiver.recv()}), flush=True)
        process.join()


if __name__ == "__main__":
    main()
