"""Held-out predictions of measured tables: ours and the references', fitted to the same rows, judged on the same ones.

One fold is one step (``hold_out``), so that a long evaluation can be stored and gone on with fold by fold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from device_agents.records import Configuration
from power_models.evaluation import QUANTITIES, Predicted, Row, Scores, measured, predict, scores_by_part
from power_models.features import Floats
from power_models.kernel_cost import KernelCostModel
from power_models.measured_tables import TableKernel
from power_models.references import KERNEL_REFERENCES, NETWORK_REFERENCES, ConstantPower
from power_models.table_folds import Fold

if TYPE_CHECKING:
    from power_models.composition import CompositionModel

OURS = "ours"
PLACE_NOT_TOLD = "ours_place_not_told"  # the same model where rows' lines in a drifting campaign are not told it
LATENCY_X_POWER = "latency_x_power"  # our predicted latency times a constant power
MEASURED_LATENCY_X_POWER = "measured_latency_x_power"  # needs the very latency measured: no prediction, a yardstick
DIGITS = 7

Fit = Callable[[Sequence[Row]], KernelCostModel]


class HeldOut(NamedTuple):
    """Predictions of the rows of one fold by method and quantity, and the seconds that our own fit took."""

    label: str
    rows: list[int]
    predicted: Mapping[str, Mapping[str, Predicted]]
    fit_s: float

    def to_json(self) -> dict[str, Any]:
        """As plain data, seven digits a number; a prediction that is missing is null."""
        methods = {
            method: {quantity: [_plain(column) for column in own] for quantity, own in found.items()}
            for method, found in self.predicted.items()
        }
        return {"label": self.label, "rows": self.rows, "predicted": methods, "fit_s": round(self.fit_s, 3)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HeldOut:
        """Read what ``to_json`` wrote."""
        methods = {
            method: {quantity: Predicted(*(_array(column) for column in own)) for quantity, own in found.items()}
            for method, found in data["predicted"].items()
        }
        return cls(data["label"], list(data["rows"]), methods, float(data["fit_s"]))


def _plain(column: Floats) -> list[float | None] | None:
    """None for a column without any number (a method without intervals)."""
    if not np.isfinite(column).any():
        return None
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in column.tolist()]


def _array(column: Sequence[float | None] | None) -> Floats:
    return np.array([np.nan] if column is None else [np.nan if value is None else value for value in column])


def hold_out(rows: Sequence[Row], fold: Fold, fit: Fit, references: bool = True) -> HeldOut:
    """Fit to the rows outside of a fold, predict those inside: by our model, and by the references if wanted."""
    inside = set(fold.rows.tolist())
    training = [row for i, row in enumerate(rows) if i not in inside]
    test = [rows[i] for i in fold.rows.tolist()]
    began_s = time.perf_counter()
    model = fit(training)
    fit_s = time.perf_counter() - began_s
    ours = {name: own for name, own in predict(model, test, same_campaign=True).items() if np.isfinite(own.value).any()}
    found: dict[str, Mapping[str, Predicted]] = {OURS: ours}
    if model.drifts:
        alone = predict(model, test)
        found[PLACE_NOT_TOLD] = {quantity: alone[quantity] for quantity in ours}
    if references:
        found |= reference_predictions(training, test, ours)
    return HeldOut(fold.label, fold.rows.tolist(), found, fit_s)


def reference_predictions(
    training: Sequence[Row], test: Sequence[Row], ours: Mapping[str, Predicted]
) -> dict[str, dict[str, Predicted]]:
    """Predictions of every reference, by method and quantity; ``ours`` lends its latency to latency × power."""
    kernels = all(isinstance(row, TableKernel) for row in training)
    found: dict[str, dict[str, Predicted]] = {}
    for quantity in QUANTITIES:
        truth = measured(training, quantity)
        there = np.flatnonzero(np.isfinite(truth))
        if len(there) < 2 or not (truth[there] > 0).all():
            continue
        known = [training[i] for i in there.tolist()]
        for name, make in (KERNEL_REFERENCES if kernels else NETWORK_REFERENCES).items():
            found.setdefault(name, {})[quantity] = _alone(make().fit(known, truth[there]).predict(test))
        if quantity != "latency_s":
            for name, latency in _latencies(test, ours).items():
                found.setdefault(name, {})[quantity] = _alone(
                    _constant_power(known, truth[there], test, latency, quantity)
                )
    return found


def _latencies(test: Sequence[Row], ours: Mapping[str, Predicted]) -> dict[str, Floats]:
    predicted = {LATENCY_X_POWER: ours["latency_s"].value} if "latency_s" in ours else {}
    return {**predicted, MEASURED_LATENCY_X_POWER: measured(test, "latency_s")}


def _constant_power(known: Sequence[Row], cost: Floats, test: Sequence[Row], latency: Floats, quantity: str) -> Floats:
    if quantity == "power_w":  # the constant itself, whatever the latency
        cost = cost * measured(known, "latency_s")
        latency = np.ones(len(test))
    return ConstantPower().fit(known, cost).predict(test, latency)


def _alone(value: Floats) -> Predicted:
    nothing = Predicted.none(len(value))
    return nothing._replace(value=value)


def pooled(rows: Sequence[Row], folds: Sequence[HeldOut]) -> dict[str, dict[str, dict[str, Scores]]]:
    """Scores by method, quantity and part over the rows of all folds together."""
    index = np.array([i for fold in folds for i in fold.rows], dtype=np.intp)
    members = [rows[i] for i in index.tolist()]
    methods = dict.fromkeys(method for fold in folds for method in fold.predicted)
    return {method: scores_by_part(members, _joined(folds, method)) for method in methods}


def _joined(folds: Sequence[HeldOut], method: str) -> dict[str, Predicted]:
    quantities = dict.fromkeys(q for fold in folds for q in fold.predicted.get(method, {}))
    joined = {}
    for quantity in quantities:
        parts = [_full(fold.predicted.get(method, {}).get(quantity), len(fold.rows)) for fold in folds]
        joined[quantity] = Predicted(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return joined


def _full(predicted: Predicted | None, count: int) -> Predicted:
    """All columns as long as the fold; a column that was not stored is nan throughout."""
    if predicted is None:
        return Predicted.none(count)
    return Predicted(*(column if len(column) == count else np.full(count, np.nan) for column in predicted))


def fit_tables(configuration: Configuration, kind: str = "imported", base: CompositionModel | None = None) -> Fit:
    """How a cost model is fitted to rows of tables, as a function of the rows (``hold_out`` calls it a fold)."""
    from power_models.table_fit import fit_rows

    return lambda rows: fit_rows(rows, configuration, kind, base=base)
