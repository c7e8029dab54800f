"""Fitting a family that has hundreds of rows or more: latency, then power, so that energy = power · latency.

Every member is judged on rows that it was not fitted to: the process by the closed form of its left-out errors, the
trees by being grown again; on random folds, and on whole levels of one size after another. Power sees the latency as
the folds predicted it, not as it was measured: that is what a new kernel brings. How large an error is to be expected
of a kernel (short ones err more) is learned from the same held-out errors by a few trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_models.family_cost import Doubt, FamilyModel, held_out_distance, restricted
from power_models.features import Floats, KernelColumns
from power_models.process import Process
from power_models.reach import Reach
from power_models.regressors import make_regressor
from power_models.roofline import Roofline
from power_models.selection import Index, Rows, score
from power_models.stacked import DIMENSIONS, Levels, Stack, apart, stack_features
from power_models.trees import HistogramTrees

LARGE_FAMILY_ROWS = 300  # from so many rows on
FEWEST_WITH_ENERGY = 40  # of these rows, with fewer power is not modelled
ANCHOR_ROWS = 1500  # what a handful of physical coefficients is fitted to
REFERENCE_ROWS = 800  # what the reference candidates are fitted to
REFERENCES = ("flops", "nonnegative", "roofline", "polynomial")
FEW_LEVELS = 40  # up to so many values of a size are levels; more are cut into bands
BANDS = 10
JUDGED_BY_ITSELF = 1200  # rows from which on a process tells its own left-out errors
NAMES = ("process", "trees")


class _Fitted(NamedTuple):
    stack: Stack
    errors: Floats
    spread: Floats
    scores: dict[str, float]


def fit_large_family(name: str, rows: Rows, folds: Sequence[Index], seed: int = 0) -> FamilyModel:
    """Fit one family; ``folds``: disjoint index arrays that cover the rows."""
    columns = rows.columns
    kinds = tuple(sorted(set(columns.kinds.tolist())))
    groups = level_groups(columns, seed)
    size = _standard(rows.log_latency)
    latency = _fit_stack(columns, kinds, rows.log_latency, rows.latency_weight, size, folds, groups, False)
    scores = {"latency": latency.scores | _reference_scores(columns, kinds, rows.log_latency, folds)}
    reach = Reach.of(columns, kinds)
    held_out = {"latency": latency.errors, "distance": held_out_distance(columns, kinds, folds)}
    guessed = rows.log_latency - latency.errors
    doubts = {"latency": _fit_doubt(columns, latency.errors, guessed, [latency.spread], folds)}
    there = np.flatnonzero(np.isfinite(rows.log_energy))
    own_folds = restricted(folds, there, len(columns))
    energy = None
    if len(there) >= FEWEST_WITH_ENERGY and len(own_folds) > 1:
        part, seconds = columns.take(there), guessed[there]
        log_power = (rows.log_energy - rows.log_latency)[there]
        weight, own_groups = rows.energy_weight[there], level_groups(part, seed)
        known = part.given(np.exp(seconds))
        power = _fit_stack(known, kinds, log_power, weight, size[there], own_folds, own_groups, True)
        energy, scores["power"] = power.stack, power.scores
        errors = {"power": power.errors, "energy": power.errors + latency.errors[there]}
        spreads = {"power": [power.spread], "energy": [latency.spread[there], power.spread]}
        for quantity, own in errors.items():
            held_out[quantity] = _spread_over(there, own, len(columns))
            doubt = _fit_doubt(part, own, seconds, spreads[quantity], own_folds)
            doubts[quantity] = replace(doubt, held_out=_spread_over(there, doubt.held_out, len(columns)))
    return FamilyModel(name, kinds, len(columns), latency.stack, energy, reach, held_out, doubts, scores)


def _spread_over(there: Index, values: Floats, count: int) -> Floats:
    """The values in their places among ``count`` rows, nan elsewhere: rows whose energy was not measured."""
    found = np.full(count, np.nan)
    found[there] = values
    return found


def level_groups(columns: KernelColumns, seed: int = 0) -> list[Index]:
    """Rows to leave out together: one inner level (or band of levels) of every size that varies."""
    rng = np.random.default_rng(seed)
    groups: list[Index] = []
    done: list[Floats] = []
    for dimension in DIMENSIONS:
        values = columns.number(dimension)
        if any(np.array_equal(values, other) for other in done):
            continue  # square maps and windows: height and width are one size
        done.append(values)
        levels = np.unique(values)
        if len(levels) > FEW_LEVELS:
            edges = np.unique(np.quantile(values, np.linspace(0, 1, BANDS + 1)[1:-1]))
            values = np.searchsorted(edges, values, side="right").astype(np.float64)
            levels = np.unique(values)
        if len(levels) < 3:
            continue
        groups.append(np.flatnonzero(values == rng.choice(levels[1:-1])))
    return groups


def _fit_stack(
    columns: KernelColumns,
    kinds: tuple[str, ...],
    target: Floats,
    weight: Floats,
    size: Floats,
    folds: Sequence[Index],
    groups: Sequence[Index],
    of_power: bool,
) -> _Fitted:
    sample = np.random.default_rng(0).permutation(len(target))[:ANCHOR_ROWS]
    anchor, level = None, float(np.median(target))
    if not of_power:
        anchor = Roofline(kinds).fit(columns.take(sample), target[sample], weight[sample])
    left = target - (anchor.predict(columns) if anchor is not None else level)
    coarse, fine = stack_features(columns, kinds)
    features = np.hstack([coarse, fine])
    process = Process(coarse.shape[1]).fit(features, left, weight, size)
    trees = HistogramTrees().fit(features, left, weight)

    judges = _judges(process, features, left, weight, size)

    def errors_without(rows: Index) -> Floats:
        rest = np.setdiff1d(np.arange(len(left)), rows)
        grown = HistogramTrees().fit(features[rest], left[rest], weight[rest])
        return np.stack([_judged(judges, rows), left[rows] - grown.predict(features[rows])])

    by_fold = np.zeros((len(NAMES), len(left)))
    for fold in folds:
        by_fold[:, fold] = errors_without(fold)
    by_group = [errors_without(group) for group in groups]
    for judge, _ in judges:
        judge.release()
    seen = stack_weights(by_fold, left)
    between, widening = seen, 1.0
    if by_group:
        rows = np.concatenate(groups)
        between = stack_weights(np.hstack(by_group), left[rows])
        without_level = score(_combined(np.hstack(by_group), left[rows], between))
        widening = max(1.0, without_level / score(_combined(by_fold, left, seen)[rows]))
    errors = _combined(by_fold, left, seen)
    scores = {name: score(own) for name, own in zip(NAMES, by_fold, strict=True)}
    scores |= {"anchor": score(left), "stack": score(errors)}
    stack = Stack(
        NAMES,
        kinds,
        of_power,
        [process, trees],
        np.stack([seen, between]),
        anchor,
        level,
        float(np.abs(left).max()) + 0.05,
        Levels.of(columns),
        float(widening),
    )
    return _Fitted(stack, errors, apart(left - by_fold), scores)


def _judges(
    process: Process, features: Floats, left: Floats, weight: Floats, size: Floats
) -> list[tuple[Process, NDArray[np.bool_]]]:
    """Processes, and the rows (n,) whose left-out errors each may tell.

    Of many rows the hyper-parameters saw a sample, and what they took from any one row is little. Of few they saw all,
    and the errors would look too small: two processes, each tuned on one half of the rows, tell the other's.
    """
    if len(left) >= JUDGED_BY_ITSELF:
        return [(process, np.ones(len(left), bool))]
    process.release()
    second = np.random.default_rng(1).permutation(len(left)) % 2 == 1
    found = []
    for half in (second, ~second):
        judge = Process(process.coarse).fit(features, left, weight, size, np.flatnonzero(~half))
        found.append((judge, half))
    return found


def _judged(judges: Sequence[tuple[Process, NDArray[np.bool_]]], rows: Index) -> Floats:
    """Left-out errors of ``rows`` (all of them left out together), each told by the process that may."""
    errors = np.zeros(len(rows))
    for judge, may in judges:
        own = may[rows]
        errors[own] = judge.left_out(rows)[own]
    return errors


def _combined(errors: Floats, left: Floats, weights: Floats) -> Floats:
    """Errors (n,) of the weighted sum of members, whose own errors are (m, n); what no weight takes stays ``left``."""
    result: Floats = weights @ errors + (1 - weights.sum()) * left
    return result


def stack_weights(errors: Floats, left: Floats, steps: int = 6) -> Floats:
    """Weights (m,), non-negative and at most one in sum, with the least mean |error|; errors (m, n), left (n,).

    Iteratively reweighted least squares; the anchor alone (all weights zero) is always among what is weighed.
    """
    from scipy.optimize import nnls

    # error = left − Σ w·(left − e): fit left by the members' predictions
    predictions = (left - errors).T
    weights = np.full(len(errors), 1.0 / len(errors))
    scale = float(np.median(np.abs(errors))) + 1e-9
    for _ in range(steps):
        root = 1.0 / np.sqrt(np.maximum(np.abs(left - predictions @ weights), 0.1 * scale))
        weights = nnls(predictions * root[:, None], left * root)[0]
    total = float(weights.sum())
    result: Floats = weights / total if total > 1.0 else weights
    return result


def _standard(values: Floats) -> Floats:
    spread = float(values.std())
    standard: Floats = (values - values.mean()) / (spread if spread > 0 else 1.0)
    return standard


def _fit_doubt(
    columns: KernelColumns, errors: Floats, log_latency: Floats, spreads: Sequence[Floats], folds: Sequence[Index]
) -> Doubt:
    """The expected size of an error, and the held-out estimates of it (n,), each made without the row's fold."""
    features = Doubt.features(columns, log_latency, spreads)
    median = float(np.median(np.abs(errors))) + 1e-6
    target = np.minimum(np.abs(errors), 20 * median) + 0.1 * median  # no row decides alone, none counts as certain
    held_out = np.zeros(len(errors))
    everyone = np.arange(len(errors))
    for fold in folds:
        rest = np.setdiff1d(everyone, fold)
        held_out[fold] = np.exp(Doubt.grown(features[rest], target[rest]).predict(features[fold]))
    return Doubt(Doubt.grown(features, target), held_out)


def _reference_scores(
    columns: KernelColumns, kinds: tuple[str, ...], target: Floats, folds: Sequence[Index]
) -> dict[str, float]:
    """Held-out error of the reference candidates on the first fold, fitted to a sample of the others."""
    rest = np.setdiff1d(np.arange(len(target)), folds[0])
    rest = np.random.default_rng(0).permutation(rest)[:REFERENCE_ROWS]
    known, ones = columns.take(rest), np.ones(len(rest))
    test = columns.take(folds[0])
    return {
        name: score(target[folds[0]] - make_regressor(name, kinds).fit(known, target[rest], ones).predict(test))
        for name in REFERENCES
    }
