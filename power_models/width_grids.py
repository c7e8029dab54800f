"""At which widths a cost table holds prices, and what it says between them.

    narrow axis   every width up to MAX_GRID_POINTS: the table is the model
    wide axis     every width up to 24 or 32, then a few an octave; between two of them the price is taken at the next
                  whole hardware block and interpolated, so that stairs stay stairs

Whether an axis has stairs, and of which block, is chosen by the error on widths drawn from the model; the error that a
table then has is stated on other widths.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

MAX_GRID_POINTS = 96
STAIRS = (1, 4, 8, 16, 32, 64)  # blocks of channels that hardware may run together; 1: no stairs
OCTAVE_LINE, OCTAVE_PLANE = 8, 4  # points an octave, where one axis is tabulated and where both are
DENSE_LINE, DENSE_PLANE = 32, 24
BETTER = 0.98  # a block must better the error of a smaller one by so much


class TableError(NamedTuple):
    """Relative error of table prices against the model, over n prices at widths that no table holds.

    ``mean``, ``worst``: of |table / model − 1|. ``n`` 0: every width that can occur is in a table, and it has none.
    """

    mean: float = 0.0
    worst: float = 0.0
    n: int = 0

    @classmethod
    def of(cls, table: Sequence[float] | Array, model: Sequence[float] | Array) -> TableError:
        """Over pairs of prices; those that the model does not know (nan, or nothing) are left out."""
        found, true = np.asarray(table, dtype=np.float64), np.asarray(model, dtype=np.float64)
        known = np.isfinite(true) & (true > 0)
        if not known.any():
            return cls()
        error = np.abs(found[known] / true[known] - 1.0)
        return cls(float(error.mean()), float(error.max()), int(known.sum()))


def width_grid(largest: int, plane: bool = False) -> Counts:
    """Channel counts to tabulate up to ``largest``; ``plane``: for one of two axes that are tabulated together."""
    if largest <= MAX_GRID_POINTS:
        return np.arange(1, largest + 1, dtype=np.int64)
    points = list(range(1, (DENSE_PLANE if plane else DENSE_LINE) + 1))
    step_share = OCTAVE_PLANE if plane else OCTAVE_LINE
    while points[-1] < largest:
        octave = 1 << (points[-1].bit_length() - 1)  # the power of two at or below
        points.append(points[-1] + max(octave // step_share, 1))
    return np.array([*points[:-1], largest], dtype=np.int64)


def is_dense(grid: Counts) -> bool:
    """Whether every width up to the last is in the grid (or the axis has one value only)."""
    return len(grid) <= 1 or len(grid) == int(grid[-1])


def between(grid: Sequence[int], count: float) -> tuple[int, int, float]:
    """(below, at or above, share of the way) of a count in a grid that starts at no channels; below −1: that origin.

    A count above the grid is its end.
    """
    above = min(bisect_left(grid, count), len(grid) - 1)
    low = grid[above - 1] if above else 0
    share = min((count - low) / (grid[above] - low), 1.0)
    return above - 1, above, share


def whole_blocks(count: int, block: int, most: int) -> int:
    """``count`` filled up to whole blocks, at most ``most``."""
    return min(-(-count // block) * block, most)


def choose_stair(error_of: Callable[[int], float]) -> int:
    """The block whose stairs come nearest to the model; a larger one only where it is clearly better."""
    best, least = 1, error_of(1)
    for block in STAIRS[1:]:
        error = error_of(block)
        if error < BETTER * least:
            best, least = block, error
    return best


def drawn_widths(random: np.random.Generator, grid: Counts, count: int) -> list[int]:
    """Widths between the points of a grid, uniform in their logarithm; empty where there are none."""
    if is_dense(grid):
        return []
    held = set(grid.tolist())
    first = next(i for i in range(1, int(grid[-1])) if i not in held)
    drawn = np.exp(random.uniform(np.log(first), np.log(int(grid[-1])), 4 * count)).astype(int).tolist()
    return [width for width in drawn if width not in held][:count]
