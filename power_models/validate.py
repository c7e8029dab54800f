"""How far a cost model may be trusted: errors and coverage on kernels and networks that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from device_agents.records import Configuration
from power_models.families import family_of
from power_models.features import Floats
from power_models.fitting import grouped_folds, usable_rows
from power_models.kernel_cost import KernelCostModel, KernelRow
from power_models.network_check import NetworkRow
from power_models.network_cost import price_network


class ErrorSummary(NamedTuple):
    """Relative errors |predicted/measured − 1| of n subjects, coverage of the 95 % intervals, median hi/lo ratio."""

    n: int
    median: float
    mean: float
    p90: float
    worst: float
    coverage: float
    width: float


class Prediction(NamedTuple):
    """One subject: measured, predicted, and the predicted interval."""

    name: str
    family: str
    measured: float
    predicted: float
    lo: float
    hi: float
    extrapolated: bool


def summarize(predictions: Sequence[Prediction]) -> ErrorSummary:
    """Summary of predictions; ValueError for none."""
    if not predictions:
        raise ValueError("summary of a validation: it has no predictions")
    measured, predicted, lo, hi = (
        np.array([getattr(p, name) for p in predictions]) for name in ("measured", "predicted", "lo", "hi")
    )
    size: Floats = np.abs(predicted / measured - 1)
    covered = (lo <= measured) & (measured <= hi)
    return ErrorSummary(
        len(size),
        float(np.median(size)),
        float(size.mean()),
        float(np.quantile(size, 0.9)),
        float(size.max()),
        float(covered.mean()),
        float(np.median(hi / lo)),
    )


def by_family(predictions: Sequence[Prediction]) -> dict[str, ErrorSummary]:
    """A summary a family, and ``all``."""
    families = sorted({p.family for p in predictions})
    found = {name: summarize([p for p in predictions if p.family == name]) for name in families}
    return found | {"all": summarize(predictions)}


def predict_rows(model: KernelCostModel, rows: Sequence[KernelRow]) -> dict[str, list[Prediction]]:
    """Predictions of measured kernels, by quantity (``latency_s``, ``energy_active_j``); unusable rows are left out.

    Raises UnpricedKernel as ``predict`` does.
    """
    good, _ = usable_rows(rows)
    costs = model.predict([row.kernel for row in good])
    found: dict[str, list[Prediction]] = {"latency_s": [], "energy_active_j": []}
    for i, row in enumerate(good):
        about = (row.kernel.label, family_of(row.kernel))
        outside = bool(costs.extrapolated[i])
        bounds = (float(costs.latency_s[i]), float(costs.latency_lo_s[i]), float(costs.latency_hi_s[i]))
        found["latency_s"].append(Prediction(*about, row.latency_s, *bounds, outside))
        if row.energy_active_j is not None and np.isfinite(costs.energy_j[i]):
            bounds = (float(costs.energy_j[i]), float(costs.energy_lo_j[i]), float(costs.energy_hi_j[i]))
            found["energy_active_j"].append(Prediction(*about, row.energy_active_j, *bounds, outside))
    return found


def predict_networks(model: KernelCostModel, networks: Sequence[NetworkRow]) -> dict[str, list[Prediction]]:
    """Predictions of measured networks, by quantity; a network that cannot be priced raises UnpricedKernel."""
    found: dict[str, list[Prediction]] = {"latency_s": [], "energy_active_j": []}
    for network in networks:
        cost = price_network(model, network.kernels)
        outside = bool(cost.kernels.extrapolated.any())
        found["latency_s"].append(Prediction(network.name, "network", network.latency_s, *cost.latency_s, outside))
        if network.energy_active_j is not None and np.isfinite(cost.energy_j[0]):
            energy = Prediction(network.name, "network", network.energy_active_j, *cost.energy_j, outside)
            found["energy_active_j"].append(energy)
    return found


def cross_validate(
    rows: Sequence[KernelRow], configuration: Configuration, kind: str, folds: int = 5, seed: int = 1
) -> dict[str, list[Prediction]]:
    """Predictions of every row by a model that was fitted without its group (candidates are chosen anew in each fold).

    Rows of a kind that only one fold holds are left out and listed under ``unpriced`` by an empty interval.
    """
    good, _ = usable_rows(rows)
    found: dict[str, list[Prediction]] = {"latency_s": [], "energy_active_j": [], "unpriced": []}
    for fold in grouped_folds(good, folds, seed):
        held = set(fold.tolist())
        model = KernelCostModel.fit([row for i, row in enumerate(good) if i not in held], configuration, kind)
        known = set(model.known_kinds)
        test = [good[i] for i in fold]
        priced = [row for row in test if (row.kernel.kind, row.kernel.dtype) in known]
        for quantity, own in predict_rows(model, priced).items():
            found[quantity] += own
        for row in test:
            if (row.kernel.kind, row.kernel.dtype) not in known:
                nothing = Prediction(
                    row.kernel.label, family_of(row.kernel), row.latency_s, np.nan, np.nan, np.nan, True
                )
                found["unpriced"].append(nothing)
    return found


def to_json(summaries: Mapping[str, ErrorSummary]) -> dict[str, dict[str, float]]:
    """Summaries as plain dicts."""
    return {name: dict(summary._asdict()) for name, summary in summaries.items()}
