"""A device cost model from rows of measured tables: kernels, whole networks with their kernel lists, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from device_agents.records import Configuration
from power_models.evaluation import Row
from power_models.kernel_cost import Bounds, CannotFit, KernelCostModel, KernelRow
from power_models.measured_tables import TableKernel, TableNetwork

if TYPE_CHECKING:
    from power_models.composition import CompositionModel


def fit_rows(
    rows: Sequence[Row],
    configuration: Configuration,
    kind: str,
    *,
    more: Sequence[KernelRow] = (),
    overhead: tuple[float, float] = (0.0, 0.0),
    idle_power_w: Bounds | None = None,
    base: CompositionModel | None = None,
) -> KernelCostModel:
    """Fit to rows of any mixture of data types.

    ``more``: kernels from stored runs of the same configuration, with their standard errors; ``overhead`` of a call
    and ``idle_power_w``, as they found them. These are for kernels alone: among networks give the kernels of a run
    as rows. ``base``: of whole networks, the model of a similar board, fitted to networks too, from which to start.
    Raises CannotFit where nothing is usable.
    """
    idle_power_w = idle_power_w or quiet_power(rows)
    rows = with_quiet_power(rows, idle_power_w)
    networks = [row for row in rows if isinstance(row, TableNetwork)]
    kernels = [row for row in rows if isinstance(row, TableKernel)]
    if networks:
        from power_models.composition_fit import fit_from_networks

        return fit_from_networks(networks, kernels, configuration, kind, base=base)
    if base is not None:
        raise CannotFit("the model of another board is a start for tables of whole networks, and these hold kernels")
    every = [*kernel_rows(kernels), *more]
    return KernelCostModel.fit(every, configuration, kind, idle_power_w=idle_power_w, overhead=overhead)


def kernel_rows(kernels: Sequence[TableKernel]) -> list[KernelRow]:
    """Rows for the cost model; tables state no standard errors, so all rows weigh alike; equal kernels go together."""
    return [
        KernelRow(
            row.kernel,
            row.latency_s,
            0.0,
            row.energy_active_j,
            0.0,
            "table",
            f"row {i}",
            place=float(row.line),
            campaign=row.table,
        )
        for i, row in enumerate(kernels)
    ]


def with_quiet_power(rows: Sequence[Row], known: Bounds | None) -> list[Row]:
    """The rows, those that do not state their quiet power with the known one: their energies are of one board."""
    if known is None:
        return list(rows)
    return [row if row.idle_power_w is not None else replace(row, idle_power_w=known[0]) for row in rows]


def quiet_power(rows: Sequence[Row]) -> Bounds | None:
    """Quiet power (median, and the central 95 % of the rows that state it); None where none does."""
    known = [row.idle_power_w for row in rows if row.idle_power_w is not None]
    if not known:
        return None
    low, middle, high = (float(q) for q in np.quantile(known, (0.025, 0.5, 0.975)))
    return middle, low, high
