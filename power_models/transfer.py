"""A board's cost model from that of a similar board and few measurements of its own.

    log cost here = log cost there + level + level of the family + slopes + a small smooth bend   (kernel_process)

The scales of what differs are learned from the few measurements (a board that differs by one factor is known after
a few kernels, one that differs otherwise takes more), and so is how sure the result is. Measurements may be kernels or
whole networks. Where kernels were measured, a model fitted to them alone competes family by family on held-out rows: a
base that misleads is left out. Kernels of kinds that the base does not know come from that model too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_agents.records import Configuration, KernelSpec
from power_models import model_files
from power_models.families import family_of
from power_models.features import Floats
from power_models.fitting import grouped_folds, usable_rows
from power_models.intervals import NORMAL_95, ErrorScale
from power_models.kernel_cost import Bounds, KernelCostModel, KernelCosts, KernelRow, PricedFamily
from power_models.kernel_process import ErrorPrior, FeatureSpace, Points, covariance, learn_prior, variance
from power_models.network_check import NetworkRow

START = ErrorPrior(common=1.0, level=0.25, slope=0.25, bend=0.08, reach=0.7, noise=0.03)
NETWORK_NOISE = 0.02  # relative: what a network's total is off beside its kernels
FEWEST_OWN_ROWS = 8  # with fewer rows no model of the new board's own is tried
FEWEST_JUDGED = 4  # rows of a family that can tell the two models apart; with fewer all rows decide
FOLDS = 4
UNSEEN_SHARE = 0.8  # of the doubt of a family of which nothing was measured: most of it is common to its kernels
TRANSFERRED = "transferred "
OTHER = "other"  # families of which nothing was measured, neither there nor here
LINEAR_STEPS = 3
QUANTITIES = ("latency", "energy", "power")


@dataclass(frozen=True)
class Correction:
    """What a quantity (log) is off on the new board: posterior of the process given n observations.

    ``points``: the u kernels that were observed; ``dual`` (u,): mean = K(x, points)·dual; ``whitened`` (n, u): the
    variance falls by the squared length of whitened·K(points, x). ``width``: by how much held-out errors exceed the
    process's own deviations. ``shares``: by family, the part of the deviation that its kernels have in common.
    """

    prior: ErrorPrior
    space: FeatureSpace
    points: Points
    dual: Floats
    whitened: Floats
    width: float
    shares: Mapping[str, float]

    def at(self, kernels: Sequence[KernelSpec]) -> tuple[Floats, Floats]:
        """(mean, standard deviation) of the log of new over base (n,), measuring noise and the unexplained included."""
        points = self.space.points(kernels)
        between = covariance(self.prior, points, self.points)
        left = variance(self.prior, points) - ((between @ self.whitened.T) ** 2).sum(1)
        return between @ self.dual, self.width * np.sqrt(np.maximum(left, 0.0) + self.prior.noise**2)


@dataclass
class TransferredModel(KernelCostModel):
    """A model whose kernels are priced by ``base`` and a correction, or by ``fresh``, a model of the new board's rows.

    ``sources``: by family, "base" or "fresh"; ``otherwise``: of families that could not be judged. In ``families``
    those of the base have ``TRANSFERRED`` before their names; their shifts are what measured networks taught on top.
    """

    base: KernelCostModel | None = None
    fresh: KernelCostModel | None = None
    corrections: dict[str, Correction] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    otherwise: str = "base"

    def predict(self, kernels: Sequence[KernelSpec], names: Sequence[str] | None = None) -> KernelCosts:
        """As ``KernelCostModel.predict``."""
        kernels = list(kernels)
        self._check_priced(kernels, names)
        sources = np.array([self._source(kernel) for kernel in kernels])
        parts: list[tuple[NDArray[np.intp], KernelCosts]] = []
        for source in dict.fromkeys(sources.tolist()):
            index = np.flatnonzero(sources == source)
            own = [kernels[i] for i in index]
            priced = self._of_base(own) if source == "base" else self._of_fresh(own)
            parts.append((index, priced))
        return _merged(len(kernels), parts)

    def _source(self, kernel: KernelSpec) -> str:
        key = (kernel.kind, kernel.dtype)
        able = [
            name for name, model in (("base", self.base), ("fresh", self.fresh)) if model and key in model.known_kinds
        ]
        wanted = self.sources.get(family_of(kernel), self.otherwise)
        return wanted if wanted in able else able[0]

    def _label(self, family: str) -> str:
        label = TRANSFERRED + family
        return label if label in self.families else TRANSFERRED + OTHER

    def _of_fresh(self, kernels: list[KernelSpec]) -> KernelCosts:
        assert self.fresh is not None
        return self._shifted(self.fresh.predict(kernels))

    def _of_base(self, kernels: list[KernelSpec]) -> KernelCosts:
        assert self.base is not None
        costs = self.base.predict(kernels)
        deviations = {}
        for quantity in QUANTITIES:
            if quantity in self.corrections:
                mean, deviation = self.corrections[quantity].at(kernels)
            else:
                mean, deviation = np.zeros(len(kernels)), np.full(len(kernels), np.nan)
            # Outside what the base was fitted to, its own doubt comes on top.
            doubt = 0.5 * (costs.spreads[quantity][0] + costs.spreads[quantity][1])
            half = np.where(costs.extrapolated, np.hypot(NORMAL_95 * deviation, doubt), NORMAL_95 * deviation)
            deviations[quantity] = (mean, half)
        latency = costs.latency_s * np.exp(deviations["latency"][0])
        energy = costs.energy_j * np.exp(deviations["energy"][0])
        halves = {quantity: half for quantity, (_, half) in deviations.items()}
        priced = replace(
            costs,
            latency_s=latency,
            latency_lo_s=latency * np.exp(-halves["latency"]),
            latency_hi_s=latency * np.exp(halves["latency"]),
            energy_j=energy,
            energy_lo_j=energy * np.exp(-halves["energy"]),
            energy_hi_j=energy * np.exp(halves["energy"]),
            chosen=[f"transferred:{name}" for name in costs.chosen],
            families=[self._label(name) for name in costs.families],
            spreads={quantity: (half, half) for quantity, half in halves.items()},
        )
        return self._shifted(priced)

    def _shifted(self, costs: KernelCosts) -> KernelCosts:
        """With the shifts that measured networks taught (``network_check``), which are on top of everything."""
        latency = np.exp([self.families[family].latency_shift for family in costs.families])
        energy = np.exp([self.families[family].energy_shift for family in costs.families])
        names = ("latency_s", "latency_lo_s", "latency_hi_s"), ("energy_j", "energy_lo_j", "energy_hi_j")
        scaled = {
            name: getattr(costs, name) * by for own, by in zip(names, (latency, energy), strict=True) for name in own
        }
        return replace(costs, **scaled)

    def save(self, folder: object) -> None:
        """Write the parts first, and last the files that make them a model."""
        target = Path(str(folder))
        arrays: dict[str, Any] = {}
        about: dict[str, Any] = {"sources": self.sources, "otherwise": self.otherwise, "corrections": {}}
        parts = {name: part for name, part in (("base", self.base), ("fresh", self.fresh)) if part is not None}
        for name, part in parts.items():
            part.save(target / name)
        for quantity, own in self.corrections.items():
            about["corrections"][quantity] = {
                "prior": list(own.prior),
                "families": own.space.families,
                "width": own.width,
                "shares": dict(own.shares),
            }
            values = (own.space.centre, own.space.inverse, *own.points, own.dual, own.whitened)
            arrays |= {f"{quantity}.{name}": value for name, value in zip(_ARRAYS, values, strict=True)}
        model_files.write_arrays(target / "transfer.npz", arrays)
        super_model = replace(self, report={**self.report, "parts": {"names": list(parts), **about}})
        model_files.write(super_model, target)


_ARRAYS = ("centre", "inverse", "table", "families", "dual", "whitened")


def restore(model: KernelCostModel, folder: Path) -> TransferredModel:
    """Rebuild what ``save`` wrote; ``model`` holds what every cost model has."""
    report = dict(model.report)
    about: Any = report.pop("parts")
    arrays = model_files.read_arrays(folder / "transfer.npz")
    parts = {name: KernelCostModel.load(folder / name) for name in about["names"]}
    corrections = {}
    for quantity, own in about["corrections"].items():
        centre, inverse, table, families, dual, whitened = (arrays[f"{quantity}.{name}"] for name in _ARRAYS)
        space, points = FeatureSpace(centre, inverse, own["families"]), Points(table, families)
        prior = ErrorPrior(*own["prior"])
        corrections[quantity] = Correction(prior, space, points, dual, whitened, own["width"], own["shares"])
    common = {item.name: getattr(model, item.name) for item in fields(KernelCostModel)} | {"report": report}
    return TransferredModel(
        **common,
        base=parts.get("base"),
        fresh=parts.get("fresh"),
        corrections=corrections,
        sources=dict(about["sources"]),
        otherwise=about["otherwise"],
    )


def _merged(n: int, parts: Sequence[tuple[NDArray[np.intp], KernelCosts]]) -> KernelCosts:
    """Costs of parts, put into their places."""
    if len(parts) == 1:
        return parts[0][1]

    def joined(values: list[Any]) -> Any:
        if isinstance(values[0], list):
            out_list: list[Any] = [None] * n
            for (index, _), value in zip(parts, values, strict=True):
                for position, one in zip(index.tolist(), value, strict=True):
                    out_list[position] = one
            return out_list
        if isinstance(values[0], Mapping):
            return {name: joined([value[name] for value in values]) for name in values[0]}
        if isinstance(values[0], tuple):
            return tuple(joined([value[i] for value in values]) for i in range(len(values[0])))
        out = np.zeros(n, dtype=np.result_type(*values))
        for (index, _), value in zip(parts, values, strict=True):
            out[index] = value
        return out

    return KernelCosts(
        **{item.name: joined([getattr(costs, item.name) for _, costs in parts]) for item in fields(KernelCosts)}
    )


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
    is priced by what, and the held-out errors that decided. Raises ValueError where there is nothing usable.
    """
    good, unusable = usable_rows(rows)
    known = set(base.known_kinds)
    usable = [n for n in networks if n.kernels and all((k.kind, k.dtype) in known for k in n.kernels)]
    ours = [row for row in good if (row.kernel.kind, row.kernel.dtype) in known]
    if not good and not usable:
        raise ValueError(f"cost model of {configuration.device}: nothing measured is usable; {unusable[:3]}")
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
    for fold in grouped_folds(rows, min(FOLDS, len(rows)), seed=3):
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
