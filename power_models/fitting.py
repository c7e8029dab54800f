"""From measured rows to a ``KernelCostModel``: check, group, fit each family, turn held-out errors into intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from device_agents.records import Configuration
from power_models.drift import without_drifts
from power_models.families import family_of, pool_of, supporters_of
from power_models.family_cost import FamilyModel, fit_family
from power_models.features import Floats, KernelColumns
from power_models.few_rows import FEWEST_JUDGED, QUANTITIES, scales_of_few
from power_models.intervals import (
    NORMAL_95,
    ErrorScale,
    common_share,
    conformal_quantile,
    fit_scale,
    sided_quantiles,
    sided_rms,
)
from power_models.large_family import LARGE_FAMILY_ROWS, fit_large_family
from power_models.regressors import CANDIDATES
from power_models.selection import Rows
from power_models.switches import split_families

if TYPE_CHECKING:
    from power_models.kernel_cost import Bounds, KernelCostModel, KernelRow, PricedFamily

Index = NDArray[np.intp]

OWN_MEMORY_ROWS = 40  # with fewer rows a kind without weights is fitted together with others
OWN_MODEL_ROWS = 8  # with fewer rows a family is carried by the pooled model
SUPPORTED_ROWS = 6  # the same where related families lend their rows
HELPED_ROWS = 40  # with fewer rows a family may be fitted together with related ones
STAND_IN_ROWS = 600  # of more rows the pooled model sees a sample
STAND_IN = ("nonnegative", "roofline")  # the candidates of the pooled model, which stands in for families without rows
POOLED = ("roofline", "roofline_trees", "roofline_gp")  # the candidates that may use lent rows
MODEL_NOISE = 0.02  # relative: rows measured better than this weigh alike
BLOCK_ROWS = 500  # distances to all rows are made for so many at a time
SHIFT_ROWS = 3.0  # the shift of a carried family is its median error times n / (n + this)


def fit_models(
    cls: type[KernelCostModel],
    rows: Sequence[KernelRow],
    configuration: Configuration,
    kind: str,
    idle_power_w: Bounds | None,
    overhead: tuple[float, float],
    folds: int,
) -> KernelCostModel:
    """See ``KernelCostModel.fit``."""
    _check_configurations(rows, configuration)
    usable, unusable = usable_rows(rows)
    if not usable:
        from power_models.kernel_cost import CannotFit

        raise CannotFit(f"cost model of {configuration.device}: none of {len(rows)} rows is usable; {unusable[:3]}")
    usable, drifts = without_drifts(usable)
    by_family = _grouped(usable)
    switches = split_families(by_family, _may_split(by_family), _split_task(by_family, folds))
    prepared = {family: _prepare(members) for family, members in by_family.items()}
    own = {family for family, members in by_family.items() if len(members) >= _fewest(family, by_family)}
    models = {family: _fit(family, by_family[family], prepared, folds) for family in sorted(own)}
    for pool in sorted({pool_of(family) for family in by_family if pool_of(family).startswith("weighted")}):
        # The pooled model is always there: for carried families, and for forms that were never measured.
        everyone = _sample([row for f, members in by_family.items() if pool_of(f) == pool for row in members])
        models[pool] = _fit(pool, everyone, {pool: _prepare(everyone)}, folds)
    families = _price_families(models, by_family, prepared)
    known = tuple(sorted({(row.kernel.kind, row.kernel.dtype) for row in usable}))
    report = {name: _family_report(model) for name, model in models.items()}
    return cls(
        configuration,
        kind,
        models,
        families,
        known,
        idle_power_w,
        overhead,
        dict(report),
        unusable,
        drifts=drifts,
        switches=switches,
    )


def _may_split(by_family: Mapping[str, Sequence[KernelRow]]) -> Callable[[str], bool]:
    """Weighted kernels; the models of large families find such steps themselves."""
    return lambda family: pool_of(family).startswith("weighted") and len(by_family[family]) < LARGE_FAMILY_ROWS


def _split_task(
    by_family: Mapping[str, Sequence[KernelRow]], folds: int
) -> Callable[[str], tuple[KernelColumns, Floats, Floats, list[Index]]]:
    def task(family: str) -> tuple[KernelColumns, Floats, Floats, list[Index]]:
        rows = _prepare(by_family[family])
        return rows.columns, rows.log_latency, rows.latency_weight, grouped_folds(by_family[family], folds)

    return task


def _grouped(rows: Sequence[KernelRow]) -> dict[str, list[KernelRow]]:
    """Rows by family; kinds without weights that have few rows go together, for they differ in little but rates."""
    by_family: dict[str, list[KernelRow]] = defaultdict(list)
    for row in rows:
        by_family[family_of(row.kernel)].append(row)
    for family in list(by_family):
        pool = pool_of(family)
        if pool.startswith("memory") and family != pool and len(by_family[family]) < OWN_MEMORY_ROWS:
            by_family[pool] += by_family.pop(family)
    return by_family


def _check_configurations(rows: Sequence[KernelRow], configuration: Configuration) -> None:
    from power_models.kernel_cost import MixedConfigurations

    for row in rows:
        if row.configuration is not None and row.configuration != configuration:
            parts = [f"{f}: {a!r} here, {b!r} in the row" for f, a, b in configuration.differences(row.configuration)]
            raise MixedConfigurations(
                f"cost model of {configuration.device}: row {row.kernel.label} was measured in another configuration"
                f" ({'; '.join(parts)}); fit one model a configuration"
            )


def usable_rows(rows: Sequence[KernelRow]) -> tuple[list[KernelRow], list[str]]:
    """Rows with a positive, finite latency, and why the others are not usable.

    A row whose energy is not positive (lost in the sensor's noise) keeps its latency and loses its energy.
    """
    good: list[KernelRow] = []
    reasons: list[str] = []
    for row in rows:
        if not (np.isfinite(row.latency_s) and row.latency_s > 0):
            reasons.append(f"{row.kernel.label}: latency {row.latency_s!r} s is not positive")
            continue
        energy = row.energy_active_j
        if energy is not None and not (np.isfinite(energy) and energy > 0):
            reasons.append(f"{row.kernel.label}: active energy {energy!r} J is not positive; its latency is used")
            row = row._replace(energy_active_j=None, energy_se_j=None)
        good.append(row)
    return good, reasons


def grouped_folds(rows: Sequence[KernelRow], folds: int, seed: int = 0) -> list[Index]:
    """Disjoint row indices: equal kernels together, and rows of one group together.

    A group with more than 1/folds of the rows cannot be held out whole; its kernels are dealt out one by one.
    """
    sizes = Counter(row.group for row in rows)
    limit = len(rows) / folds
    parent: dict[object, object] = {}

    def root(key: object) -> object:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for row in rows:
        if sizes[row.group] <= limit:
            parent[root(("kernel", row.kernel))] = root(("group", row.group))
        else:
            root(("kernel", row.kernel))
    members: dict[object, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        members[root(("kernel", row.kernel))].append(i)
    blocks = list(members.values())
    order = np.random.default_rng(seed).permutation(len(blocks))
    dealt: list[list[int]] = [[] for _ in range(folds)]
    for position in order:
        min(dealt, key=len).extend(blocks[position])
    return [np.array(sorted(fold), dtype=np.intp) for fold in dealt if fold]


def _fewest(family: str, by_family: Mapping[str, Sequence[KernelRow]]) -> int:
    """How many rows a family needs for a model of its own."""
    if family == pool_of(family):
        return 0
    helpers = sum(len(by_family.get(other, ())) for other in supporters_of(family))
    return SUPPORTED_ROWS if helpers >= OWN_MODEL_ROWS else OWN_MODEL_ROWS


def _prepare(rows: Sequence[KernelRow]) -> Rows:
    latency = np.array([row.latency_s for row in rows])
    energy = np.array([np.nan if row.energy_active_j is None else row.energy_active_j for row in rows])
    return Rows(
        KernelColumns.of([row.kernel for row in rows]).make_tables(),
        np.log(latency),
        _weights([row.latency_se_s for row in rows], latency),
        np.log(energy),
        _weights([row.energy_se_j or 0.0 for row in rows], energy),
    )


def _sample(rows: Sequence[KernelRow]) -> Sequence[KernelRow]:
    if len(rows) <= STAND_IN_ROWS:
        return rows
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:STAND_IN_ROWS])
    return [rows[i] for i in chosen.tolist()]


def _fit(family: str, rows: Sequence[KernelRow], prepared: Mapping[str, Rows], folds: int) -> FamilyModel:
    if len(rows) >= LARGE_FAMILY_ROWS and family != pool_of(family):
        return fit_large_family(family, prepared[family], grouped_folds(rows, folds))
    candidates = STAND_IN if family.startswith("weighted") else tuple(CANDIDATES)
    support = None
    if len(rows) < HELPED_ROWS:
        helpers = [prepared[other] for other in supporters_of(family) if other in prepared]
        for helper in helpers:
            support = helper if support is None else support.joined(helper)
        candidates = (*candidates, *(f"{name}@pool" for name in POOLED if support is not None))
    return fit_family(family, prepared[family], grouped_folds(rows, folds), candidates, support)


def _weights(standard_errors: Sequence[float], values: Floats) -> Floats:
    relative = np.nan_to_num(np.array(standard_errors, dtype=np.float64) / values, nan=0.0)
    weight: Floats = 1.0 / (MODEL_NOISE**2 + relative**2)
    return weight * MODEL_NOISE**2


def _price_families(
    models: dict[str, FamilyModel],
    by_family: dict[str, list[KernelRow]],
    prepared: Mapping[str, Rows],
) -> dict[str, PricedFamily]:
    from power_models.kernel_cost import PricedFamily

    pooled = {quantity: _pooled_scores(models, quantity) for quantity in QUANTITIES}
    scales = {name: _scales(model, pooled, prepared) for name, model in models.items()}
    priced: dict[str, PricedFamily] = {}
    for family in sorted(set(by_family) | set(models)):
        model = models[family if family in models else pool_of(family)]
        own_scales = scales[model.name]
        shifts = {"latency": 0.0, "energy": 0.0}
        if family not in models:
            shifts, own_scales = _carried(model, by_family[family], own_scales)
        factors = _kind_factors(by_family.get(family, []), model)
        priced[family] = PricedFamily(model.name, shifts["latency"], shifts["energy"], own_scales, factors)
    return priced


def _scales(model: FamilyModel, pooled: Mapping[str, Floats], prepared: Mapping[str, Rows]) -> dict[str, ErrorScale]:
    """By its own held-out errors; where there are too few of them, by those that other families have with few rows."""
    wanted = [quantity for quantity in QUANTITIES if quantity in model.held_out]
    if all(_is_judged(model, quantity) for quantity in wanted):
        return {quantity: _scale(model, quantity, pooled[quantity]) for quantity in wanted}
    of_few = scales_of_few(prepared, model.name, min(model.rows, FEWEST_JUDGED - 1))
    return {q: _scale(model, q, pooled[q]) if _is_judged(model, q) else of_few[q] for q in wanted}


def _is_judged(model: FamilyModel, quantity: str) -> bool:
    """Whether rows enough were held out for their errors to tell how large errors are."""
    return int(np.isfinite(model.held_out.get(quantity, np.zeros(0))).sum()) >= FEWEST_JUDGED


def _finite(model: FamilyModel, quantity: str) -> tuple[Floats, Floats]:
    """Held-out errors (over their expected size, where that was learned) and distances of rows with the quantity."""
    errors = model.held_out[quantity]
    there = np.isfinite(errors)
    expected = model.doubts[quantity].held_out[there] if quantity in model.doubts else 1.0
    return errors[there] / expected, model.held_out["distance"][there]


def _scores(model: FamilyModel, quantity: str) -> tuple[Floats, float, float]:
    """Held-out errors over the scale of the family (n,), and that scale: (near, slope)."""
    errors, distance = _finite(model, quantity)
    near, slope = fit_scale(errors, distance)
    return errors / (near + slope * distance), near, slope


def _pooled_scores(models: dict[str, FamilyModel], quantity: str) -> Floats:
    scores = [_scores(model, quantity)[0] for model in models.values() if _is_judged(model, quantity)]
    return np.concatenate(scores) if scores else np.ones(1)


def _scale(model: FamilyModel, quantity: str, pooled: Floats) -> ErrorScale:
    signed, near, slope = _scores(model, quantity)
    share = common_share(signed, _neighbours(model.reach.points[np.isfinite(model.held_out[quantity])]))
    down, up = sided_quantiles(signed, pooled)
    rms_down, rms_up = sided_rms(signed)
    return ErrorScale(near, slope, up, down, rms_up, rms_down, share)


def _neighbours(points: Floats, count: int = 3) -> Index:
    """Indices (n, count) of the nearest other rows of standardized features (n, d)."""
    if len(points) <= count + 1:
        return np.zeros((len(points), 0), dtype=np.intp)
    length = (points**2).sum(axis=1)
    nearest = []
    for start in range(0, len(points), BLOCK_ROWS):
        own = np.arange(start, min(start + BLOCK_ROWS, len(points)))
        square = length[own, None] + length[None, :] - 2 * points[own] @ points.T
        square[np.arange(len(own)), own] = np.inf
        nearest.append(np.argpartition(square, count, axis=1)[:, :count])
    return np.concatenate(nearest)


def _carried(
    model: FamilyModel, rows: Sequence[KernelRow], scales: dict[str, ErrorScale]
) -> tuple[dict[str, float], dict[str, ErrorScale]]:
    """Shift and widened scales of a family that the pooled model carries."""
    log_latency, log_energy = model.predict(KernelColumns.of([row.kernel for row in rows]))
    errors = {
        "latency": np.log([row.latency_s for row in rows]) - log_latency,
        "energy": np.log([row.energy_active_j or np.nan for row in rows]) - log_energy,
    }
    errors["power"] = errors["energy"] - errors["latency"]
    n = len(rows)
    shifts = {
        q: float(np.nan_to_num(np.nanmedian(e))) * n / (n + SHIFT_ROWS) if np.isfinite(e).any() else 0.0
        for q, e in errors.items()
    }
    widened = {}
    for quantity, scale in scales.items():
        left = np.abs(errors[quantity] - shifts[quantity])
        left = left[np.isfinite(left)]
        # These rows were in the pooled fit, so what they leave is too small a guide; few of them count for less still.
        typical = max(scale.near * (1 + 2.0 / n), 1.5 * float(left.mean()) * (1 + 2.0 / n) if len(left) else 0.0)
        up, down = max(scale.up, 2.5), max(scale.down, 2.5)
        widened[quantity] = ErrorScale(typical, scale.slope, up, down, up / NORMAL_95, down / NORMAL_95, scale.share)
    return shifts, widened


def _kind_factors(rows: Sequence[KernelRow], model: FamilyModel) -> dict[str, float]:
    counts = Counter(row.kernel.kind for row in rows)
    if len(counts) < 2 or sum(counts.values()) != model.rows or not _is_judged(model, "latency"):
        return {}
    kinds = np.array([row.kernel.kind for row in rows])[np.isfinite(model.held_out["latency"])]
    # Errors over their scale: what distance explains is in the scale already.
    size = np.abs(_scores(model, "latency")[0])
    typical = float(np.median(size)) + 1e-6
    factors = {}
    for kind, n in counts.items():
        mine = size[kinds == kind]
        own = float(np.median(mine)) / typical if len(mine) else 1.0
        factors[kind] = float(max(1.0, own ** (n / (n + 4.0))) * np.sqrt(1.0 + 2.0 / n))
    return factors


def _family_report(model: FamilyModel) -> dict[str, object]:
    about: dict[str, object] = {"rows": model.rows, "candidates": model.scores}
    for quantity in QUANTITIES:
        if quantity not in model.held_out:
            continue
        errors = model.held_out[quantity]
        errors = errors[np.isfinite(errors)]
        size = np.abs(np.expm1(-errors))
        told = len(errors) > 0  # of one row or two none can be held out
        about[quantity] = {
            "median_error": float(np.median(size)) if told else None,
            "mean_error": float(size.mean()) if told else None,
            "p90_error": float(np.quantile(size, 0.9)) if told else None,
            "conformal_95": float(np.expm1(conformal_quantile(np.abs(errors)))) if told else None,
        }
    return about
