"""Errors of the cost models on measured tables, by the protocols of the project's targets, beside every reference.

    python experiments/real-tables/study.py run TABLE… [--splits 10] [--protocols folds family …] [--levels N]
    python experiments/real-tables/study.py table

``run`` does what is missing, one unit at a time, each stored in ``results/`` as it is done: a split of five folds
(``folds``, seeds 0, 1, …), a family of networks or a level of a column left out (``family``, ``levels``); ``transfer``
leaves a family out too, but starts from the other board's model, fitted to all networks of another table that is given.
``table`` writes the tables of README.md from what is stored. Kernel tables have the protocols folds and levels, network
tables folds, family and transfer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import summary

from device_agents.records import Configuration
from power_models.code_digest import code_digest
from power_models.composition import CompositionModel
from power_models.cross_validation import HeldOut, fit_tables, hold_out, pooled
from power_models.evaluation import FEWEST, Predicted, Row
from power_models.measured_tables import MeasuredTable, TableKernel, read_table
from power_models.table_fit import fit_rows
from power_models.table_folds import MOST_LEVELS, Fold, level_folds, levels, random_folds

HERE = Path(__file__).parent
RESULTS = HERE / "results"
FOLDS = 5
LEVEL_COLUMNS = ("in_channels", "out_channels", "in_height", "kernel_h")
SLOW_S = 0.010  # kernels shorter than this carry the error of the TX2's own sensor (data's README)
PROTOCOLS = ("folds", "family", "transfer", "levels")
CODE = code_digest()  # of what fits and predicts, as it was when this began


class Unit(NamedTuple):
    """What is done and stored at once: folds of one table."""

    table: MeasuredTable
    rows: list[Row]
    protocol: str
    name: str
    folds: list[Fold]
    base: MeasuredTable | None = None

    @property
    def file(self) -> Path:
        """Where its scores are stored."""
        return RESULTS / f"{stem(self.table.path)}--{self.protocol}--{self.name}.json"


def stem(path: Path) -> str:
    """The table's name without its endings."""
    return path.name.split(".")[0]


def units(
    table: MeasuredTable,
    splits: int,
    protocols: Sequence[str],
    most_levels: int | None,
    base: MeasuredTable | None = None,
) -> Iterator[Unit]:
    """Every unit of a table, cheapest protocols first; ``base``: the table of a similar board."""
    rows: list[Row] = [*table.kernels, *table.networks]
    if "folds" in protocols:
        for seed in range(splits):
            yield Unit(table, rows, "folds", str(seed), random_folds(rows, FOLDS, seed))
    if "family" in protocols and table.networks and len({row.family for row in table.networks}) > 1:
        for fold in level_folds(rows, "family", FOLDS, 0):
            yield Unit(table, rows, "family", fold.label.partition("=")[2], [fold])
    if "transfer" in protocols and base is not None:
        for fold in level_folds(rows, "family", FOLDS, 0):
            yield Unit(table, rows, "transfer", fold.label.partition("=")[2], [fold], base)
    if "levels" in protocols and table.kernels:
        for column in LEVEL_COLUMNS:
            if 1 < len(set(levels(rows, column).tolist())) <= MOST_LEVELS:
                yield from _levels(table, rows, column, most_levels)


def _levels(table: MeasuredTable, rows: list[Row], column: str, most: int | None) -> Iterator[Unit]:
    """The levels of a column, or an even choice of so many of them."""
    folds = level_folds(rows, column, FOLDS, 0)
    chosen = np.unique(np.linspace(0, len(folds) - 1, min(most or len(folds), len(folds))).round().astype(int))
    for place in chosen.tolist():
        yield Unit(table, rows, "levels", folds[place].label.replace("=", "-"), [folds[place]])


def do(unit: Unit, references: bool = True) -> dict[str, Any]:
    """Fit, predict and score a unit."""
    began_s = time.perf_counter()
    fit = fit_tables(unknown(unit.table), base=None if unit.base is None else base_model(unit.base))
    made = [hold_out(unit.rows, fold, fit, references) for fold in unit.folds]
    found = {"all": pooled(unit.rows, made)}
    slow = [i for i, row in enumerate(unit.rows) if isinstance(row, TableKernel) and row.latency_s >= SLOW_S]
    if slow and len(slow) < len(unit.rows):
        found["slow"] = pooled(unit.rows, [_only(one, set(slow)) for one in made])
    for name, few in _few_of_a_type(unit).items():  # parts that are too small for ``rig evaluate`` to tell
        found[name] = pooled(unit.rows, [_only(one, few) for one in made])
    methods: dict[str, Any] = {}
    for whole, scores in found.items():
        for method, quantities in scores.items():
            for quantity, parts in quantities.items():
                own = methods.setdefault(method, {}).setdefault(quantity, {})
                kept = parts if whole == "all" else {whole: parts["all"]}
                own.update({part: _rounded(one._asdict()) for part, one in kept.items()})
    return {
        "table": stem(unit.table.path),
        "sha256": unit.table.sha256,
        "protocol": unit.protocol,
        "unit": unit.name,
        "code": CODE,
        "rows": len(unit.rows),
        "seconds": round(time.perf_counter() - began_s, 1),
        "fit_s": [round(one.fit_s, 1) for one in made],
        "methods": methods,
    }


def _few_of_a_type(unit: Unit) -> dict[str, set[int]]:
    """The rows of a data type of which fewer than FEWEST are held out, by the name of the part."""
    by_type: dict[str, set[int]] = {}
    for place in (int(i) for fold in unit.folds for i in fold.rows):
        by_type.setdefault(f"dtype={unit.rows[place].dtype}", set()).add(place)
    return {name: own for name, own in by_type.items() if len(own) < FEWEST}


def unknown(table: MeasuredTable) -> Configuration:
    """A configuration of which nothing but the table's name is known."""
    return Configuration(stem(table.path), "", "", "", 0, False, "", "")


_BASES: dict[Path, CompositionModel] = {}


def base_model(table: MeasuredTable) -> CompositionModel:
    """The model of the similar board, fitted to its whole table, once."""
    if table.path not in _BASES:
        model = fit_rows(table.networks, unknown(table), "imported")
        assert isinstance(model, CompositionModel)
        _BASES[table.path] = model
    return _BASES[table.path]


def similar(table: MeasuredTable, tables: Sequence[MeasuredTable]) -> MeasuredTable | None:
    """Another of the tables whose networks are of the same families."""
    families = {row.family for row in table.networks}
    for other in tables:
        if other is not table and families and {row.family for row in other.networks} == families:
            return other
    return None


def _only(one: HeldOut, kept: set[int]) -> HeldOut:
    """The predictions of some of the rows."""
    place = np.array([i for i, row in enumerate(one.rows) if row in kept], dtype=np.intp)
    predicted = {
        method: {quantity: own.take(place) if len(place) else Predicted.none(0) for quantity, own in found.items()}
        for method, found in one.predicted.items()
    }
    return HeldOut(one.label, [one.rows[i] for i in place.tolist()], predicted, one.fit_s)


def _rounded(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in scores.items()}


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="do what is missing")
    run.add_argument("tables", nargs="+", type=Path)
    run.add_argument("--splits", type=int, default=10)
    run.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    run.add_argument("--levels", type=int, default=None, help="at most so many levels a column, evenly chosen")
    run.add_argument("--reference-splits", type=int, default=None, help="references in so many of the splits only")
    run.add_argument("--again", action="store_true", help="also what is stored already")
    commands.add_parser("table", help="write the tables of README.md")
    asked = parser.parse_args()
    if asked.command == "run":
        RESULTS.mkdir(exist_ok=True)
        tables = [read_table(path) for path in asked.tables]
        for table in tables:
            for unit in units(table, asked.splits, asked.protocols, asked.levels, similar(table, tables)):
                if asked.again or not unit.file.exists():
                    few = asked.reference_splits
                    result = do(unit, references=unit.protocol != "folds" or few is None or int(unit.name) < few)
                    new = unit.file.with_suffix(".new")
                    new.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                    new.replace(unit.file)
                    print(unit.file.name, summary.short(result), flush=True)
    print(summary.write_readme(RESULTS, HERE / "README.md"))


if __name__ == "__main__":
    main()
