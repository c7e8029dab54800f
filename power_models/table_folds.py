"""Which rows of measured tables are held out together: random folds, or the levels of a column left out in turn."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_models.evaluation import Index, Row, size_fifths
from power_models.measured_tables import TableKernel

MOST_LEVELS = 16  # with more, whole levels are dealt into folds: leaving out each would take as many fits


class Fold(NamedTuple):
    """Rows that are held out together (their places), and what they are."""

    label: str
    rows: Index


def random_folds(rows: Sequence[Row], folds: int, seed: int) -> list[Fold]:
    """Disjoint folds that cover the rows; equal kernels (or kernel lists) never straddle two."""
    members: dict[object, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        members[row.kernels].append(i)
    return _dealt(list(members.values()), folds, seed)


def level_folds(rows: Sequence[Row], column: str, folds: int, seed: int) -> list[Fold]:
    """Whole levels of a column held out: each in turn, or dealt into ``folds`` where there are more than MOST_LEVELS.

    Raises ValueError for a column that the rows do not have (naming those they have), or one with a single level.
    """
    values = levels(rows, column)
    members = {level: np.flatnonzero(values == level).tolist() for level in in_order(values.tolist())}
    if len(members) < 2:
        raise ValueError(f"column {column} has one level only ({next(iter(members), 'none')}): nothing to leave out")
    if len(members) > MOST_LEVELS:
        return _dealt(list(members.values()), folds, seed)
    return [Fold(f"{column}={level}", np.array(index, dtype=np.intp)) for level, index in members.items()]


def _dealt(blocks: Sequence[Sequence[int]], folds: int, seed: int) -> list[Fold]:
    if not 2 <= folds <= len(blocks):
        raise ValueError(f"{folds} folds of {len(blocks)} rows that differ: give between 2 and {len(blocks)} folds")
    dealt: list[list[int]] = [[] for _ in range(folds)]
    for position in np.random.default_rng(seed).permutation(len(blocks)):
        min(dealt, key=len).extend(blocks[position])
    return [Fold(f"fold {i + 1}", np.array(sorted(fold), dtype=np.intp)) for i, fold in enumerate(dealt)]


def in_order(values: Iterable[str]) -> list[str]:
    """The distinct levels, the numbers in them by size: 1x1, 3x3, 11x11."""
    return sorted(set(values), key=_natural)


def _natural(level: str) -> list[tuple[float, str]]:
    parts = re.split(r"(\d+(?:\.\d+)?)", level)
    return [(float(part), "") if i % 2 else (-1.0, part) for i, part in enumerate(parts)]


def levels(rows: Sequence[Row], column: str) -> NDArray[np.str_]:
    """The level of each row (n,) in a column.

    ``family`` and any column of the table; of kernels also every field of a kernel, ``kernel_size`` (height × width)
    and ``size`` (fifths by MACs). Raises ValueError naming the columns there are.
    """
    if column == "size":
        return size_fifths(rows)
    found = [_level(row, column) for row in rows]
    if None in found:
        raise ValueError(f"no column {column} to group by; have: {', '.join(columns_of(rows))}")
    return np.array([str(level) for level in found])


def _level(row: Row, column: str) -> str | None:
    if isinstance(row, TableKernel):
        if column == "kernel_size":
            return f"{row.kernel.kernel_h}x{row.kernel.kernel_w}"
        if column in row.kernel._fields:
            return str(getattr(row.kernel, column))
    elif column in ("name", "family", "device", "dtype", "source"):
        return str(getattr(row, column))
    return row.columns.get(column)


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The columns by which these rows can be grouped."""
    if all(isinstance(row, TableKernel) for row in rows):
        own = ["kernel_size", "size", *(row_field for row in rows[:1] for row_field in row.kernels[0]._fields)]
    else:
        own = ["family", "size", "dtype", "device", "name"]
    return list(dict.fromkeys([*own, *(name for row in rows[:1] for name in row.columns)]))
