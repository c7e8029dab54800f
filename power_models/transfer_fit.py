"""Fitting a transfer: what a new board's few measurements say of a base model, and where the base is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from device_agents.records import Configuration, KernelSpec
from power_models.families import family_of
from power_models.features import Floats
from power_models.fitting import grouped_folds, usable_rows
from power_models.intervals import NORMAL_95, ErrorScale
from power_models.kernel_cost import Bounds, CannotFit, KernelCostModel, KernelRow, PricedFamily
from power_models.kernel_process import ErrorPrior, FeatureSpace, Points, covariance, learn_prior
from power_models.network_check import NetworkRow
from power_models.transfer import OTHER, QUANTITIES, TRANSFERRED, Correction, TransferredModel

START = ErrorPrior(common=1.0, level=0.25, slope=0.25, bend=0.08, reach=0.7, noise=0.03)
NETWORK_NOISE = 0.02  # relative: what a network's total is off beside its kernels
FEWEST_OWN_ROWS = 8  # with fewer rows no model of the new board's own is tried
FEWEST_JUDGED = 4  # rows of a family that can tell the two models apart; with fewer all rows decide
FOLDS, FEWER_FOLDS, MANY_ROWS = 4, 2, 120  # of many rows two halves tell the models apart as well
UNSEEN_SHARE = 0.8  # of the doubt of a family of which nothing was measured: most of it is common to its kernels
LINEAR_STEPS = 3


class _Observed:
    """Observations of one quantity: log of new over base (n,), noises (n,), kernels (u) and shares (n, u)."""

    def __init__(self, kernels: list[KernelSpec], shares: Floats, target: Floats, noise: Floats) -> None:
        self.kernels, self.shares, self.target, self.noise = kernels, shares, target, noise

    def take(self, index: Sequence[int]) -> _Observed:
        """Some of them; kernels that none of these contains go."""
        rows = self.shares[list(index)]
        used = np.flatnonzero(np.abs(rows).sum(0) > 0)
        kernels = [self.kernels[i] for i in used]
        return _Observed(kernels, rows[:, used], self.target[list(index)], self.noise[list(index)])

    def around(self, mean: Floats) -> _Observed:
        """The same, linear around kernels that are off by ``mean`` (u,): a network's log total is no weighted sum."""
        weighed = self.shares * np.exp(mean)
        total = weighed.sum(1, keepdims=True)
        shares = weighed / total
        return _Observed(self.kernels, shares, self.target - np.log(total[:, 0]) + shares @ mean, self.noise)


def _settled(observed: _Observed, space: FeatureSpace) -> Correction:
    """The correction with learned scales, made linear around itself until it stands."""
    points = space.points(observed.kernels)
    prior = learn_prior(points, observed.shares, observed.target, START)
    correction = _corrected(observed, prior, space)
    if (observed.shares.max(axis=1) == 1.0).all():
        return correction  # kernels alone: already linear
    inner = covariance(prior, points, points)
    for _ in range(LINEAR_STEPS):
        correction = _corrected(observed.around(inner @ correction.dual), prior, space)
    return correction


def _corrected(observed: _Observed, prior: ErrorPrior, space: FeatureSpace) -> Correction:
    """The posterior of the process given the observations."""
    from scipy.linalg import cholesky, solve_triangular

    points = space.points(observed.kernels)
    inner = observed.shares @ covariance(prior, points, points) @ observed.shares.T
    # What no feature knows is each kernel's own: a network averages it out.
    own = prior.noise**2 * (observed.shares**2).sum(1) + observed.noise**2
    factor = cholesky(inner + np.diag(own) + 1e-10 * np.eye(len(own)), lower=True)
    whitened = solve_triangular(factor, observed.shares, lower=True)
    weighted = solve_triangular(factor, observed.target, lower=True)
    dual = whitened.T @ weighted
    inverse = solve_triangular(factor, np.eye(len(own)), lower=True)
    precision = inverse.T @ inverse
    scores = (precision @ observed.target) / np.sqrt(np.diag(precision))  # leave-one-out errors over their deviations
    n = len(scores)
    width = max(0.8, float(np.sqrt((scores**2).mean())) * (1.0 + 2.0 / n)) if n > 2 else 2.0
    shares = _common_shares(prior, points, whitened, space, observed.kernels)
    return Correction(prior, space, points, dual, whitened, width, shares)


def _common_shares(
    prior: ErrorPrior, points: Points, whitened: Floats, space: FeatureSpace, kernels: Sequence[KernelSpec]
) -> dict[str, float]:
    """By family, the root of the mean correlation of what is left unknown of two of its kernels."""
    between = covariance(prior, points, points)
    reduced = between @ whitened.T
    left = between - reduced @ reduced.T
    deviation = np.sqrt(np.maximum(np.diag(left), 0.0) + prior.noise**2)
    correlation = left / np.outer(deviation, deviation)
    labels = np.array([family_of(kernel) for kernel in kernels])
    shares = {}
    for family in set(labels.tolist()):
        members = np.flatnonzero(labels == family)
        block = correlation[np.ix_(members, members)]
        n = len(members)
        mean = (block.sum() - np.trace(block)) / (n * (n - 1)) if n > 1 else 0.5
        shares[family] = float(np.sqrt(min(max(mean, 0.05), 0.95)))
    return shares


def fit_transferred(
    base: KernelCostModel,
    rows: Sequence[KernelRow],
    configuration: Configuration,
    kind: str,
    *,
    networks: Sequence[NetworkRow] = (),
    idle_power_w: Bounds | None = None,
    overhead: tuple[float, float] = (0.0, 0.0),
) -> KernelCostModel:
    """The model of a new board from that of ``base`` and rows and whole networks of the new one.

    Where the base is of use to no family, the model is that of the rows alone. ``report["transfer"]`` says which family
    is priced by what, and the held-out errors that decided. Raises CannotFit where there is nothing usable.
    """
    good, unusable = usable_rows(rows)
    known = set(base.known_kinds)
    usable = [n for n in networks if n.kernels and all((k.kind, k.dtype) in known for k in n.kernels)]
    ours = [row for row in good if (row.kernel.kind, row.kernel.dtype) in known]
    if not good and not usable:
        raise CannotFit(f"cost model of {configuration.device}: nothing measured is usable; {unusable[:3]}")
    fresh = None
    if good:
        fresh = KernelCostModel.fit(good, configuration, kind, idle_power_w=idle_power_w, overhead=overhead)
        if not ours:
            return fresh
    observed = {q: _observations(base, ours, usable, overhead, q) for q in QUANTITIES}
    space = FeatureSpace.of(list(dict.fromkeys(k for o in observed.values() if o is not None for k in o.kernels)))
    corrections = {}
    for quantity, one in observed.items():
        if one is not None and len(one.target):
            corrections[quantity] = _settled(one, space)
    sources, otherwise, report = _sources(base, ours, corrections, observed["latency"], configuration, kind)
    kinds = known | (set(fresh.known_kinds) if fresh is not None else set())
    if fresh is not None and kinds == set(fresh.known_kinds) and "base" not in {otherwise, *sources.values()}:
        return replace(fresh, report={**fresh.report, "transfer": report})
    return TransferredModel(
        configuration,
        kind,
        {},
        _families(base, fresh, corrections),
        tuple(sorted(kinds)),
        idle_power_w or base.idle_power_w,
        overhead,
        {"transfer": report},
        list(unusable),
        {},
        None if fresh is None else fresh.layout_block,
        base=base,
        fresh=fresh,
        corrections=corrections,
        sources=sources,
        otherwise=otherwise,
    )


def _observations(
    base: KernelCostModel,
    rows: Sequence[KernelRow],
    networks: Sequence[NetworkRow],
    overhead: tuple[float, float],
    quantity: str,
) -> _Observed | None:
    """What was measured over what the base says of it; None where nothing of this quantity was measured."""
    with_energy = quantity != "latency"
    rows = [row for row in rows if not with_energy or row.energy_active_j]
    networks = [n for n in networks if not with_energy or n.energy_active_j]
    kernels = list(dict.fromkeys([row.kernel for row in rows] + [k for n in networks for k in n.kernels]))
    if not kernels:
        return None
    place = {kernel: i for i, kernel in enumerate(kernels)}
    costs = base.predict(kernels)
    if with_energy and not np.isfinite(costs.energy_j).all():
        return None
    shares = np.zeros((len(rows) + len(networks), len(kernels)))
    target, noise = np.zeros(len(shares)), np.zeros(len(shares))

    def ratio(seconds: float, joules: float | None, base_seconds: float, base_joules: float) -> float:
        latency = float(np.log(seconds / base_seconds))
        if joules is None or quantity == "latency":
            return latency
        energy = float(np.log(joules / base_joules))
        return energy if quantity == "energy" else energy - latency

    for i, row in enumerate(rows):
        at = place[row.kernel]
        shares[i, at] = 1.0
        target[i] = ratio(row.latency_s, row.energy_active_j, costs.latency_s[at], costs.energy_j[at])
        noise[i] = _relative_se(row, quantity)
    for i, network in enumerate(networks, len(rows)):
        index, counts = np.unique([place[kernel] for kernel in network.kernels], return_counts=True)
        cost = counts * (costs.energy_j if with_energy else costs.latency_s)[index]
        shares[i, index] = cost / cost.sum()
        seconds = max(network.latency_s - overhead[0], 0.5 * network.latency_s)
        joules = network.energy_active_j
        if joules is not None:
            joules = max(joules - overhead[1], 0.5 * joules)
        base_cost = (counts * costs.latency_s[index]).sum(), (counts * costs.energy_j[index]).sum()
        target[i] = ratio(seconds, joules, *map(float, base_cost))
        noise[i] = NETWORK_NOISE
    return _Observed(kernels, shares, target, noise)


def _relative_se(row: KernelRow, quantity: str) -> float:
    latency = row.latency_se_s / row.latency_s
    if quantity == "latency" or not row.energy_active_j:
        return float(np.nan_to_num(latency))
    energy = (row.energy_se_j or 0.0) / row.energy_active_j
    return float(np.nan_to_num(energy if quantity == "energy" else np.hypot(latency, energy)))


def _sources(
    base: KernelCostModel,
    rows: Sequence[KernelRow],
    corrections: Mapping[str, Correction],
    observed: _Observed | None,
    configuration: Configuration,
    kind: str,
) -> tuple[dict[str, str], str, dict[str, object]]:
    """By family, and otherwise: the base corrected, or the rows alone, by their errors on rows held out; a report."""
    if len(rows) < FEWEST_OWN_ROWS or observed is None:
        return {}, "base", {"families": {}, "rows": len(rows), "otherwise": "base"}
    errors = {"base": np.full(len(rows), np.nan), "fresh": np.full(len(rows), np.nan)}
    of_rows = observed.take(range(len(rows)))
    costs = base.predict([row.kernel for row in rows])
    for fold in grouped_folds(rows, FOLDS if len(rows) < MANY_ROWS else FEWER_FOLDS, seed=3):
        rest = np.setdiff1d(np.arange(len(rows)), fold)
        kernels = [rows[i].kernel for i in fold]
        measured = np.log([rows[i].latency_s for i in fold])
        correction = _corrected(of_rows.take(rest.tolist()), corrections["latency"].prior, corrections["latency"].space)
        errors["base"][fold] = measured - np.log(costs.latency_s[fold]) - correction.at(kernels)[0]
        own = KernelCostModel.fit([rows[i] for i in rest], configuration, kind, folds=3)
        priced = [j for j, k in enumerate(kernels) if (k.kind, k.dtype) in own.known_kinds]
        if priced:
            found = own.predict([kernels[j] for j in priced])
            errors["fresh"][fold[priced]] = measured[priced] - np.log(found.latency_s)
    size = {name: np.minimum(np.nan_to_num(np.abs(one), nan=1.0), 1.0) for name, one in errors.items()}
    labels = np.array([family_of(row.kernel) for row in rows])
    overall = "base" if size["base"].mean() <= size["fresh"].mean() else "fresh"
    sources: dict[str, str] = {}
    table: dict[str, object] = {}
    for family in sorted(set(labels.tolist())):
        members = labels == family
        means = {name: float(one[members].mean()) for name, one in size.items()}
        judged = int(members.sum()) >= FEWEST_JUDGED
        sources[family] = min(means, key=lambda name: means[name]) if judged else overall
        table[family] = {"priced_by": sources[family], "rows": int(members.sum()), **means}
    return sources, overall, {"families": table, "rows": len(rows), "otherwise": overall}


def _families(
    base: KernelCostModel, fresh: KernelCostModel | None, corrections: Mapping[str, Correction]
) -> dict[str, PricedFamily]:
    """Every family that either model prices, with the scales of its sums; nothing is shifted yet."""
    families = {}
    for family, priced in (fresh.families if fresh is not None else {}).items():
        families[family] = replace(priced, latency_shift=0.0, energy_shift=0.0)
    measured = {family for correction in corrections.values() for family in correction.shares}
    for family in sorted({*base.families, *measured, OTHER}):
        families[TRANSFERRED + family] = PricedFamily("base", 0.0, 0.0, _scales(corrections, family), {})
    return families


def _scales(corrections: Mapping[str, Correction], family: str) -> dict[str, ErrorScale]:
    """Only the common share is used: the spreads themselves are the process's."""
    scales = {}
    for quantity, correction in corrections.items():
        near = correction.width * correction.prior.noise
        share = correction.shares.get(family, UNSEEN_SHARE)
        scales[quantity] = ErrorScale(near, 0.0, NORMAL_95, NORMAL_95, 1.0, 1.0, share)
    return scales
