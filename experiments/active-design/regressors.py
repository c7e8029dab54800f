"""One fixed, fast model for all strategies: a roofline corrected by a Gaussian process a family.

The product's own fit (``KernelCostModel``) lets many candidates compete under cross-validation, seconds a fit; a study
of thousands of fits takes one that is always among them. ``study.py --product`` runs the product's fit instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from device_agents.records import KernelSpec
from power_models.families import family_of, pool_of
from power_models.features import KernelColumns
from power_models.kernel_cost import KernelRow
from power_models.regressors import Regressor, make_regressor

OWN_ROWS = 8
SHIFT_ROWS = 3.0


class FixedModel:
    """Latency and active energy of kernels; families with few rows are carried by all kernels of their pool."""

    def __init__(self, rows: Sequence[KernelRow], overhead: tuple[float, float]) -> None:
        self.overhead = overhead
        self.known = {row.kernel.kind for row in rows}
        groups: dict[str, list[KernelRow]] = defaultdict(list)
        for row in rows:
            groups[family_of(row.kernel)].append(row)
            groups[pool_of(family_of(row.kernel))].append(row)
        self.models = {name: _fitted(members) for name, members in groups.items() if _is_own(name, members)}
        self.shifts = {}
        for family, members in groups.items():
            if family not in self.models:
                priced = self._log_costs([row.kernel for row in members], self.models[pool_of(family)])
                left = np.log([[row.latency_s, row.energy_active_j] for row in members]) - priced
                self.shifts[family] = np.median(left, axis=0) * len(members) / (len(members) + SHIFT_ROWS)

    @staticmethod
    def _log_costs(kernels: Sequence[KernelSpec], models: tuple[Regressor, Regressor]) -> np.ndarray:
        columns = KernelColumns.of(kernels)
        return np.stack([model.predict(columns) for model in models], 1)

    def costs(self, kernels: Sequence[KernelSpec]) -> np.ndarray:
        """(seconds, joules) (n, 2)."""
        found = np.zeros((len(kernels), 2))
        labels = np.array([family_of(kernel) for kernel in kernels])
        for family in set(labels.tolist()):
            index = np.flatnonzero(labels == family)
            models = self.models.get(family) or self.models[pool_of(family)]
            found[index] = self._log_costs([kernels[i] for i in index], models) + self.shifts.get(family, 0.0)
        return np.exp(found)


def _is_own(name: str, rows: Sequence[KernelRow]) -> bool:
    return name.startswith(("weighted/", "memory/")) or len(rows) >= OWN_ROWS


def _fitted(rows: Sequence[KernelRow]) -> tuple[Regressor, Regressor]:
    kinds = tuple(sorted({row.kernel.kind for row in rows}))
    columns, ones = KernelColumns.of([row.kernel for row in rows]).make_tables(), np.ones(len(rows))
    name = "roofline_gp" if len(rows) >= OWN_ROWS else "nonnegative"
    costs = np.log([[row.latency_s, row.energy_active_j] for row in rows])
    latency, energy = (make_regressor(name, kinds).fit(columns, costs[:, i], ones) for i in range(2))
    return latency, energy
