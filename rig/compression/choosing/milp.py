"""One option for each part, least loss, limits on costs of single parts and of pairs: a mixed-integer program.

    part p takes option i     x[p, i] ∈ {0, 1}, and Σ_i x[p, i] = 1
    cost of one part          Σ_i cost[p, i] · x[p, i]
    cost of a pair p, q       y[i, j] ≥ 0 with Σ_j y[i, j] = x[p, i] and Σ_i y[i, j] = x[q, j]: y is the product of
                              the x wherever these are whole, so that the cost is the table's own and not an estimate
    options that go together  x[p, i] = x[q, j]                  (a residual block and its inner channel groups)
    choices ruled out         Σ_p x[p, chosen p] ≤ parts − 1

The pairs' products are the usual linearization by marginals (Adams and Johnson 1994). A pair whose costs are a sum of
one term a part needs none. Solved by HiGHS (scipy.optimize.milp) on what ``relaxation`` leaves: a proven bound and a
good choice come from Lagrange multipliers, and options that no better choice can hold are taken out beforehand.
What a part is, and what the rows of the costs mean, is the caller's business: ``allocation``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Chosen = tuple[int, ...]  # the option of each part

GAP = 0.005  # of the loss: the proven bound is at least so near
TIME_LIMIT_S = 60.0
MARGIN = 1e-6  # of a limit: a solver's tolerance must not break it
SEPARABLE = 1e-9  # of a pair's largest cost


class Problem(NamedTuple):
    """What there is to choose from.

    losses: of each part (options,); costs: of each part (rows, options); pairs: of parts p < q (rows, options of p,
    options of q); constant (rows,): what any choice costs; limits (rows,) > 0; together: sets of (part, option) that
    are chosen all or none; forbidden: whole choices that are ruled out.
    """

    losses: tuple[Array, ...]
    costs: tuple[Array, ...]
    pairs: Mapping[tuple[int, int], Array]
    constant: Array
    limits: Array
    together: tuple[tuple[tuple[int, int], ...], ...] = ()
    forbidden: tuple[Chosen, ...] = ()

    def loss(self, chosen: Sequence[int]) -> float:
        """Loss of a choice."""
        return float(sum(losses[i] for losses, i in zip(self.losses, chosen, strict=True)))

    def cost(self, chosen: Sequence[int]) -> Array:
        """Costs (rows,) of a choice."""
        total = self.constant.astype(np.float64, copy=True)
        for costs, i in zip(self.costs, chosen, strict=True):
            total += costs[:, i]
        for (p, q), costs in self.pairs.items():
            total += costs[:, chosen[p], chosen[q]]
        return total

    def allowed(self, chosen: Sequence[int]) -> bool:
        """Whether options that go together do, and the choice is not ruled out."""
        for tied in self.together:
            if len({chosen[part] == option for part, option in tied}) > 1:
                return False
        return tuple(chosen) not in self.forbidden

    def holds(self, chosen: Sequence[int]) -> bool:
        """Whether a choice is allowed and within all limits (less the solver's tolerance)."""
        return bool((self.cost(chosen) <= self.limits * (1.0 - MARGIN)).all()) and self.allowed(chosen)


class Solution(NamedTuple):
    """A choice within the limits; no choice has a loss below ``bound``. ``left``: options given to the solver."""

    chosen: Chosen
    loss: float
    bound: float
    left: int

    @property
    def gap(self) -> float:
        """How far the loss may be above the least, a share of it."""
        return max(0.0, self.loss - self.bound) / self.loss if self.loss > 0 else 0.0


class NoChoiceError(Exception):
    """No choice is within the limits; or, where ``proven`` is False, none was found in the time."""

    def __init__(self, proven: bool) -> None:
        super().__init__("no choice is within the limits" if proven else "no choice was found in the time given")
        self.proven = proven


class Remaining(NamedTuple):
    """What is left to look at: options of each part (bool), pairs of options (bool), a known choice, a proven bound."""

    options: tuple[Flags, ...]
    pairs: Mapping[tuple[int, int], Flags]
    known: Chosen | None
    bound: float


def solve(problem: Problem, gap: float = GAP, time_limit_s: float = TIME_LIMIT_S, reduce: bool = True) -> Solution:
    """The choice of least loss within the limits, proven to ``gap`` unless the time is over first.

    ``reduce`` False gives the whole problem to the solver. Raises NoChoiceError.
    """
    from rig.compression.choosing.relaxation import remaining

    problem = _without_sums(problem)
    left = remaining(problem, gap) if reduce else everything(problem)
    known = left.known
    if known is not None and problem.loss(known) - left.bound <= gap * problem.loss(known):
        return Solution(known, problem.loss(known), left.bound, 0)
    options = int(sum(flags.sum() for flags in left.options))
    found, bound = _by_highs(problem, left, problem.losses, gap, time_limit_s)
    candidates = [c for c in (found, known) if c is not None]
    if not candidates:
        raise NoChoiceError(proven=not np.isfinite(bound))
    best = min(candidates, key=problem.loss)
    # What was taken out beforehand could not have bettered the known choice by more than the gap.
    complete = all(bool(flags.all()) for flags in (*left.options, *left.pairs.values()))
    outside = np.inf if known is None or complete else problem.loss(known) * (1.0 - gap)
    return Solution(best, problem.loss(best), max(left.bound, min(bound, outside, problem.loss(best))), options)


def least_cost(problem: Problem, time_limit_s: float = TIME_LIMIT_S) -> Chosen:
    """The choice whose largest share of a limit is least, whether the limits hold or not: what is reachable."""
    problem = _without_sums(problem)
    found, _ = _by_highs(problem, everything(problem), None, 1e-4, time_limit_s)
    if found is None:
        raise NoChoiceError(proven=False)
    return found


def everything(problem: Problem) -> Remaining:
    """Nothing taken out."""
    options = tuple(np.ones(len(losses), dtype=bool) for losses in problem.losses)
    pairs = {pair: np.ones(costs.shape[1:], dtype=bool) for pair, costs in problem.pairs.items()}
    return Remaining(options, pairs, None, 0.0)


def _without_sums(problem: Problem) -> Problem:
    """The same problem; pairs whose costs are a sum of one term a part are given to the parts."""
    costs = [c.copy() for c in problem.costs]
    pairs = {}
    for (p, q), pair in problem.pairs.items():
        first, second = pair[:, :, :1], pair[:, :1, :] - pair[:, :1, :1]
        if float(np.abs(pair - first - second).max()) <= SEPARABLE * float(np.abs(pair).max()):
            costs[p] += first[:, :, 0]
            costs[q] += second[:, 0, :]
        else:
            pairs[p, q] = pair
    return problem._replace(costs=tuple(costs), pairs=pairs)


class _Rows:
    """Rows of a sparse matrix as they come: columns, values, and the two ends."""

    def __init__(self) -> None:
        self.rows: list[Array] = []
        self.columns: list[Array] = []
        self.values: list[Array] = []
        self.ends: list[tuple[float, float]] = []

    def add(self, columns: Array, values: Array | float, low: float, high: float) -> None:
        self.rows.append(np.full(len(columns), len(self.ends)))
        self.columns.append(columns)
        self.values.append(np.broadcast_to(np.asarray(values, dtype=np.float64), (len(columns),)))
        self.ends.append((low, high))

    def constraint(self, width: int) -> LinearConstraint:
        where = (np.concatenate(self.rows), np.concatenate(self.columns))
        matrix = sparse.csr_array((np.concatenate(self.values), where), shape=(len(self.ends), width))
        low, high = np.array(self.ends).T
        return LinearConstraint(matrix, low, high)


def _by_highs(
    problem: Problem, left: Remaining, losses: Sequence[Array] | None, gap: float, time_limit_s: float
) -> tuple[Chosen | None, float]:
    """HiGHS on what is left: the choice found (None: none) and the proven bound of its loss (inf: there is no choice).

    ``losses`` None: the largest share of a limit is minimized instead, and the limits do not bind.
    """
    kept = [np.flatnonzero(flags) for flags in left.options]
    starts = np.concatenate([[0], np.cumsum([len(k) for k in kept])]).astype(int)
    wide = int(starts[-1])
    place = [{int(option): int(starts[p] + n) for n, option in enumerate(k)} for p, k in enumerate(kept)]
    rows = _Rows()
    for p, k in enumerate(kept):
        rows.add(np.arange(starts[p], starts[p] + len(k)), 1.0, 1.0, 1.0)
    limit_columns = [np.arange(wide)]
    limit_values = [np.concatenate([c[:, k] for c, k in zip(problem.costs, kept, strict=True)], axis=1)]
    for (p, q), costs in problem.pairs.items():
        first, second = np.nonzero(left.pairs[p, q][np.ix_(kept[p], kept[q])])
        columns = np.arange(wide, wide + len(first))
        for side, own in ((first, p), (second, q)):
            for n in range(len(kept[own])):
                mine = columns[side == n]
                rows.add(np.append(mine, starts[own] + n), np.append(np.ones(len(mine)), -1.0), 0.0, 0.0)
        limit_columns.append(columns)
        limit_values.append(costs[:, kept[p][first], kept[q][second]])
        wide += len(columns)
    for columns, low in _tied(problem, place):
        rows.add(columns, np.array([1.0, -1.0])[: len(columns)], low, 0.0)
    for chosen in problem.forbidden:
        if all(option in place[p] for p, option in enumerate(chosen)):
            columns = np.array([place[p][option] for p, option in enumerate(chosen)])
            rows.add(columns, 1.0, -np.inf, len(chosen) - 1.0)
    share = int(losses is None)  # one more column: the largest share of a limit
    spending, values = np.concatenate(limit_columns), np.concatenate(limit_values, axis=1)
    for row, limit in enumerate(problem.limits):
        used, free = values[row] / limit, 1.0 - MARGIN - problem.constant[row] / limit
        if share:
            rows.add(np.append(spending, wide), np.append(used, -1.0), -np.inf, free - 1.0)
        else:
            rows.add(spending, used, -np.inf, free)
    objective = np.zeros(wide + share)
    scale = 1.0
    if losses is None:
        objective[wide] = 1.0
    else:
        scale = max(float(sum(part.max() for part in losses)), 1e-300)
        objective[: starts[-1]] = np.concatenate([part[k] for part, k in zip(losses, kept, strict=True)]) / scale
    lowest, highest = np.zeros(wide + share), np.ones(wide + share)
    lowest[wide:], highest[wide:] = -np.inf, np.inf
    whole = np.zeros(wide + share)
    whole[: starts[-1]] = 1
    found = milp(
        objective,
        integrality=whole,
        bounds=Bounds(lowest, highest),
        constraints=rows.constraint(wide + share),
        options={"mip_rel_gap": gap, "time_limit": time_limit_s},
    )
    if found.x is None:
        return None, np.inf if found.status == 2 else left.bound
    chosen = tuple(
        int(k[int(np.argmax(found.x[starts[p] : starts[p + 1]]))]) if len(k) else 0 for p, k in enumerate(kept)
    )
    return chosen, scale * float(found.mip_dual_bound)


def _tied(problem: Problem, place: Sequence[Mapping[int, int]]) -> Iterator[tuple[Array, float]]:
    """Columns of options that must be equal, two at a time; one alone where the others were taken out: it is zero."""
    for tied in problem.together:
        held = [place[part][option] for part, option in tied if option in place[part]]
        if len(held) < len(tied):
            for column in held:
                yield np.array([column]), -np.inf
            continue
        for a, b in itertools.pairwise(held):
            yield np.array([a, b]), 0.0
