"""How far a family that is fitted to one or two of its rows is off: the scale where no other family tells.

    python benchmarks/few_rows.py TABLE.csv…

For every family of the tables and of the simulated board, one line: median, mean and 95 % quantile
of |log error| over rows that were not fitted, and the error scale (``intervals.ErrorScale``) made of them; at the end
the medians over the families, of which ``power_models.few_rows.ALONE`` is made.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from device_agents.virtual_board.physics import BoardModel
from power_models.few_rows import _scale, _tries
from power_models.fitting import _grouped, _prepare
from power_models.intervals import ErrorScale
from power_models.kernel_cost import KernelRow
from power_models.measured_tables import read_table
from power_models.table_fit import kernel_rows
from rig.workloads.grid import design

LEAST = 12  # rows of a family that is tried
KERNELS = 400
FIELDS = ("near", "slope", "up", "down", "rms_up", "rms_down", "share")


def simulated_rows() -> list[KernelRow]:
    """Kernels of the simulated board, without noise."""
    board, found = BoardModel.load("pi4"), []
    for number, spec in enumerate(design(KERNELS, 0)):
        seconds, joules = board.kernel_cost(spec)
        found.append(KernelRow(spec, seconds, 0.0, joules, 0.0, "chain", str(number)))
    return found


def scales(name: str, rows: list[KernelRow]) -> Iterator[tuple[str, int, str, np.ndarray, ErrorScale]]:
    """By family, number of rows fitted and quantity: |log errors| and their scale."""
    for family, members in sorted(_grouped(rows).items()):
        if len(members) < LEAST:
            continue
        prepared = _prepare(members)
        for count in (1, 2):
            tries = _tries(family, prepared, count)
            for quantity in ("latency", "energy"):
                told = [(own[quantity], own["distance"]) for own in tries if np.isfinite(own[quantity]).all()]
                told = [one for one in told if len(one[0])]
                if told:
                    size = np.abs(np.concatenate([errors for errors, _ in told]))
                    yield f"{name} {family}", count, quantity, size, _scale(told)


def main() -> None:
    """Print a line a family, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path)
    asked = parser.parse_args()
    sets = {path.name.split(".")[0]: kernel_rows(read_table(path).kernels) for path in asked.tables}
    sets["simulated"] = simulated_rows()
    found = []
    for name, rows in sets.items():
        for family, count, quantity, size, scale in scales(name, rows):
            found.append(scale)
            errors = f"median {np.median(size):.2f} mean {size.mean():.2f} P95 {np.quantile(size, 0.95):.2f}"
            print(f"{family}, {count} rows, {quantity}: {errors};", *(f"{f} {getattr(scale, f):.2f}" for f in FIELDS))
    print("median:", *(f"{field} {np.median([getattr(one, field) for one in found]):.2f}" for field in FIELDS))


if __name__ == "__main__":
    main()
