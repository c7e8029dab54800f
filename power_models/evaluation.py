"""How well costs are predicted: errors, ranks and intervals of measured rows against what a model says of them.

    rows ─► folds (random, or a column's levels left out) ─► fit to the others ─► predictions ─► scores, by part

Kernels and whole networks are scored alike. Quantities: ``latency_s``, ``power_w`` (mean while running), ``energy_j``
(whole boundary) and, where quiet power is known, ``energy_active_j``; power and whole energy are worked out from the
latency and the active energy that a model prices, with the covariance that its interval of power implies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_agents.records import KernelSpec
from power_models.drift import as_measured
from power_models.features import Floats
from power_models.kernel_cost import KernelCostModel, KernelCosts, UnpricedKernel
from power_models.measured_tables import TableKernel, TableNetwork
from power_models.network_cost import price_network, whole_energy

Row = TableKernel | TableNetwork
Index = NDArray[np.intp]

QUANTITIES = ("latency_s", "power_w", "energy_j", "energy_active_j")
QUINTILES = 5
FEWEST = 5  # rows of a part that is scored on its own


class Predicted(NamedTuple):
    """Predictions (n,) with their 95 % intervals; nan where a row has no price, or the method no interval."""

    value: Floats
    lo: Floats
    hi: Floats

    @classmethod
    def none(cls, count: int) -> Predicted:
        """Nothing predicted."""
        return cls(*(np.full(count, np.nan) for _ in range(3)))

    def take(self, index: Index) -> Predicted:
        """The rows of ``index``."""
        return Predicted(self.value[index], self.lo[index], self.hi[index])


class Scores(NamedTuple):
    """Errors |predicted/measured − 1| of n rows, rank correlation, R², and how good the intervals are.

    ``unpriced``: rows without a prediction, in none of the other figures. ``coverage``: share of rows in their 95 %
    interval; ``half_width``: median of (hi − lo)/2 over the prediction. Both None for a method without intervals.
    """

    n: int
    unpriced: int
    mape: float | None
    median: float | None
    p90: float | None
    worst: float | None
    within_5: float | None
    within_10: float | None
    spearman: float | None
    r2: float | None
    coverage: float | None
    half_width: float | None


def score(measured: Floats, predicted: Predicted) -> Scores:
    """Scores of n rows; rows that were not measured (nan) count nowhere."""
    there = np.isfinite(measured)
    priced = there & np.isfinite(predicted.value)
    n, unpriced = int(priced.sum()), int((there & ~priced).sum())
    if n == 0:
        return Scores(0, unpriced, *(None,) * 10)
    truth, value, lo, hi = (array[priced] for array in (measured, *predicted))
    size = np.abs(value / truth - 1)
    spread = float(((truth - truth.mean()) ** 2).sum())
    has_interval = bool(np.isfinite(lo).all() and np.isfinite(hi).all())
    return Scores(
        n,
        unpriced,
        float(size.mean()),
        float(np.median(size)),
        float(np.quantile(size, 0.9)),
        float(size.max()),
        float((size <= 0.05).mean()),
        float((size <= 0.10).mean()),
        spearman(truth, value),
        1.0 - float(((value - truth) ** 2).sum()) / spread if spread > 0 else None,
        float(((lo <= truth) & (truth <= hi)).mean()) if has_interval else None,
        float(np.median(0.5 * (hi - lo) / value)) if has_interval else None,
    )


def spearman(a: Floats, b: Floats) -> float | None:
    """Rank correlation, ties at their mean rank; None where one of the two does not vary."""
    ranks = [_ranks(values) for values in (a, b)]
    centred = [rank - rank.mean() for rank in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum()) / scale if scale > 0 else None


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts).astype(np.float64)
    mean: Floats = ends - 0.5 * (counts - 1)
    return mean[inverse]


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Each figure's mean over repeats (None where any has none)."""
    if not scores:
        raise ValueError("mean of scores: there are none")
    n, unpriced, *columns = zip(*scores, strict=True)
    means = (None if None in column else float(np.mean(column)) for column in columns)
    return Scores(round(float(np.mean(n))), round(float(np.mean(unpriced))), *means)


def median_scores(scores: Sequence[Scores]) -> Scores:
    """Each figure's median over the levels that were left out (those that have it)."""
    columns = list(zip(*scores, strict=True))
    known = [[one for one in column if one is not None] for column in columns]
    found = [float(np.median(column)) if column else None for column in known]
    return Scores(round(found[0] or 0), round(found[1] or 0), *found[2:])


def measured(rows: Sequence[Row], quantity: str) -> Floats:
    """What was measured (n,), nan where it was not; active energy only where the row's quiet power is known."""
    if quantity not in QUANTITIES:
        raise ValueError(f"no quantity {quantity!r}; known: {', '.join(QUANTITIES)}")
    values = [getattr(row, quantity) for row in rows]
    if quantity == "energy_active_j":
        values = [value if row.idle_power_w is not None else None for value, row in zip(values, rows, strict=True)]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def predict(model: KernelCostModel, rows: Sequence[Row], same_campaign: bool = False) -> dict[str, Predicted]:
    """Predictions of rows by quantity; rows with a kernel that has no price are nan.

    ``same_campaign``: the rows are of the tables that the model was fitted to, so that their lines are places in the
    drift of their table's campaign, if it had one (``drift``); else a row is taken to be at a typical place.
    """
    found = {quantity: Predicted.none(len(rows)) for quantity in QUANTITIES}
    alone = np.array([isinstance(row, TableKernel) for row in rows], dtype=np.bool_)
    kernels = [row for row in rows if isinstance(row, TableKernel)]
    networks = [row.kernels for row in rows if not isinstance(row, TableKernel)]
    parts = [
        (np.flatnonzero(alone), _predict_kernels(model, kernels, same_campaign)),
        (np.flatnonzero(~alone), _predict_networks(model, networks)),
    ]
    for index, predicted in parts:
        for quantity, own in predicted.items():
            for column, numbers in zip(found[quantity], own, strict=True):
                column[index] = numbers
    return found


def _predict_networks(model: KernelCostModel, networks: Sequence[Sequence[KernelSpec]]) -> dict[str, Predicted]:
    found = {quantity: Predicted.none(len(networks)) for quantity in QUANTITIES}
    for i, kernels in enumerate(networks):
        try:
            cost = price_network(model, kernels)
        except UnpricedKernel:
            continue
        bounds = {"latency_s": cost.latency_s}
        if np.isfinite(cost.energy_j[0]):
            bounds |= {"energy_active_j": cost.energy_j, "power_w": cost.power_w()}
            bounds["energy_j"] = whole_energy(cost.latency_s, cost.energy_j, cost.active_power_w, cost.idle_power_w)
        for quantity, own in bounds.items():
            for column, number in zip(found[quantity], own, strict=True):
                column[i] = number
    return found


def _predict_kernels(model: KernelCostModel, rows: Sequence[TableKernel], same_campaign: bool) -> dict[str, Predicted]:
    known = set(model.known_kinds)
    priced = np.flatnonzero([(row.kernel.kind, row.kernel.dtype) in known for row in rows])
    found = {quantity: Predicted.none(len(rows)) for quantity in QUANTITIES}
    if not len(priced):
        return found
    members = [rows[i] for i in priced.tolist()]
    places = np.array([float(row.line) if same_campaign else np.nan for row in members])
    costs = model.predict([row.kernel for row in members])
    costs = as_measured(model.drifts, costs, places, [row.table for row in members])
    idle = model.idle_power_w or (0.0, 0.0, 0.0)  # unknown: energies are whole ones
    latency = (costs.latency_s, costs.latency_lo_s, costs.latency_hi_s)
    active = (costs.energy_j, costs.energy_lo_j, costs.energy_hi_j)
    power = _active_power(costs)
    triples = [[_triple(one, i) for one in (latency, active, power)] for i in range(len(priced))]
    whole = [whole_energy(t, e, p, idle) for t, e, p in triples]
    above = [np.hypot(idle[0] - idle[1], power[0] - power[1]), np.hypot(idle[2] - idle[0], power[2] - power[0])]
    watts = idle[0] + power[0]
    columns = {
        "latency_s": latency,
        "energy_active_j": active,
        "energy_j": tuple(np.array(column) for column in zip(*whole, strict=True)),
        "power_w": (watts, watts - above[0], watts + above[1]),
    }
    for quantity, own in columns.items():
        for column, numbers in zip(found[quantity], own, strict=True):
            column[priced] = numbers
    return found


def _active_power(costs: KernelCosts) -> tuple[Floats, Floats, Floats]:
    down, up = costs.spreads["power"] if costs.power_widths is None else costs.power_widths
    value: Floats = costs.energy_j / costs.latency_s
    return value, value * np.exp(-down), value * np.exp(up)


def _triple(columns: Sequence[Floats], i: int) -> tuple[float, float, float]:
    return float(columns[0][i]), float(columns[1][i]), float(columns[2][i])


def parts_of(rows: Sequence[Row]) -> dict[str, Index]:
    """Which rows belong to which part: ``all``, each data type, kind or family, and fifths by size (MACs).

    Fifths are of the whole table, the smallest first, for kernels; a part with fewer than five rows is not told.
    """
    kernels = [isinstance(row, TableKernel) for row in rows]
    labels = {
        "what": np.array(["kernel" if alone else "network" for alone in kernels]),
        "dtype": np.array([row.dtype for row in rows]),
        "kind": np.array([row.kernels[0].kind if alone else "" for row, alone in zip(rows, kernels, strict=True)]),
        "family": np.array([row.family if isinstance(row, TableNetwork) else "" for row in rows]),
        "size": size_fifths(rows) if all(kernels) and len(rows) >= FEWEST * QUINTILES else np.full(len(rows), ""),
    }
    found = {"all": np.arange(len(rows))}
    for name, values in labels.items():
        levels = np.unique(values).tolist()
        found |= {f"{name}={level}": np.flatnonzero(values == level) for level in levels if level and len(levels) > 1}
    if len(np.unique(labels["dtype"])) > 1:
        for dtype, family in sorted(set(zip(labels["dtype"].tolist(), labels["family"].tolist(), strict=True))):
            if family:
                own = (labels["dtype"] == dtype) & (labels["family"] == family)
                found[f"dtype={dtype},family={family}"] = np.flatnonzero(own)
    return {name: index for name, index in found.items() if name == "all" or len(index) >= FEWEST}


def size_fifths(rows: Sequence[Row]) -> NDArray[np.str_]:
    """Which fifth of the rows by MACs each row is in (n,): "1" the smallest to "5"."""
    macs = np.array([row.macs for row in rows], dtype=np.float64)
    edges = np.quantile(macs, np.arange(1, QUINTILES) / QUINTILES)
    return np.array([str(1 + int(place)) for place in np.searchsorted(edges, macs, side="right")])


def scores_by_part(rows: Sequence[Row], predicted: Mapping[str, Predicted]) -> dict[str, dict[str, Scores]]:
    """Scores by quantity and part; a quantity that was never measured, or is never predicted, is left out."""
    parts = parts_of(rows)
    found: dict[str, dict[str, Scores]] = {}
    for quantity, own in predicted.items():
        truth = measured(rows, quantity)
        if np.isfinite(truth).any() and np.isfinite(own.value).any():
            found[quantity] = {name: score(truth[index], own.take(index)) for name, index in parts.items()}
    return found
