"""Cost of one kernel over its channel counts, tabulated from a cost model: what is asked, stored, and looked up.

draft (grid, two lines, checks) ─► prices, many drafts a call ─► plane of prices ─► stairs by the lines ─► error
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from device_agents.records import KernelSpec
from power_models.sized_kernels import SizedKernel, all_resized, resized, work_of
from power_models.width_grids import (
    Array,
    Counts,
    TableError,
    between,
    choose_stair,
    drawn_widths,
    whole_blocks,
    width_grid,
)

Price = Callable[[Sequence[KernelSpec]], "tuple[Array, Array]"]  # kernels → latency_s (n,), active energy_j (n,)

QUANTITIES = ("latency_s", "energy_active_j", "macs", "params")
COSTS = 2  # of the quantities, those that the model prices; work and parameters are counted
LINE_WIDTHS, CHECKS = 48, 32  # widths drawn to choose a table's stairs by, and to state its error at
PRICED_TOGETHER = 20_000  # kernels


class WidthTable:
    """Costs of one kernel over c_in × c_out.

    ``grid_in`` (i,), ``grid_out`` (o,) ascending channel counts; ``values`` (4, i, o) in the order of QUANTITIES. Where
    input and output change together (``tied``), ``grid_in`` has one entry and only c_out counts. ``stairs``: the blocks
    of channels (in, out) by which costs rise between grid points, 1 where they rise evenly.
    """

    def __init__(
        self, grid_in: Counts, grid_out: Counts, values: Array, tied: bool, stairs: tuple[int, int] = (1, 1)
    ) -> None:
        self.grid_in = grid_in
        self.grid_out = grid_out
        self.values = values
        self.tied = tied
        self.stairs = stairs
        self._rows: list[int] = grid_in.tolist()
        self._columns: list[int] = grid_out.tolist()

    def lookup(self, channels_in: int, channels_out: int, stairs: tuple[int, int] | None = None) -> Array:
        """Costs (4,) with the stairs kept; work and parameters as they are; nothing where a count is zero.

        ``stairs``: others than the table's own. Raises ValueError above the grid: tables are not extrapolated.
        """
        if channels_in <= 0 or channels_out <= 0:
            return np.zeros(len(QUANTITIES))
        _require_inside(self._columns, channels_out)
        if not self.tied:
            _require_inside(self._rows, channels_in)
        block_in, block_out = self.stairs if stairs is None else stairs
        costs = self._at(channels_in, channels_out)
        if block_in > 1 or block_out > 1:
            filled_in = whole_blocks(channels_in, block_in, self._rows[-1])
            filled_out = whole_blocks(channels_out, block_out, self._columns[-1])
            costs[:COSTS] = self._at(
                channels_in if self._held(self._rows, channels_in) else filled_in,
                channels_out if self._held(self._columns, channels_out) else filled_out,
            )[:COSTS]
        return costs

    @staticmethod
    def _held(grid: list[int], count: int) -> bool:
        return grid[between(grid, count)[1]] == count

    def _at(self, channels_in: float, channels_out: float) -> Array:
        """Costs (4,) at real-valued counts: linear between grid points, down to zero at no channels."""
        left, right, share = between(self._columns, channels_out)
        if self.tied:
            return self._mixed(0, left, right, share)
        below, above, part = between(self._rows, channels_in)
        upper = self._mixed(above, left, right, share)
        if part == 1.0:
            return upper
        return (1.0 - part) * self._mixed(below, left, right, share) + part * upper

    def _mixed(self, row: int, left: int, right: int, share: float) -> Array:
        if row < 0:
            return np.zeros(len(QUANTITIES))
        value: Array = share * self.values[:, row, right]
        return value if left < 0 or share == 1.0 else value + (1.0 - share) * self.values[:, row, left]

    def bilinear(self, channels_in: float, channels_out: float, quantity: int) -> float:
        """Cost between grid points; linear down to zero at no channels."""
        return float(self._at(max(channels_in, 0.0), max(channels_out, 0.0))[quantity])


def _require_inside(grid: Sequence[int], count: int) -> None:
    if count > grid[-1]:
        raise ValueError(f"width {count} is beyond the table, which ends at {grid[-1]}")


@dataclass
class Draft:
    """A table before its prices are known: what to ask the model, and which of the answers are what.

    ``lines``: for the choice of stairs, (c_in, c_out) of which the first, or the second, is between grid points.
    ``checks``: widths to state the error at.
    """

    spec: KernelSpec
    tied: bool
    ratio: int
    grid_in: Counts
    grid_out: Counts
    lines: tuple[list[tuple[int, int]], list[tuple[int, int]]]
    checks: list[tuple[int, int]]

    def pairs(self) -> list[tuple[int, int]]:
        """(c_in, c_out) of every price wanted: the grid, the two lines, the checks."""
        plane = [(a, b) for a in self.grid_in.tolist() for b in self.grid_out.tolist()]
        return [*plane, *self.lines[0], *self.lines[1], *self.checks]

    def specs(self) -> list[KernelSpec]:
        """The kernels of ``pairs``."""
        first, second = np.array(self.pairs(), dtype=np.int64).T
        return all_resized(self.spec, second * self.ratio if self.tied else first, second)


def draft_of(kernel: SizedKernel, largest: Mapping[str, int], random: np.random.Generator) -> Draft:
    tied = kernel.channels_in.terms == kernel.channels_out.terms and bool(kernel.channels_out.terms)
    most_in, most_out = kernel.channels_in.at(largest), kernel.channels_out.at(largest)
    plane = bool(kernel.channels_in.terms) and bool(kernel.channels_out.terms) and not tied
    grid_out = width_grid(most_out, plane) if kernel.channels_out.terms else np.array([most_out])
    grid_in = width_grid(most_in, plane) if kernel.channels_in.terms and not tied else np.array([most_in])
    along_in, along_out = (drawn_widths(random, grid, LINE_WIDTHS) for grid in (grid_in, grid_out))
    lines = (
        list(zip(along_in, random.choice(grid_out, len(along_in)).tolist(), strict=True)),
        list(zip(random.choice(grid_in, len(along_out)).tolist(), along_out, strict=True)),
    )
    apart_in, apart_out = (drawn_widths(random, grid, CHECKS) for grid in (grid_in, grid_out))
    first = list(apart_in or [int(grid_in[-1])] * len(apart_out))
    second = list(apart_out or [int(grid_out[-1])] * len(apart_in))
    ratio = max(1, most_in // max(most_out, 1)) if tied else 1
    return Draft(kernel.spec, tied, ratio, grid_in, grid_out, lines, list(zip(first, second, strict=False)))


def table_key(kernel: SizedKernel, largest: Mapping[str, int]) -> tuple[Any, ...]:
    """Kernels with equal keys have equal tables."""
    first, second = kernel.channels_in, kernel.channels_out
    tied = first.terms == second.terms and bool(second.terms)
    return (resized(kernel.spec, 1, 1), tied, first.at(largest), second.at(largest), not first.terms, not second.terms)


class Built(NamedTuple):
    """A table, and (table, model) prices (n, 2) of latency and of energy at the widths of its checks."""

    table: WidthTable
    checked: tuple[Array, Array]


def _build(draft: Draft, specs: Sequence[KernelSpec], latency_s: Array, energy_j: Array) -> Built:
    """The table of a draft: its plane of prices, then the stairs that come nearest to the two lines."""
    size = len(draft.grid_in) * len(draft.grid_out)
    columns = [latency_s[:size], np.nan_to_num(energy_j[:size]), *work_of(draft.spec, specs[:size])]
    values = np.array(columns, dtype=np.float64).reshape(len(QUANTITIES), len(draft.grid_in), len(draft.grid_out))
    table = WidthTable(draft.grid_in, draft.grid_out, values, draft.tied)
    pairs, along = draft.pairs(), (len(draft.lines[0]), len(draft.lines[1]))
    starts = (size, size + along[0])

    def error_on(axis: int, block: int) -> float:
        part = range(starts[axis], starts[axis] + along[axis])
        stairs = (block, table.stairs[1]) if axis == 0 else (table.stairs[0], block)
        return TableError.of([table.lookup(*pairs[i], stairs)[0] for i in part], [latency_s[i] for i in part]).mean

    for axis in (1, 0):
        if along[axis]:
            block = choose_stair(lambda block, axis=axis: error_on(axis, block))  # type: ignore[misc]
            table.stairs = (block, table.stairs[1]) if axis == 0 else (table.stairs[0], block)
    checks = pairs[starts[1] + along[1] :]
    found = np.array([table.lookup(a, b)[:COSTS] for a, b in checks]).reshape(len(checks), COSTS)
    true = (latency_s[len(pairs) - len(checks) :], energy_j[len(pairs) - len(checks) :])
    return Built(table, (np.column_stack([found[:, 0], true[0]]), np.column_stack([found[:, 1], true[1]])))


def build_all(drafts: Mapping[Any, Draft], price: Price) -> dict[Any, Built]:
    """Every table, priced many tables a call."""
    found: dict[Any, Built] = {}
    waiting: list[tuple[Any, list[KernelSpec]]] = []
    for number, (key, draft) in enumerate(drafts.items(), 1):
        waiting.append((key, draft.specs()))
        if number < len(drafts) and sum(len(specs) for _, specs in waiting) < PRICED_TOGETHER:
            continue
        latency_s, energy_j = price([spec for _, specs in waiting for spec in specs])
        start = 0
        for name, specs in waiting:
            part = slice(start, start + len(specs))
            found[name] = _build(drafts[name], specs, latency_s[part], energy_j[part])
            start += len(specs)
        waiting = []
    return found


def stated_error(checked: Sequence[tuple[Array, Array]]) -> dict[str, TableError]:
    """The error of all tables' checks, by quantity."""
    parts = [np.concatenate([pairs[i] for pairs in checked]) if checked else np.empty((0, 2)) for i in range(COSTS)]
    return {name: TableError.of(*part.T) for name, part in zip(QUANTITIES, parts, strict=False)}
