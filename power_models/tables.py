"""Per-layer cost tables over (c_in, c_out), from a kernel cost model; looked up in numpy, interpolated in torch.

A network is a list of kernels whose channel counts are linear in the widths of its channel groups. Each distinct kernel
gets a table of latency, active energy, MACs and parameters over the widths it may take (``width_tables``). Hardware
runs channels in blocks, so costs are stairs: lookups keep the stairs, and the derivative is the secant over one
hardware block (on a plateau the local slope is zero and would steer nothing). Marginals are never negative.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from power_models.sized_kernels import Channels, SizedKernel, parameters, resized
from power_models.width_grids import Array, TableError, is_dense, width_grid
from power_models.width_tables import (
    QUANTITIES,
    Price,
    WidthTable,
    build_all,
    draft_of,
    stated_error,
    table_key,
)

__all__ = [
    "QUANTITIES",
    "Array",
    "Channels",
    "NetworkTables",
    "Price",
    "SizedKernel",
    "TableError",
    "TablesLeft",
    "WidthTable",
    "parameters",
    "resized",
    "width_grid",
]


def interpolated(table: WidthTable, channels_in: Tensor, channels_out: Tensor, block: int, quantity: int = 0) -> Tensor:
    """Bilinear cost of real-valued widths, a scalar tensor; its gradient is the secant over one block, ≥ 0."""
    cost: Tensor = _Interpolated.apply(channels_in, channels_out, table, block, quantity)  # type: ignore[no-untyped-call]
    return cost


class _Interpolated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c_in: Tensor, c_out: Tensor, table: WidthTable, block: int, quantity: int) -> Tensor:
        a, b = float(c_in), float(c_out)
        here = table.bilinear(a, b, quantity)
        before_in = 0.0 if table.tied else table.bilinear(max(a - block, 0.0), b, quantity)
        before_out = table.bilinear(a, max(b - block, 0.0), quantity)
        slope_in = 0.0 if table.tied else max(0.0, (here - before_in) / min(block, max(a, 1e-9)))
        slope_out = max(0.0, (here - before_out) / min(block, max(b, 1e-9)))
        ctx.slopes = (slope_in, slope_out)
        return c_out.new_tensor(here)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        slope_in, slope_out = ctx.slopes
        return gradients[0] * slope_in, gradients[0] * slope_out, None, None, None


class NetworkTables:
    """The tables of a whole network: totals at any widths, and what one more channel of a group costs.

    ``error``: by quantity, of the tables against the model that priced them, at widths that they do not hold.

    kernels: the network's kernels with their channel expressions; price: a device's cost model; largest: the greatest
    width each group may take; overhead_s, overhead_j: cost of an inference beside its kernels; block: channels that the
    hardware runs together (None: found from the tables).
    """

    def __init__(
        self,
        kernels: Sequence[SizedKernel],
        price: Price,
        largest: Mapping[str, int],
        overhead_s: float = 0.0,
        overhead_j: float = 0.0,
        block: int | None = None,
    ) -> None:
        self.kernels = list(kernels)
        self.largest = dict(largest)
        self.overhead = np.array([overhead_s, overhead_j, 0.0, 0.0])
        keys = [table_key(kernel, self.largest) for kernel in self.kernels]
        random = np.random.default_rng(0)
        distinct = dict(zip(keys, self.kernels, strict=True))
        drafts = {key: draft_of(kernel, self.largest, random) for key, kernel in distinct.items()}
        built = build_all(drafts, price)
        self._tables = {key: one.table for key, one in built.items()}
        self._of_kernel = [self._tables[key] for key in keys]
        self.error = stated_error([one.checked for one in built.values()])
        self._users: dict[str, list[int]] = {group: [] for group in self.largest}
        for i, kernel in enumerate(self.kernels):
            for group in kernel.groups:
                self._users[group].append(i)
        self.block = block or self._find_block()

    def kernel_costs(self, widths: Mapping[str, int]) -> Array:
        """Costs of each kernel at these widths, shape (kernels, 4)."""
        return np.array([self._cost(i, widths) for i in range(len(self.kernels))])

    def recosted(self, costs: Array, widths: Mapping[str, int], group: str) -> Array:
        """``kernel_costs`` at ``widths`` from those (kernels, 4) before the width of ``group`` changed."""
        found = costs.copy()
        for i in self._users[group]:
            found[i] = self._cost(i, widths)
        return found

    def kernel_cost(self, kernel: int, widths: Mapping[str, int]) -> Array:
        """Costs (4,) of one kernel, by its place in ``kernels``, at these widths."""
        return self._cost(kernel, widths)

    def _cost(self, i: int, widths: Mapping[str, int]) -> Array:
        kernel = self.kernels[i]
        return self._of_kernel[i].lookup(kernel.channels_in.at(widths), kernel.channels_out.at(widths))

    def totals(self, widths: Mapping[str, int], without: frozenset[int] = frozenset()) -> Array:
        """Costs (4,) of an inference at these widths, overhead included; ``without``: indices of removed kernels."""
        parts = [self._cost(i, widths) for i in range(len(self.kernels)) if i not in without]
        return np.asarray(self.overhead + np.sum(parts, axis=0))

    def marginals(self, widths: Mapping[str, int], without: frozenset[int] = frozenset()) -> dict[str, Array]:
        """What one channel of each group costs, (4,) each: the secant over one hardware block below its width, ≥ 0."""
        found = {}
        for group, users in self._users.items():
            width = int(widths[group])
            # Never down to no channels: what that saves is a whole kernel, which narrowing cannot reach.
            span = min(self.block, width - 1)
            if span <= 0:
                found[group] = np.zeros(len(QUANTITIES))
                continue
            narrower = dict(widths)
            narrower[group] = width - span
            change = sum(
                (self._cost(i, widths) - self._cost(i, narrower) for i in users if i not in without),
                np.zeros(len(QUANTITIES)),
            )
            found[group] = np.maximum(np.asarray(change) / span, 0.0)
        return found

    def left(self, without: frozenset[int], widths: Mapping[str, int]) -> TablesLeft:
        """The same tables for a network that has no longer the kernels ``without``; ``widths``: of every group."""
        return TablesLeft(self, without, widths)

    def relaxed(self, widths: Mapping[str, Tensor], quantity: int = 0) -> Tensor:
        """Total of one quantity at real-valued widths, a scalar tensor that carries secant gradients."""
        total = torch.tensor(float(self.overhead[quantity]))
        for kernel, table in zip(self.kernels, self._of_kernel, strict=True):
            c_in = _relaxed_channels(kernel.channels_in, widths)
            c_out = _relaxed_channels(kernel.channels_out, widths)
            total = total + interpolated(table, c_in, c_out, self.block, quantity)
        return total

    def _find_block(self) -> int:
        """The largest step at whose multiples most of the latency's rise happens; 8 where there are no stairs."""
        for block in (32, 16, 8, 4):
            shares = [s for s in (_rise_at(table, block) for table in self._tables.values()) if s is not None]
            if shares and float(np.median(shares)) > 0.6:
                return block
        stairs = Counter(table.stairs[1] for table in self._tables.values() if table.stairs[1] > 1)
        return stairs.most_common(1)[0][0] if stairs else 8


class TablesLeft:
    """Tables of a network that lost kernels with its blocks: groups that only these had need no width any more."""

    def __init__(self, tables: NetworkTables, without: frozenset[int], widths: Mapping[str, int]) -> None:
        self.block = tables.block
        self.largest = dict(tables.largest)
        self._tables = tables
        self._without = without
        self._widths = dict(widths)

    def totals(self, widths: Mapping[str, int], without: frozenset[int] = frozenset()) -> Array:
        """As ``NetworkTables.totals``."""
        return self._tables.totals({**self._widths, **widths}, self._without | without)

    def marginals(self, widths: Mapping[str, int], without: frozenset[int] = frozenset()) -> dict[str, Array]:
        """As ``NetworkTables.marginals``; nothing for a group that went."""
        return self._tables.marginals({**self._widths, **widths}, self._without | without)


def _rise_at(table: WidthTable, block: int) -> float | None:
    """Share of a table's rise over c_out that happens right behind multiples of ``block``; None if it cannot tell."""
    if not is_dense(table.grid_out) or len(table.grid_out) < 3 * block:
        return None
    rises = np.maximum(np.diff(table.values[0, -1]), 0.0)
    after = table.grid_out[:-1] % block == 0
    return float(rises[after].sum() / rises.sum()) if rises.sum() > 0 else None


def _relaxed_channels(channels: Channels, widths: Mapping[str, Tensor]) -> Tensor:
    total = torch.tensor(float(channels.constant))
    for group, factor in channels.terms:
        total = total + factor * widths[group]
    return total
