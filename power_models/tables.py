"""Per-layer cost tables over (c_in, c_out), from a kernel cost model; looked up in numpy, interpolated in torch.

A network is a list of kernels whose channel counts are linear in the widths of its channel groups. Each distinct kernel
gets a table of latency, active energy, MACs and parameters over the widths it may take. Hardware runs channels in
blocks, so costs are stairs: lookups keep the stairs, and the derivative is the secant over one hardware block (on a
plateau the local slope is zero and would steer nothing). Marginals are never negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from device_agents.records import DTYPE_BYTES, WEIGHTED_KINDS, KernelSpec

Array = npt.NDArray[np.float64]
Price = Callable[[Sequence[KernelSpec]], "tuple[Array, Array]"]  # kernels → latency_s (n,), active energy_j (n,)

QUANTITIES = ("latency_s", "energy_active_j", "macs", "params")
MAX_GRID_POINTS = 96
FOLLOWING_KINDS = ("depthwise", "max_pool", "avg_pool", "global_avg_pool", "lrn")  # groups = channels


class Channels(NamedTuple):
    """A channel count that is linear in group widths: ``constant + Σ factor · widths[group]``."""

    constant: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    def at(self, widths: Mapping[str, int]) -> int:
        """The count at these widths; raises KeyError for a group without a width."""
        return self.constant + sum(factor * int(widths[group]) for group, factor in self.terms)

    def plus(self, other: Channels) -> Channels:
        """The sum of two counts (a concatenation)."""
        return Channels(self.constant + other.constant, self.terms + other.terms)

    def times(self, factor: int) -> Channels:
        """A multiple (a flattened image, a depth multiplier)."""
        return Channels(self.constant * factor, tuple((g, f * factor) for g, f in self.terms))


class SizedKernel(NamedTuple):
    """One kernel of a network whose channels follow the widths of groups."""

    name: str
    spec: KernelSpec
    channels_in: Channels
    channels_out: Channels

    def at(self, widths: Mapping[str, int]) -> KernelSpec:
        """The kernel at these widths."""
        return resized(self.spec, self.channels_in.at(widths), self.channels_out.at(widths))

    @property
    def groups(self) -> set[str]:
        """Names of the channel groups that it depends on."""
        return {group for group, _ in self.channels_in.terms + self.channels_out.terms}


def resized(spec: KernelSpec, channels_in: int, channels_out: int) -> KernelSpec:
    """The same kernel with other channel counts; convolution groups of depthwise kernels and pools follow."""
    groups = channels_in if spec.kind in FOLLOWING_KINDS and spec.groups > 1 else spec.groups
    return spec._replace(in_channels=channels_in, out_channels=channels_out, groups=max(groups, 1))


def _all_resized(spec: KernelSpec, c_in: npt.NDArray[np.int64], c_out: npt.NDArray[np.int64]) -> list[KernelSpec]:
    """``resized`` to every pair of counts (n,); made without ``_replace``, which is slow for ten thousands."""
    follows = spec.kind in FOLLOWING_KINDS and spec.groups > 1
    fields = list(spec)
    first, second, third = (KernelSpec._fields.index(n) for n in ("in_channels", "out_channels", "groups"))
    found = []
    for a, b in zip(c_in.tolist(), c_out.tolist(), strict=True):
        fields[first], fields[second] = a, b
        if follows:
            fields[third] = max(a, 1)
        found.append(KernelSpec._make(fields))
    return found


def _sizes(spec: KernelSpec, specs: Sequence[KernelSpec]) -> tuple[Array, Array]:
    """MACs and parameters of the same kernel at many widths, (n,) each, as ``macs`` and ``parameters`` count them."""
    if spec.kind not in WEIGHTED_KINDS:
        nothing = np.zeros(len(specs))
        return nothing, nothing
    sizes = np.array([(one.in_channels, one.out_channels, max(one.groups, 1)) for one in specs], dtype=np.float64)
    c_in, c_out, groups = sizes.T
    area = spec.kernel_h * spec.kernel_w
    macs = spec.batch * spec.out_height * spec.out_width * c_out * np.floor(area * c_in / groups)
    return macs, np.floor(c_out * area * c_in / groups) + c_out


def parameters(spec: KernelSpec) -> int:
    """Weights and biases of a kernel, a count."""
    if not spec.weight_bytes:
        return 0
    return (spec.weight_bytes - 4 * spec.out_channels) // DTYPE_BYTES[spec.dtype] + spec.out_channels


class WidthTable:
    """Costs of one kernel over c_in × c_out.

    ``grid_in`` (i,), ``grid_out`` (o,) ascending channel counts; ``values`` (4, i, o) in the order of QUANTITIES. Where
    input and output change together (``tied``), ``grid_in`` has one entry and only c_out counts.
    """

    def __init__(self, grid_in: npt.NDArray[np.int64], grid_out: npt.NDArray[np.int64], values: Array, tied: bool):
        self.grid_in = grid_in
        self.grid_out = grid_out
        self.values = values
        self.tied = tied

    def lookup(self, channels_in: int, channels_out: int) -> Array:
        """Costs (4,) with the stairs kept: the next grid point at or above; nothing where a count is zero.

        Raises ValueError above the grid: tables are not extrapolated.
        """
        if channels_in <= 0 or channels_out <= 0:
            return np.zeros(len(QUANTITIES))
        row = 0 if self.tied else _at_or_above(self.grid_in, channels_in)
        column = _at_or_above(self.grid_out, channels_out)
        return np.asarray(self.values[:, row, column])

    def interpolate(self, channels_in: Tensor, channels_out: Tensor, block: int, quantity: int = 0) -> Tensor:
        """Bilinear cost of real-valued widths, a scalar tensor; its gradient is the secant over one block, ≥ 0."""
        cost: Tensor = _Interpolated.apply(channels_in, channels_out, self, block, quantity)  # type: ignore[no-untyped-call]
        return cost

    def bilinear(self, channels_in: float, channels_out: float, quantity: int) -> float:
        """Cost between grid points; linear down to zero at no channels."""
        table = self.values[quantity]
        columns = _with_origin(self.grid_out)
        if self.tied:
            return float(np.interp(channels_out, columns, np.concatenate([[0.0], table[0]])))
        rows = _with_origin(self.grid_in)
        padded = np.zeros((len(rows), len(columns)))
        padded[1:, 1:] = table
        at_rows = np.array([np.interp(channels_out, columns, line) for line in padded])
        return float(np.interp(channels_in, rows, at_rows))


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


def _with_origin(grid: npt.NDArray[np.int64]) -> Array:
    return np.concatenate([[0.0], grid.astype(np.float64)])


def _at_or_above(grid: npt.NDArray[np.int64], count: int) -> int:
    place = int(np.searchsorted(grid, count))
    if place == len(grid):
        raise ValueError(f"width {count} is beyond the table, which ends at {int(grid[-1])}")
    return place


def width_grid(largest: int) -> npt.NDArray[np.int64]:
    """Channel counts to tabulate up to ``largest``: all of them while few, then multiples of 2, 4, 8, 16 …

    Multiples of the coarsest step keep the stairs, since lookups take the next point above.
    """
    step, points = 1, np.arange(1, largest + 1)
    while len(points) > MAX_GRID_POINTS:
        step *= 2
        fine = np.arange(1, min(33, largest + 1))
        points = np.unique(np.concatenate([fine, np.arange(step, largest + 1, step), [largest]]))
        points = points[(points <= 32) | (points % step == 0) | (points == largest)]
        if step >= 64:
            break
    return points.astype(np.int64)


class NetworkTables:
    """The tables of a whole network: totals at any widths, and what one more channel of a group costs.

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
        self._tables: dict[Any, WidthTable] = {}
        self._of_kernel = [self._table(kernel, price) for kernel in self.kernels]
        self._users: dict[str, list[int]] = {group: [] for group in self.largest}
        for i, kernel in enumerate(self.kernels):
            for group in kernel.groups:
                self._users[group].append(i)
        self.block = block or self._find_block()

    def _table(self, kernel: SizedKernel, price: Price) -> WidthTable:
        tied = kernel.channels_in.terms == kernel.channels_out.terms and bool(kernel.channels_out.terms)
        most_in, most_out = kernel.channels_in.at(self.largest), kernel.channels_out.at(self.largest)
        key = (
            resized(kernel.spec, 1, 1),
            tied,
            most_in,
            most_out,
            not kernel.channels_in.terms,
            not kernel.channels_out.terms,
        )
        if key not in self._tables:
            grid_out = width_grid(most_out) if kernel.channels_out.terms else np.array([most_out])
            grid_in = width_grid(most_in) if kernel.channels_in.terms and not tied else np.array([most_in])
            ratio = max(1, most_in // max(most_out, 1)) if tied else 1
            c_in = np.tile(grid_out * ratio, len(grid_in)) if tied else np.repeat(grid_in, len(grid_out))
            specs = _all_resized(kernel.spec, c_in, np.tile(grid_out, len(grid_in)))
            latency_s, energy_j = price(specs)
            columns = [latency_s, np.nan_to_num(energy_j), *_sizes(kernel.spec, specs)]
            values = np.array(columns, dtype=np.float64).reshape(len(QUANTITIES), len(grid_in), len(grid_out))
            self._tables[key] = WidthTable(grid_in, grid_out, values, tied)
        return self._tables[key]

    def kernel_costs(self, widths: Mapping[str, int]) -> Array:
        """Costs of each kernel at these widths, shape (kernels, 4)."""
        return np.array([self._cost(i, widths) for i in range(len(self.kernels))])

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

    def relaxed(self, widths: Mapping[str, Tensor], quantity: int = 0) -> Tensor:
        """Total of one quantity at real-valued widths, a scalar tensor that carries secant gradients."""
        total = torch.tensor(float(self.overhead[quantity]))
        for kernel, table in zip(self.kernels, self._of_kernel, strict=True):
            c_in = _relaxed_channels(kernel.channels_in, widths)
            c_out = _relaxed_channels(kernel.channels_out, widths)
            total = total + table.interpolate(c_in, c_out, self.block, quantity)
        return total

    def _find_block(self) -> int:
        """The largest step at whose multiples most of the latency's rise happens; 8 where there are no stairs."""
        for block in (32, 16, 8, 4):
            shares = [s for s in (_rise_at(table, block) for table in self._tables.values()) if s is not None]
            if shares and float(np.median(shares)) > 0.6:
                return block
        return 8


def _rise_at(table: WidthTable, block: int) -> float | None:
    """Share of a table's rise over c_out that happens right behind multiples of ``block``; None if it cannot tell."""
    dense = table.grid_out[: np.searchsorted(np.diff(table.grid_out, append=table.grid_out[-1] + 9), 2)]
    if len(dense) < 3 * block:
        return None
    line = table.values[0, -1, : len(dense)]
    rises = np.maximum(np.diff(line), 0.0)
    after = dense[:-1] % block == 0
    return float(rises[after].sum() / rises.sum()) if rises.sum() > 0 else None


def _relaxed_channels(channels: Channels, widths: Mapping[str, Tensor]) -> Tensor:
    total = torch.tensor(float(channels.constant))
    for group, factor in channels.terms:
        total = total + factor * widths[group]
    return total
