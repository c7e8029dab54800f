"""Networks' totals to a ``CompositionModel``: rough rates, then seconds, then watts, then how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from device_agents.records import Configuration, KernelSpec
from power_models.composition import CompositionModel, base_terms, watt_amounts
from power_models.composition_cost import EXPONENT_START, Hyper, Index, LogCost, Rates, roofline
from power_models.composition_evidence import tuned
from power_models.composition_opinion import SecondOpinion, disagreement, fit_opinion
from power_models.composition_scores import Score, left_out_scores, report, width
from power_models.composition_solver import Prior, Setting, Solution, Totals, solve
from power_models.composition_terms import (
    OTHER,
    PARENTS,
    PART_OF_TERM,
    TERMS,
    Shapes,
    parent_amounts,
    term_amounts,
)
from power_models.families import family_of
from power_models.features import Floats, KernelColumns
from power_models.kernel_cost import Bounds, CannotFit
from power_models.measured_tables import TableKernel, TableNetwork

SECONDS = Hyper(1.0, 0.3, 0.06, 0.11, (1.3, 1.0, 0.7, 1.0, 1.0))  # prior middles of the scales
WATTS = Hyper(1.0, 0.05, 0.03, 0.05, (1.0, 1.0, 0.7, 1.0, 1.0))
SECONDS_NOISE, WATTS_NOISE = 0.02, 0.01
RATE_SPREAD, BASE_SPREAD, WATT_SPREAD = 1.2, 0.25, 0.2  # sd of a log rate: of its own, over a base's, of watts
OVERHEAD_SPREAD, BASE_OVERHEAD_SPREAD = 1.0, 0.3
FIRST_INDUCING, INDUCING, MANY_INDUCING = 120, 300, 600
MANY_NETWORKS = 500
ROUNDS = 2
FIRST_NOISE = 3.0  # the first linearization need not be near
MIXTURE = np.array([0.6, 0.25, 0.05, 0.05, 0.05])  # towards which parents' rates are drawn: parts of a typical total
MIXTURE_WEIGHT = 0.02
LEAST_PART = 0.02  # no parent's part of a typical total starts smaller


class _Rows(NamedTuple):
    """Networks, then kernels, as totals: what was measured, and of which kernels each consists."""

    kernels: list[KernelSpec]
    weights: Any  # (N, n) sparse counts
    overhead: Floats
    dtype: Index
    noise: Index
    latency_s: Floats
    energy_active_j: Floats  # nan: not measured
    idle_power_w: Bounds | None


def fit_from_networks(
    networks: Sequence[TableNetwork],
    kernels: Sequence[TableKernel],
    configuration: Configuration,
    kind: str,
    *,
    base: CompositionModel | None = None,
) -> CompositionModel:
    """A cost model of kernels from measured networks, and measured kernels where there are some.

    ``base``: the model of a similar board, whose kernel costs are the start. Energies are of the whole boundary; active
    energy is above the median quiet power of the networks, so that P0 + E/T is the power flat out. Raises CannotFit
    without any network.
    """
    if not networks:
        raise CannotFit(f"cost model of {configuration.device}: no network; fit tables of kernels as kernels")
    dtypes = tuple(sorted({spec.dtype for row in networks for spec in row.kernels} | {r.kernel.dtype for r in kernels}))
    rows, unusable = _rows(networks, kernels, dtypes)
    columns = KernelColumns.of(rows.kernels)
    shapes = Shapes.of(rows.kernels, columns)
    setting, prior, totals = _seconds_problem(rows, columns, shapes, dtypes, base)
    seconds, totals = _fitted(setting, totals, prior)
    latency, opinion = Score(*seconds.left_out(totals), totals.dtype), None
    if base is None:
        opinion, latency = _second_opinion(rows, columns, dtypes, latency)
    watts = _watts(rows, columns, setting, seconds, opinion, base)
    scores, together = left_out_scores(rows.energy_active_j, latency, watts)
    known = {(spec.kind, spec.dtype) for spec in rows.kernels} | set(base.known_kinds if base else ())
    model = CompositionModel(
        configuration,
        kind,
        {},
        {},
        tuple(sorted(known)),
        rows.idle_power_w,
        report=report(dtypes, scores),
        unusable=unusable,
        seconds=seconds.cost,
        watts=None if watts is None else watts[0].cost,
        reach=_reach(rows.kernels, shapes),
        widths={quantity: width(score) for quantity, score in scores.items()},
        together=together,
        base=base,
        opinion=opinion,
    )
    seconds_s, joules = model.overhead_of(0)
    model.overhead = (seconds_s, joules if watts else 0.0)
    return model


def _second_opinion(
    rows: _Rows, columns: KernelColumns, dtypes: tuple[str, ...], alone: Score
) -> tuple[SecondOpinion, Score]:
    """The opinion, and the scores ``alone`` of the composition as they are with it averaged in."""
    before = rows.latency_s * np.exp(-alone.error)
    opinion, after = fit_opinion(rows.kernels, columns, rows.weights, rows.dtype, dtypes, rows.latency_s, before)
    weight = np.array([opinion.weight(name) for name in dtypes])[rows.dtype]
    sd = np.sqrt(alone.sd**2 + disagreement(before, after, weight))
    return opinion, Score(np.log(rows.latency_s / after), sd, alone.dtype)


def _rows(
    networks: Sequence[TableNetwork], kernels: Sequence[TableKernel], dtypes: tuple[str, ...]
) -> tuple[_Rows, list[str]]:
    from scipy import sparse

    quiet = np.array([row.idle_power_w for row in networks if row.idle_power_w is not None])
    idle = None if not len(quiet) else _bounds(quiet)
    place: dict[KernelSpec, int] = {}
    members = [list(row.kernels) for row in networks] + [[row.kernel] for row in kernels]
    pairs = [(i, place.setdefault(spec, len(place))) for i, own in enumerate(members) for spec in own]
    at, of = (np.array(part, dtype=np.intp) for part in zip(*pairs, strict=True))
    weights = sparse.csr_matrix((np.ones(len(pairs)), (at, of)), shape=(len(members), len(place)))
    dtype = np.array([dtypes.index(own[0].dtype) for own in members], dtype=np.intp)
    alone = np.arange(len(members)) >= len(networks)
    measured: list[TableNetwork | TableKernel] = [*networks, *kernels]
    latency = np.array([row.latency_s for row in measured])
    energy = np.array([np.nan if row.energy_j is None else row.energy_j for row in measured])
    active = energy - (idle[0] if idle else 0.0) * latency
    unusable = [f"{_name(row)}: no energy above quiet power" for row, e in zip(measured, active, strict=True) if e <= 0]
    active[active <= 0] = np.nan
    unusable += [
        f"{row.name}: its quiet power is off, the median's stands in" for row in networks if row.quiet_replaced
    ]
    noise = dtype + len(dtypes) * alone
    return _Rows(list(place), weights, (~alone).astype(float), dtype, noise, latency, active, idle), unusable


def _name(row: TableNetwork | TableKernel) -> str:
    return row.name if isinstance(row, TableNetwork) else row.kernel.label


def _bounds(quiet: Floats) -> Bounds:
    low, value, high = (float(v) for v in np.quantile(quiet, (0.025, 0.5, 0.975)))
    return value, low, high


def _seconds_problem(
    rows: _Rows, columns: KernelColumns, shapes: Shapes, dtypes: tuple[str, ...], base: CompositionModel | None
) -> tuple[Setting, Prior, Totals]:
    families = sorted(set(shapes.families.tolist()) | set(base.seconds.basis.families if base else ()))
    if base is None:
        amounts, part = term_amounts(columns, shapes.families), PART_OF_TERM
        rates, overhead = _rough_rates(rows, columns, len(dtypes))
    else:
        amounts = base_terms(base, rows.kernels, columns, shapes)
        part = np.full(amounts.shape[1], OTHER)
        rates = np.zeros((len(dtypes), amounts.shape[1]))
        overhead = np.array([_base_overhead(base.seconds, dtype) for dtype in dtypes])
    setting = Setting.of(amounts, part, shapes, tuple(families), dtypes)
    totals = Totals(rows.weights, rows.overhead, rows.dtype, np.log(rows.latency_s), rows.noise)
    rates, overhead = _centred(setting, totals, rates, overhead)
    spread, over = (RATE_SPREAD, OVERHEAD_SPREAD) if base is None else (BASE_SPREAD, BASE_OVERHEAD_SPREAD)
    return setting, Prior(rates, spread, overhead, over, SECONDS, SECONDS_NOISE), totals


def _base_overhead(cost: LogCost, dtype: str) -> float:
    known = cost.basis.dtypes
    return float(cost.overhead[known.index(dtype)] if dtype in known else cost.overhead.mean())


def _rough_rates(rows: _Rows, columns: KernelColumns, dtypes: int) -> tuple[Floats, Floats]:
    """Log rates (D, T) and log overheads (D,) to start from: a non-negative fit of the parents' sums."""
    from scipy.optimize import nnls

    amounts = rows.weights @ parent_amounts(columns)
    sums = np.hstack([amounts, rows.overhead[:, None]]) / rows.latency_s[:, None]
    parents = np.zeros((dtypes, len(PARENTS) + 1))
    for dtype in range(dtypes):
        own = sums[rows.dtype == dtype]
        size = own.mean(axis=0)
        used = size > 0
        scaled = own[:, used] / size[used]
        drawn = MIXTURE_WEIGHT * np.sqrt(len(own))
        design = np.vstack([scaled, drawn * np.eye(int(used.sum()))])
        found = nnls(design, np.concatenate([np.ones(len(own)), drawn * MIXTURE[used]]))[0]
        parents[dtype, used] = np.maximum(found, LEAST_PART) / size[used]
    logs = np.log(np.maximum(parents, 1e-30))
    place = {name: i for i, name in enumerate(PARENTS)}
    # Of elements few networks have enough to tell: they start as what moving them as numbers of four bytes costs.
    logs[:, place["elements"]] = logs[:, place["bytes"]] + np.log(4.0)
    rates = np.stack([logs[:, place[term.parent]] + np.log(term.fraction) for term in TERMS], 1)
    return rates, logs[:, -1]


def _centred(setting: Setting, totals: Totals, rates: Floats, overhead: Floats) -> tuple[Floats, Floats]:
    """Rates and overheads shifted so that the median total of each data type comes out right."""
    rates, overhead = rates.copy(), overhead.copy()
    start = Rates(rates, np.full(len(setting.dtypes), EXPONENT_START))
    seconds = np.exp(roofline(setting.amounts, setting.part, setting.dtype, start)[0])
    off = totals.log_value - np.log(totals.weights @ seconds + totals.overhead * np.exp(overhead)[totals.dtype])
    for dtype in range(len(setting.dtypes)):
        own = totals.dtype == dtype
        shift = float(np.median(off[own] if own.any() else off))  # watts of a data type may never have been measured
        rates[dtype] += shift
        overhead[dtype] += shift
    return rates, overhead


def _fitted(setting: Setting, totals: Totals, prior: Prior) -> tuple[Solution, Totals]:
    kinds = max(int(totals.noise.max()) + 1, len(setting.dtypes))  # a data type may have no energies
    solution = solve(setting, totals, prior, np.full(kinds, FIRST_NOISE * prior.noise), FIRST_INDUCING)
    inducing = MANY_INDUCING if len(totals.log_value) > MANY_NETWORKS else INDUCING
    for _ in range(1 if len(totals.log_value) > MANY_NETWORKS else ROUNDS):
        hyper, noise = tuned(setting, totals, prior, solution)
        solution = solve(setting, totals, prior, noise, inducing, hyper, solution)
    return solution, totals


def _shares(
    rows: _Rows, columns: KernelColumns, setting: Setting, seconds: Solution, opinion: SecondOpinion | None
) -> tuple[Any, Floats]:
    """Shares (N, n), sparse, of the kernels in the seconds of each total, and (N,) of the overhead."""
    overhead = rows.overhead * np.exp(seconds.cost.overhead)[rows.dtype]
    each = seconds.seconds
    if opinion is not None:
        each = opinion.mean(rows.kernels, columns, setting.shapes.dtypes, each)[0]
        overhead *= 1.0 - np.array([opinion.weight(name) for name in setting.dtypes])[rows.dtype]
    whole = rows.weights @ each + overhead
    return rows.weights.multiply(1.0 / whole[:, None]).tocsr().multiply(each[None, :]).tocsr(), overhead / whole


def _watts(
    rows: _Rows,
    columns: KernelColumns,
    setting: Setting,
    seconds: Solution,
    opinion: SecondOpinion | None,
    base: CompositionModel | None,
) -> tuple[Solution, Totals] | None:
    there = np.flatnonzero(np.isfinite(rows.energy_active_j))
    if not len(there):
        return None
    known = None if base is None else base.parts(rows.kernels, columns, setting.shapes)[1]
    part = np.full(seconds.term_shares.shape[1], OTHER)
    own = Setting.of(watt_amounts(seconds.term_shares, known), part, setting.shapes, setting.families, setting.dtypes)
    log_watts = np.log(rows.energy_active_j[there] / rows.latency_s[there])
    shares, overhead = _shares(rows, columns, setting, seconds, opinion)
    dtype = rows.dtype[there]
    totals = Totals(shares[there], overhead[there], dtype, log_watts, rows.noise[there])
    level = np.array(
        [np.mean(log_watts[dtype == d]) if (dtype == d).any() else log_watts.mean() for d in range(len(setting.dtypes))]
    )
    if known is None:
        rates, over = np.repeat(level[:, None], len(part), 1), level
    else:
        rates, over = _centred(own, totals, np.zeros((len(level), len(part))), level)
    return _fitted(own, totals, Prior(rates, WATT_SPREAD, over, WATT_SPREAD, WATTS, WATTS_NOISE))


def _reach(kernels: Sequence[KernelSpec], shapes: Shapes) -> dict[str, tuple[list[float], list[float]]]:
    families = np.array([family_of(spec) for spec in kernels])
    found = {}
    for family in dict.fromkeys(families.tolist()):
        points = shapes.coordinates[families == family]
        found[family] = (points.min(axis=0).tolist(), points.max(axis=0).tolist())
    return found
