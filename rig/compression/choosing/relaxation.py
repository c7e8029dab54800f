"""Bounds by Lagrange multipliers: a proven least loss, a good choice, and the options that no better choice can hold.

With prices λ ≥ 0 on the rows of costs instead of limits, the least of ``loss + λ·(cost − limit)`` is a bound for any λ,
and it is found exactly by taking the parts out one after the other (a residual network's channel groups hang together
in a narrow tree: an inner group touches its neighbours only). The λ of the best bound comes from cutting planes (Kelley
1960); the choices met on the way are within the limits or nearly so. One pass back gives every option's own bound, the
least over all choices that hold it: above the loss of a known choice, the option is out (Everett 1963; Geoffrion 1974).

Where the parts hang together too widely for that (WIDEST combinations at once), nothing is taken out, and the known
choice is the cheapest one improved step by step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from rig.compression.choosing.milp import MARGIN, Array, Chosen, NoChoiceError, Problem, Remaining, everything

WIDEST = 60_000  # combinations of one part with those it touches when it is taken out
MOST_CUTS = 80
CLOSE = 1e-4  # of the bound: no further cut betters it by more
HIGHEST_PRICE = 1e4  # times all losses together, for a whole limit


class _Bucket(NamedTuple):
    """A part and those it touches when it is taken out: ``scope`` starts with it, ``parent`` takes its message."""

    scope: tuple[int, ...]
    losses: Array
    costs: Array  # (rows, options of each of the scope)
    parent: int  # position of a bucket, −1 for none


def remaining(problem: Problem, gap: float) -> Remaining:
    """What a choice that betters the best one known by more than ``gap`` can be made of; raises NoChoiceError."""
    buckets = _buckets(problem)
    if buckets is None:
        start = _cheapest(problem)
        known = _improved(problem, start) if problem.holds(start) else None
        return everything(problem)._replace(known=known)
    prices, bound, known = _best_prices(problem, buckets)
    if known is None:
        return everything(problem)._replace(bound=max(bound, 0.0))
    known = _improved(problem, known)
    loss = problem.loss(known)
    bound = min(max(bound, 0.0), loss)
    if loss - bound <= gap * loss:
        return everything(problem)._replace(known=known, bound=bound)
    least, pairs = _marginals(problem, buckets, prices)
    at_most = loss * (1.0 - gap)
    return Remaining(
        tuple(part <= at_most for part in least),
        {pair: pairs.get(pair, np.full(costs.shape[1:], -np.inf)) <= at_most for pair, costs in problem.pairs.items()},
        known,
        bound,
    )


def _buckets(problem: Problem) -> list[_Bucket] | None:
    """The parts as they are taken out, those that touch least first; None where they touch too widely."""
    sizes = [len(losses) for losses in problem.losses]
    ties = [(tied[0], other) for tied in problem.together for other in tied[1:]]
    touching: list[set[int]] = [set() for _ in sizes]
    for p, q in [*problem.pairs, *((a[0], b[0]) for a, b in ties)]:
        touching[p].add(q)
        touching[q].add(p)
    order: list[int] = []
    scopes: list[tuple[int, ...]] = []
    left = set(range(len(sizes)))
    while left:
        part = min(left, key=lambda p: (math.prod(sizes[q] for q in touching[p]), p))
        if math.prod(sizes[q] for q in touching[part]) * sizes[part] > WIDEST:
            return None
        order.append(part)
        scopes.append((part, *touching[part]))
        left.remove(part)
        for q in touching[part]:
            touching[q] |= touching[part] - {q}
            touching[q].discard(part)
    turn = {part: n for n, part in enumerate(order)}
    scopes = [tuple(sorted(scope, key=turn.__getitem__)) for scope in scopes]
    rows = len(problem.limits)
    losses = [np.zeros([sizes[p] for p in scope]) for scope in scopes]
    costs = [np.zeros([rows, *(sizes[p] for p in scope)]) for scope in scopes]
    for part in order:
        n = turn[part]
        shape = [-1, *[1] * (len(scopes[n]) - 1)]
        losses[n] += problem.losses[part].reshape(shape)
        costs[n] += problem.costs[part].reshape([rows, *shape])
    for (p, q), pair in problem.pairs.items():
        n = min(turn[p], turn[q])
        costs[n] += _spread(pair, (p, q), scopes[n])
    apart = _apart(problem)
    for (p, i), (q, j) in ties:
        n = min(turn[p], turn[q])
        torn = (np.arange(sizes[p]) == i)[:, None] != (np.arange(sizes[q]) == j)[None, :]
        losses[n] += _spread(apart * torn[None].astype(np.float64), (p, q), scopes[n])[0]
    return [
        _Bucket(scope, losses[n], costs[n], turn[scope[1]] if len(scope) > 1 else -1) for n, scope in enumerate(scopes)
    ]


def _apart(problem: Problem) -> float:
    """More than any choice can cost at any price: what tears options apart that go together."""
    spent = sum(
        (np.abs(costs).reshape(len(costs), -1).max(axis=1) for costs in [*problem.costs, *problem.pairs.values()]),
        np.abs(problem.constant) + problem.limits,
    )
    whole = float(sum(part.max() for part in problem.losses))
    return 10.0 * (1.0 + whole * (1.0 + HIGHEST_PRICE * float((spent / problem.limits).sum())))


def _spread(pair: Array, names: tuple[int, int], scope: Sequence[int]) -> Array:
    """A pair's (rows, p, q) laid out along the axes of a scope."""
    first, second = (scope.index(name) for name in names)
    values = pair if first < second else pair.transpose(0, 2, 1)
    shape = [pair.shape[0], *[1] * len(scope)]
    shape[1 + min(first, second)], shape[1 + max(first, second)] = values.shape[1:]
    return values.reshape(shape)


def _upward(buckets: Sequence[_Bucket], prices: Array) -> tuple[list[Array], list[Array], float]:
    """Each bucket's table with what was taken out before it, its message, and the least of all."""
    tables = [b.losses + np.tensordot(prices, b.costs, 1) for b in buckets]
    messages: list[Array] = []
    least = 0.0
    for n, bucket in enumerate(buckets):
        message = tables[n].min(axis=0)
        messages.append(message)
        if bucket.parent < 0:
            least += float(message)
        else:
            tables[bucket.parent] += _laid(message, bucket.scope[1:], buckets[bucket.parent].scope)
    return tables, messages, least


def _laid(message: Array, names: Sequence[int], scope: Sequence[int]) -> Array:
    """A table over some of a scope's parts (in the scope's order) as one that adds along its axes."""
    shape = [1] * len(scope)
    for size, name in zip(message.shape, names, strict=True):
        shape[scope.index(name)] = size
    return message.reshape(shape)


def _choice(buckets: Sequence[_Bucket], tables: Sequence[Array], parts: int) -> Chosen:
    """The choice of the least, read off backwards."""
    chosen = [0] * parts
    for bucket, table in zip(reversed(buckets), reversed(tables), strict=True):
        given = tuple(chosen[p] for p in bucket.scope[1:])
        chosen[bucket.scope[0]] = int(np.argmin(table[(slice(None), *given)]))
    return tuple(chosen)


def _best_prices(problem: Problem, buckets: Sequence[_Bucket]) -> tuple[Array, float, Chosen | None]:
    """Prices of the best bound, the bound, and the best choice within the limits that was met."""
    rows = len(problem.limits)
    prices, best_prices, best = np.zeros(rows), np.zeros(rows), -np.inf
    whole = float(sum(part.max() for part in problem.losses))
    known: Chosen | None = None
    cuts: list[tuple[float, Array]] = []
    for _ in range(MOST_CUTS):
        tables, _, least = _upward(buckets, prices)
        chosen = _choice(buckets, tables, len(problem.losses))
        over = problem.cost(chosen) - problem.limits
        value = least + float(prices @ (problem.constant - problem.limits))
        if value > best:
            best, best_prices = value, prices
        if (known is None or problem.loss(chosen) < problem.loss(known)) and problem.holds(chosen):
            known = chosen
        if best > whole * (1.0 + 1e-9):
            raise NoChoiceError(proven=True)
        cuts.append((problem.loss(chosen), over))
        prices, ceiling = _master(cuts, HIGHEST_PRICE * whole / problem.limits)
        if ceiling - best <= CLOSE * max(abs(best), 1e-12):
            break
    return best_prices, best, known


def _master(cuts: Sequence[tuple[float, Array]], highest: Array) -> tuple[Array, float]:
    """The prices at which the cuts leave the highest bound, and that bound."""
    if len(highest) == 1:
        return _crossing(cuts, float(highest[0]))
    matrix = np.array([[1.0, *-over] for _, over in cuts])
    losses = np.array([loss for loss, _ in cuts])
    bounds = [(None, None), *((0.0, float(h)) for h in highest)]
    found = linprog([-1.0, *[0.0] * len(highest)], matrix, losses, bounds=bounds, method="highs-ds")
    return np.maximum(found.x[1:], 0.0), float(found.x[0])


def _crossing(cuts: Sequence[tuple[float, Array]], highest: float) -> tuple[Array, float]:
    """The same for one row: where the lowest rising line meets the lowest falling one."""
    lines = [(loss, float(over[0])) for loss, over in cuts]
    candidates = {0.0, highest}
    for loss_a, slope_a in lines:
        for loss_b, slope_b in lines:
            if slope_a > 0 >= slope_b:
                candidates.add(min(highest, max(0.0, (loss_b - loss_a) / (slope_a - slope_b))))
    height, price = max((min(loss + slope * at for loss, slope in lines), -at) for at in candidates)
    return np.array([-price]), height


def _marginals(
    problem: Problem, buckets: Sequence[_Bucket], prices: Array
) -> tuple[list[Array], Mapping[tuple[int, int], Array]]:
    """The bound of all choices that hold an option, for every part; and a pair of options, for every pair."""
    tables, messages, _ = _upward(buckets, prices)
    shift = float(prices @ (problem.constant - problem.limits))
    least: list[Array] = [np.zeros(0)] * len(problem.losses)
    pairs: dict[tuple[int, int], Array] = {}
    # Networks that fall apart into pieces: what the other pieces need at least.
    roots = {n: float(messages[n]) for n, b in enumerate(buckets) if b.parent < 0}
    whole: list[Array] = list(tables)
    for n in range(len(buckets) - 1, -1, -1):
        bucket = buckets[n]
        if bucket.parent < 0:
            whole[n] = tables[n] + (sum(roots.values()) - roots[n] + shift)
        else:
            parent = buckets[bucket.parent]
            dropped = tuple(axis for axis, p in enumerate(parent.scope) if p not in bucket.scope[1:])
            whole[n] = tables[n] + (whole[bucket.parent].min(axis=dropped) - messages[n])
        axes = range(len(bucket.scope))
        least[bucket.scope[0]] = whole[n].min(axis=tuple(axes)[1:])
        for a in axes:
            for b in axes:
                pair = (bucket.scope[a], bucket.scope[b])
                if pair in problem.pairs and pair not in pairs:
                    table = whole[n].min(axis=tuple(x for x in axes if x not in (a, b)))
                    pairs[pair] = table if a < b else table.T
    return least, pairs


def _cheapest(problem: Problem) -> Chosen:
    """Each part at the option that costs least on average over the others' options."""
    costs = [c / problem.limits[:, None] for c in problem.costs]
    for (p, q), pair in problem.pairs.items():
        costs[p] = costs[p] + pair.mean(axis=2) / problem.limits[:, None]
        costs[q] = costs[q] + pair.mean(axis=1) / problem.limits[:, None]
    chosen = [int(np.argmin(c.sum(axis=0))) for c in costs]
    for tied in problem.together:
        if any(chosen[part] == option for part, option in tied):
            for part, option in tied:
                chosen[part] = option
    return tuple(chosen)


def _improved(problem: Problem, known: Chosen) -> Chosen:
    """The choice after changing one part at a time for less loss while the limits hold, greatest gain first."""
    here = list(known)
    tied = {(part, option) for several in problem.together for part, option in several}
    touching: list[list[tuple[int, Array]]] = [[] for _ in here]  # (other part, costs (rows, own options, its options))
    for (p, q), pair in problem.pairs.items():
        touching[p].append((q, pair))
        touching[q].append((p, pair.transpose(0, 2, 1)))
    free = problem.limits * (1.0 - MARGIN)
    while True:
        spent = problem.cost(here)
        moves = []
        for part, losses in enumerate(problem.losses):
            if (part, here[part]) in tied:
                continue
            costs = problem.costs[part] + sum(pair[:, :, here[q]] for q, pair in touching[part])
            then = spent[:, None] - costs[:, [here[part]]] + costs
            better = (then <= free[:, None]).all(axis=0) & (losses < losses[here[part]])
            moves += [
                (float(losses[option] - losses[here[part]]), part, int(option))
                for option in np.flatnonzero(better)
                if (part, int(option)) not in tied
            ]
        for _, part, option in sorted(moves):
            tried = [*here[:part], option, *here[part + 1 :]]
            if problem.holds(tried):
                here = tried
                break
        else:
            return tuple(here)
