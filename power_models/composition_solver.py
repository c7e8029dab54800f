"""Totals to a log cost: the most probable z, found by Gauss–Newton steps, and how far the totals pin it down.

A total is ``Σ weight·cost + weight₀·overhead``. Its logarithm is linear in z for small steps, with each kernel's share
of the total as its weight, so that the posterior is that of a Bayesian linear regression, linearized anew each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from power_models.composition_cost import (
    EXPONENT_START,
    Basis,
    Hyper,
    Index,
    LogCost,
    Rates,
    by_dtype,
    covariance,
    roofline,
)
from power_models.composition_terms import LENGTHS, SLOPES, Shapes
from power_models.features import Floats

STEPS = 25
SETTLED, LIGHT = 3e-4, 1e-2  # a step that gains less, relative, is the last; but not while damped more than this
EXPONENT_SD = 0.3
DTYPES_ALIKE = 0.9  # prior correlation of a term's rate between data types, about each one's own middle
MOST_CANDIDATES = 2000  # among which inducing kernels are chosen
LEAST_SHARE = 0.02  # inducing kernels are chosen by share of a total; smaller ones count as this much
ROOT_FLOOR = 1e-5  # of the variance: where the incomplete decomposition ends


class Totals(NamedTuple):
    """N measured totals: weights (N, n) of the kernels, sparse, and (N,) of the overhead; the data type of each.

    ``noise`` (N,): which noise each has: one kind a data type's networks, one a data type's kernels.
    """

    weights: Any
    overhead: Floats
    dtype: Index
    log_value: Floats
    noise: Index  # which noise each has (a data type's networks, a data type's kernels)


@dataclass(frozen=True)
class Prior:
    """Where z is zero, and how far it may go: log rates (D, T), spread of a rate, log overhead (D,) and its spread."""

    rates: Floats
    spread: float
    overhead: Floats
    overhead_sd: float
    hyper: Hyper
    noise: float


@dataclass
class Setting:
    """The kernels of a fit, n of them: term amounts (n, T), parts of the roofline, shapes, places."""

    amounts: Floats
    part: Index
    shapes: Shapes
    families: tuple[str, ...]
    dtypes: tuple[str, ...]
    family: Index
    dtype: Index
    centre: Floats

    @classmethod
    def of(
        cls, amounts: Floats, part: Index, shapes: Shapes, families: tuple[str, ...], dtypes: tuple[str, ...]
    ) -> Setting:
        """Places and middles are found from the shapes."""
        empty = Basis(families, dtypes, _NO_HYPER, *_NO_POINTS)
        family, dtype = empty.places(shapes)
        centre = np.zeros((len(dtypes), len(families), SLOPES))
        for d in range(len(dtypes)):
            for f in range(len(families)):
                own = (family == f) & (dtype == d)
                if own.any():
                    centre[d, f] = shapes.coordinates[own, :SLOPES].mean(axis=0)
        return cls(amounts, part, shapes, families, dtypes, family, dtype, centre)


_NO_HYPER = Hyper(0.0, 0.0, 0.0, 0.0, (1.0,) * LENGTHS)
_NO_POINTS = (np.zeros((0, 0, SLOPES)), np.zeros((0, 0)), np.zeros(0, np.intp), np.zeros(0, np.intp))


@dataclass
class Solution:
    """The most probable z and what belongs to it: kernels' costs (n,), totals (N,), shares (N, n), Jacobian (N, z)."""

    cost: LogCost
    z: Floats
    seconds: Floats
    totals: Floats
    shares: Any
    jacobian: Floats
    term_shares: Floats
    leverage: Floats

    def residuals(self, totals: Totals) -> Floats:
        """Log of measured over fitted (N,)."""
        result: Floats = totals.log_value - np.log(self.totals)
        return result

    def left_out(self, totals: Totals) -> tuple[Floats, Floats]:
        """Residuals (N,) as if each total had been left out, and their standard deviations."""
        kept = np.maximum(1.0 - self.leverage, 1e-3)
        return self.residuals(totals) / kept, self.cost.noise[totals.noise] / np.sqrt(kept)


def solve(
    setting: Setting,
    totals: Totals,
    prior: Prior,
    noise: Floats,
    inducing: int,
    hyper: Hyper | None = None,
    before: Solution | None = None,
) -> Solution:
    """The most probable z; ``noise``: sd of each noise kind.

    ``hyper``: other scales than the prior's middles. ``before``: a solution under other scales, to start from.
    """
    hyper = hyper or prior.hyper
    basis, columns = _basis(setting, totals, prior, inducing, hyper)
    dtypes, terms = len(setting.dtypes), setting.amounts.shape[1]
    own = terms + 1
    alike = DTYPES_ALIKE * np.ones((dtypes, dtypes)) + (1 - DTYPES_ALIKE) * np.eye(dtypes)
    spread = np.append(np.full(terms, prior.spread * hyper.terms), EXPONENT_SD)
    mix = np.tile(spread, dtypes)[:, None] * np.kron(np.linalg.cholesky(alike), np.eye(own))
    split = np.cumsum([len(mix), dtypes])
    one_hot = (totals.dtype[:, None] == np.arange(dtypes)[None, :]).astype(np.float64)
    sigma = noise[totals.noise]

    def state(z: Floats) -> tuple[Floats, Floats, Floats, Floats, Rates]:
        by_rate, by_overhead, weights = np.split(z, split)
        moved = (mix @ by_rate).reshape(dtypes, own)
        rates = Rates(prior.rates + moved[:, :terms], EXPONENT_START + moved[:, terms])
        log_cost, slope = roofline(setting.amounts, setting.part, setting.dtype, rates)
        seconds = np.exp(np.clip(log_cost + columns @ weights, -80.0, 80.0))
        overhead = np.exp(np.clip(prior.overhead + prior.overhead_sd * by_overhead, -80.0, 80.0))
        total = totals.weights @ seconds + totals.overhead * overhead[totals.dtype]
        return seconds, slope, overhead, total, rates

    def jacobian(seconds: Floats, slope: Floats, overhead: Floats, total: Floats) -> tuple[Any, Floats]:
        shares = totals.weights.multiply(1.0 / total[:, None]).tocsr().multiply(seconds[None, :]).tocsr()
        by_rate = (shares @ by_dtype(slope, setting.dtype, dtypes)) @ mix
        by_overhead = (totals.overhead * overhead[totals.dtype] / total)[:, None] * one_hot * prior.overhead_sd
        return shares, np.hstack([by_rate, by_overhead, shares @ columns])

    def misfit(z: Floats, total: Floats) -> float:
        return float(0.5 * z @ z + 0.5 * (((totals.log_value - np.log(total)) / sigma) ** 2).sum())

    start = np.zeros(split[-1] + columns.shape[1])
    if before is not None:
        _take_over(start, before, hyper, len(mix))
    z = _descend(state, jacobian, misfit, totals.log_value, sigma, start)
    seconds, slope, overhead, total, rates = state(z)
    shares, gradient = jacobian(seconds, slope, overhead, total)
    told = _told(gradient / sigma[:, None])
    log_cost = LogCost(
        basis, setting.part, rates, np.log(overhead), prior.overhead_sd, mix, z[split[-1] :], told, noise
    )
    leverage = log_cost.variance(gradient) / sigma**2
    term_shares = slope[:, :terms] / slope[:, :terms].sum(axis=1, keepdims=True)
    return Solution(log_cost, z, seconds, total, shares, gradient, term_shares, leverage)


def _take_over(start: Floats, before: Solution, hyper: Hyper, rates: int) -> None:
    """Put rates, overheads, families and slopes of an earlier solution in place; the process begins at nothing."""
    basis = before.cost.basis
    old, families, dtypes = basis.hyper, len(basis.families), len(basis.dtypes)
    flags = rates + dtypes + families * (dtypes + 1)
    shared = flags + basis.centre.size
    scale = np.ones(shared)
    scale[:rates] = old.terms / hyper.terms
    scale[rates + dtypes : flags] = old.family / hyper.family
    scale[flags:] = old.slopes / hyper.slopes
    start[:shared] = scale * before.z[:shared]


def _descend(
    state: Callable[[Floats], tuple[Floats, Floats, Floats, Floats, Rates]],
    jacobian: Callable[[Floats, Floats, Floats, Floats], tuple[Any, Floats]],
    misfit: Callable[[Floats, Floats], float],
    target: Floats,
    sigma: Floats,
    z: Floats,
) -> Floats:
    """Damped Gauss–Newton from a start (Levenberg–Marquardt)."""
    from scipy.linalg import cho_factor, cho_solve

    size = len(z)
    current = state(z)
    cost, damping = misfit(z, current[3]), 1e-3
    for _ in range(STEPS):
        scaled = jacobian(*current[:4])[1] / sigma[:, None]
        curvature = scaled.T @ scaled + np.eye(size)
        gradient = scaled.T @ ((target - np.log(current[3])) / sigma) - z
        for _ in range(8):
            step = cho_solve(cho_factor(curvature + damping * np.diag(np.diag(curvature))), gradient)
            trial = state(z + step)
            found = misfit(z + step, trial[3])
            if found < cost:
                break
            damping *= 10.0
        else:
            break
        gain, damping = cost - found, max(damping / 10.0, 1e-9)
        z, current, cost = z + step, trial, found
        if gain < SETTLED * abs(cost) and damping <= LIGHT:
            break
    return z


def _told(scaled: Floats) -> Floats:
    """(r, z) factor of what the totals took from the unit prior: I − (I + JᵀJ)⁻¹ = JᵀC⁻¹J with C = I + JJᵀ."""
    count, size = scaled.shape
    if count <= size:
        root = np.linalg.cholesky(np.eye(count) + scaled @ scaled.T)
        solved: Floats = np.linalg.solve(root, scaled)
        return solved
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    kept = values > 1e-9
    result: Floats = (vectors[:, kept] * np.sqrt(values[kept] / (1.0 + values[kept]))).T
    return result


def _basis(setting: Setting, totals: Totals, prior: Prior, inducing: int, hyper: Hyper) -> tuple[Basis, Floats]:
    """The basis with its inducing kernels, and its columns (n, f) for the kernels of the fit."""
    rates = Rates(prior.rates, np.full(len(setting.dtypes), EXPONENT_START))
    seconds = np.exp(roofline(setting.amounts, setting.part, setting.dtype, rates)[0])
    whole = totals.weights @ seconds + 1e-300
    shares = totals.weights.multiply(1.0 / whole[:, None]).tocsr().multiply(seconds[None, :]).tocsr()
    largest = np.asarray(shares.max(axis=0).todense()).ravel()
    importance = np.where(largest > 0, np.maximum(largest, LEAST_SHARE), 0.0)
    candidates = np.flatnonzero(importance > 0)
    if len(candidates) > MOST_CANDIDATES:
        chance = importance[candidates] / importance[candidates].sum()
        some = np.random.default_rng(0).choice(candidates, MOST_CANDIDATES, replace=False, p=chance)
        candidates = np.sort(some)
    places = (setting.shapes.coordinates[candidates], setting.family[candidates], setting.dtype[candidates])
    chosen = _pivots(places, hyper, importance[candidates], inducing)
    points = (places[0][chosen], places[1][chosen], places[2][chosen])
    basis = Basis(setting.families, setting.dtypes, hyper, setting.centre, *points)
    return basis, basis.columns(setting.shapes)[0]


def _pivots(places: tuple[Floats, Index, Index], hyper: Hyper, importance: Floats, most: int) -> Index:
    """The pivots (m,) of an incomplete Cholesky decomposition of the process' covariance, weighted by importance."""
    points, family, dtype = places
    rows = np.zeros((most, len(points)))  # the factor's columns, each contiguous
    left = np.full(len(points), hyper.process**2)
    chosen: list[int] = []
    while len(chosen) < most:
        pivot = int(np.argmax(left * importance))
        if left[pivot] * (importance[pivot] > 0) <= ROOT_FLOOR * hyper.process**2:
            break
        m, at = len(chosen), slice(pivot, pivot + 1)
        row = covariance(points[at], family[at], dtype[at], points, family, dtype, hyper)[0]
        row = (row - rows[:m, pivot] @ rows[:m]) / np.sqrt(left[pivot])
        rows[m] = row
        left = np.maximum(left - row**2, 0.0)
        left[pivot] = 0.0
        chosen.append(pivot)
    return np.array(chosen, dtype=np.intp)
