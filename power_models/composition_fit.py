"""Networks' totals to a ``CompositionModel``: rough rates, then seconds, then watts, then how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from device_agents.records import Configuration, KernelSpec
from power_models.composition import CompositionModel, base_terms, watt_amounts
from power_models.composition_cost import EXPONENT_START, Hyper, Index, LogCost, Rates, roofline
from power_models.composition_evidence import tuned
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
from power_models.intervals import NORMAL_95, conformal_quantile
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
FEWEST_SCORES = 10
NARROWEST = 1.7  # no interval is made narrower than so many standard deviations


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
    watts = _watts(rows, columns, setting, seconds, base)
    scores, together = _scores(rows, totals, seconds, watts)
    known = {(spec.kind, spec.dtype) for spec in rows.kernels} | set(base.known_kinds if base else ())
    return CompositionModel(
        configuration,
        kind,
        {},
        {},
        tuple(sorted(known)),
        rows.idle_power_w,
        (float(np.exp(seconds.cost.overhead[0])), _overhead_j(seconds, watts)),
        report=_report(dtypes, scores),
        unusable=unusable,
        seconds=seconds.cost,
        watts=None if watts is None else watts[0].cost,
        reach=_reach(rows.kernels, shapes),
        widths={quantity: _width(score) for quantity, score in scores.items()},
        together=together,
        base=base,
    )


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


def _watts(
    rows: _Rows, columns: KernelColumns, setting: Setting, seconds: Solution, base: CompositionModel | None
) -> tuple[Solution, Totals] | None:
    there = np.flatnonzero(np.isfinite(rows.energy_active_j))
    if not len(there):
        return None
    known = None if base is None else base.parts(rows.kernels, columns, setting.shapes)[1]
    part = np.full(seconds.term_shares.shape[1], OTHER)
    own = Setting.of(watt_amounts(seconds.term_shares, known), part, setting.shapes, setting.families, setting.dtypes)
    log_watts = np.log(rows.energy_active_j[there] / rows.latency_s[there])
    overhead = rows.overhead * np.exp(seconds.cost.overhead)[rows.dtype] / seconds.totals
    dtype = rows.dtype[there]
    totals = Totals(seconds.shares[there], overhead[there], dtype, log_watts, rows.noise[there])
    level = np.array(
        [np.mean(log_watts[dtype == d]) if (dtype == d).any() else log_watts.mean() for d in range(len(setting.dtypes))]
    )
    if known is None:
        rates, over = np.repeat(level[:, None], len(part), 1), level
    else:
        rates, over = _centred(own, totals, np.zeros((len(level), len(part))), level)
    return _fitted(own, totals, Prior(rates, WATT_SPREAD, over, WATT_SPREAD, WATTS, WATTS_NOISE))


def _overhead_j(seconds: Solution, watts: tuple[Solution, Totals] | None) -> float:
    """Active joules of an inference beside its kernels, of the first data type; nothing is known without energies."""
    return 0.0 if watts is None else float(np.exp(seconds.cost.overhead[0] + watts[0].cost.overhead[0]))


class _Score(NamedTuple):
    """Log of measured over predicted (N,) with each total left out, its standard deviation, and its data type."""

    error: Floats
    sd: Floats
    dtype: Index


def _scores(
    rows: _Rows, totals: Totals, seconds: Solution, watts: tuple[Solution, Totals] | None
) -> tuple[dict[str, _Score], float]:
    """Left-out errors by quantity, and the correlation of those of latency and power."""
    found = {"latency": _Score(*seconds.left_out(totals), totals.dtype)}
    if watts is None:
        return found, 0.0
    there = np.flatnonzero(np.isfinite(rows.energy_active_j))
    whole = found["latency"]
    latency = _Score(whole.error[there], whole.sd[there], whole.dtype[there])
    power = found["power"] = _Score(*watts[0].left_out(watts[1]), watts[1].dtype)
    together = 0.0
    if len(there) >= FEWEST_SCORES:
        one, two = (np.clip(score.error / score.sd, -3.0, 3.0) for score in (latency, power))
        together = float(np.mean(one * two) / np.sqrt(np.mean(one**2) * np.mean(two**2)))
    square = latency.sd**2 + power.sd**2 + 2 * together * latency.sd * power.sd
    found["energy"] = _Score(latency.error + power.error, np.sqrt(square), power.dtype)
    return found, together


def _width(score: _Score) -> float:
    """How many standard deviations hold 95 % of the left-out totals; few of them can only widen."""
    width = conformal_quantile(np.abs(score.error) / score.sd)
    return max(width, NARROWEST if len(score.error) >= FEWEST_SCORES else NORMAL_95)


def _reach(kernels: Sequence[KernelSpec], shapes: Shapes) -> dict[str, tuple[list[float], list[float]]]:
    families = np.array([family_of(spec) for spec in kernels])
    found = {}
    for family in dict.fromkeys(families.tolist()):
        points = shapes.coordinates[families == family]
        found[family] = (points.min(axis=0).tolist(), points.max(axis=0).tolist())
    return found


def _report(dtypes: tuple[str, ...], scores: dict[str, _Score]) -> dict[str, object]:
    """Errors of totals left out one at a time, by data type and quantity."""
    found: dict[str, object] = {}
    for d, dtype in enumerate(dtypes):
        own: dict[str, object] = {}
        for quantity, score in scores.items():
            size = np.abs(np.expm1(-score.error[score.dtype == d]))
            if not len(size):
                continue
            own["rows"] = len(size)
            own[quantity] = {
                "median_error": float(np.median(size)),
                "mean_error": float(size.mean()),
                "p90_error": float(np.quantile(size, 0.9)),
            }
        found[f"networks/{dtype}"] = own
    return found
