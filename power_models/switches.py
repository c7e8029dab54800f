"""Channel counts at which a runtime changes its algorithm: a family in two, where the measurements say so.

A depthwise convolution of 214 channels took fifteen times as long as one of 216 under ONNX Runtime on an x86-64
processor: the blocked kernels want channels in fours, and everything else falls back to a general one. No feature that
grows smoothly with the padding shows that. So every family of weighted kernels is tried in two parts, the whole blocks
and the rest, for each block size; it is split where that makes held-out errors clearly smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from device_agents.records import KernelSpec
from power_models.families import RAGGED
from power_models.features import Floats, KernelColumns
from power_models.roofline import NonNegative

if TYPE_CHECKING:
    from power_models.kernel_cost import KernelRow

Index = NDArray[np.intp]

BLOCKS = (2, 4, 8, 16)
FEWEST_ROWS = 8  # of each part
CLEARLY = 0.75  # the split's held-out error over that of the whole


def is_ragged(spec: KernelSpec, block: int) -> bool:
    """Whether the kernel's channels do not fill whole blocks."""
    return bool(spec.in_channels % block or spec.out_channels % block)


def ragged_family(family: str, block: int) -> str:
    """The name of the part of a family whose channels do not fill whole blocks."""
    name, _, dtype = family.partition("/")
    return f"{name}{RAGGED}{block}/{dtype}"


def routed(family: str, spec: KernelSpec, switches: dict[str, int]) -> str:
    """The family, or its ragged part where it has one and the kernel belongs there."""
    block = switches.get(family)
    return ragged_family(family, block) if block is not None and is_ragged(spec, block) else family


def find_switch(
    specs: Sequence[KernelSpec],
    columns: KernelColumns,
    log_latency: Floats,
    weight: Floats,
    folds: Iterable[Index],
) -> int | None:
    """The block whose multiples run by another algorithm, None where one model fits all rows (n,) as well.

    ``folds``: disjoint row indices that cover the rows. Judged by the mean absolute log error of a non-negative sum of
    work and traffic, on rows held out: of the whole against two parts, each with rows enough.
    """
    parts = list(folds)
    kinds = tuple(sorted(set(columns.kinds.tolist())))

    def error(groups: Sequence[Index]) -> float:
        missed = np.zeros(len(specs))
        for group in groups:
            for fold in parts:
                test = np.intersect1d(group, fold)
                train = np.setdiff1d(group, fold)
                if not len(test):
                    continue
                if not len(train):
                    return np.inf
                model = NonNegative(kinds).fit(columns.take(train), log_latency[train], weight[train])
                missed[test] = model.predict(columns.take(test)) - log_latency[test]
        return float(np.abs(missed).mean())

    best, least = None, CLEARLY * error([np.arange(len(specs))])
    for block, groups in _partitions(specs):
        found = error(groups)
        if found < least:
            best, least = block, found
    return best


def _partitions(specs: Sequence[KernelSpec]) -> list[tuple[int, list[Index]]]:
    """Of every block with rows enough in and out of whole blocks: the rows of both; equal partitions once."""
    found: dict[bytes, tuple[int, list[Index]]] = {}
    for block in BLOCKS:
        ragged = np.array([is_ragged(spec, block) for spec in specs])
        if FEWEST_ROWS <= int(ragged.sum()) <= len(specs) - FEWEST_ROWS:
            found.setdefault(ragged.tobytes(), (block, [np.flatnonzero(~ragged), np.flatnonzero(ragged)]))
    return list(found.values())


def split_families(
    by_family: dict[str, list[KernelRow]],
    may_split: Callable[[str], bool],
    prepare: Callable[[str], tuple[KernelColumns, Floats, Floats, list[Index]]],
) -> dict[str, int]:
    """Split in place the families (name → rows) that a runtime runs by two algorithms; family → block.

    ``prepare(family)``: columns, log latency, weights and folds of its rows.
    """
    switches = {}
    for family in sorted(by_family):
        rows = by_family[family]
        if len(rows) < 2 * FEWEST_ROWS or not may_split(family):
            continue
        specs = [row.kernel for row in rows]
        block = find_switch(specs, *prepare(family))
        if block is not None:
            switches[family] = block
            by_family[ragged_family(family, block)] = [r for r in rows if is_ragged(r.kernel, block)]
            by_family[family] = [r for r in rows if not is_ragged(r.kernel, block)]
    return switches
