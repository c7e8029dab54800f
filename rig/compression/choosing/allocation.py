"""Widths and residual blocks as a choice of options under the device's cost tables: the problem that ``milp`` solves.

    part      a channel group; its options are the widths that pay, and "gone" where it is inside a removable block
    loss      what the channels are worth that an option leaves out; of a block, what its removal costs
    costs     of each kernel at its own table: of one group or of two (c_in, c_out) they are exact; a kernel vanishes
              where its block is gone
    rows      limits as linear rows over the totals. Flat-out power is a ratio, e/T ≤ L − P0, and so a row:
              e − (L − P0)·T ≤ 0

A kernel that reads a concatenation may depend on three groups or more. Its cost is then taken as a sum of changes of
one input at a time (each paired with its output group) around an anchor: exact at the anchor and wherever one input
differs from it. Every choice is priced anew by the tables themselves, the next anchor is that choice, and a choice that
does not hold after all is ruled out. Where so many of them did not hold, the solver's limits are lowered by what they
were over.

Options are found where all other groups are whole, and are few: at a tenth of a network's widths they are far apart. So
what was chosen is refined: between its neighbours there are new options, found where the others are as chosen.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from power_models.tables import Array, NetworkTables
from rig.compression.budget import Budget
from rig.compression.choosing.milp import GAP, TIME_LIMIT_S, Chosen, NoChoiceError, Problem, least_cost, solve
from rig.compression.cutting.template import ResidualBlock

MOST_WIDTHS = 12  # options of a group
PAYS = 0.01  # of what a whole group costs: a narrower width must save so much
PROBED = 128  # widths of a group looked at
ANCHORS = 6  # choices tried where kernels depend on three groups or more
REFINED, NEARER = 2, 9  # how often what was chosen is refined, and options of a group then
LOWERED = 6  # more of them, the solver's limits lowered each time by what the last was over
GONE = 0  # the width of a group that vanished with its block


class LimitRows(NamedTuple):
    """Limits as rows over the totals (4,): ``coefficients @ totals + constant ≤ 1``."""

    coefficients: Array  # (rows, 4)
    constant: Array  # (rows,)

    def used(self, totals: Array) -> Array:
        """Share of each limit, (rows,)."""
        return np.asarray(self.coefficients @ totals + self.constant)


def limit_rows(budget: Budget, baseline: Array, frame_s: float | None = None) -> LimitRows:
    """The rows of a budget; ``baseline``: totals (4,) of the seed network; ``frame_s``: the longest latency allowed."""
    coefficients, constant = [], []
    for bound in budget.bounds:
        room = bound.limit - bound.floor
        if bound.quantity == "power" and not bound.fps:
            # e − room·T ≤ 0, as a share of what the seed network may use.
            coefficients.append(np.array([-room, 1.0, 0.0, 0.0]) / (room * float(baseline[0])))
            constant.append(1.0)
        else:
            coefficients.append(bound.gradient(baseline) / room)
            constant.append(0.0)
    if frame_s is not None:
        coefficients.append(np.array([1.0 / frame_s, 0.0, 0.0, 0.0]))
        constant.append(0.0)
    return LimitRows(np.array(coefficients), np.array(constant))


class Allocation(NamedTuple):
    """A configuration: widths of every group, blocks that go, its loss, the proven bound of the loss.

    bound: with the options that the solver had (the last ones, where a choice was refined); used: share of each limit
    by the tables; exact: whether the costs of the problem were the tables' own; options, left: of all groups, and those
    given to the solver.
    """

    widths: dict[str, int]
    removed: list[str]
    loss: float
    bound: float
    used: Array
    exact: bool
    options: int
    left: int


class Scores(NamedTuple):
    """What is lost, on one scale: of each channel of each group (width,), and with each removable block."""

    channels: Mapping[str, Array]
    blocks: Mapping[str, float]


class Allocator:
    """The choice of widths and blocks under limits.

    tables: the device's costs; widths: of every group that is there (the most that may be kept); seed: of every group;
    blocks: residual blocks that are still there (those without a score stay); without: kernels that are gone; scores:
    of the groups to be chosen; floors: widths that groups keep where they stay (one, where they are not named).
    """

    def __init__(
        self,
        tables: NetworkTables,
        widths: Mapping[str, int],
        seed: Mapping[str, int],
        blocks: Sequence[ResidualBlock],
        without: frozenset[int],
        scores: Scores,
        rows: LimitRows,
        floors: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.tables = tables
        self.widths = {**seed, **widths}
        self.without = without
        self.scores = scores
        self.rows = rows
        self.floors = floors
        self.blocks = _apart([b for b in blocks if b.name in scores.blocks], without)
        self._block_of = {g: b for b in self.blocks for g in sorted(b.inner)}
        self.parts = [g for g in self.widths if g in widths and (g in scores.channels or g in self._block_of)]
        self._place = {group: p for p, group in enumerate(self.parts)}
        self.options = [self._options(group) for group in self.parts]
        self._blocks_of_kernel = {k: b for b in self.blocks for k in b.kernels}

    # --- options ----------------------------------------------------------------------------------------------------

    def _options(self, group: str) -> list[int]:
        """Widths of a group, widest first, and GONE last where its block may go."""
        found = self.widths_that_pay(group) if group in self.scores.channels else [self.widths[group]]
        return [*found, GONE] if group in self._block_of else found

    def widths_that_pay(self, group: str) -> list[int]:
        """The ends of plateaus, widest first, at most MOST_WIDTHS: no wider width costs as little, on any limit."""
        most = self.widths[group]
        least = min(most, self.floors.get(group, 1))
        return self._paying(group, self.widths, _probed(least, most), MOST_WIDTHS)

    def _paying(self, group: str, others: Mapping[str, int], tried: Sequence[int], most: int) -> list[int]:
        """The ends of plateaus among the widths ``tried`` (falling), at most so many, at widths of the other groups."""
        users = [i for i, k in enumerate(self.tables.kernels) if group in k.groups and i not in self.without]
        cost = {w: self._priced(users, {**others, group: w}) for w in tried}
        free = PAYS * np.abs(cost[tried[0]] - cost[tried[-1]])
        kept: list[int] = []
        for width in tried:
            if all((cost[wider] > cost[width] + free).any() for wider in kept):
                kept.append(width)
        share = {w: float(((cost[w] - cost[kept[-1]]) / np.maximum(free, 1e-300)).sum()) for w in kept}
        while len(kept) > most:  # the one whose neighbours cost nearly the same
            i = min(range(1, len(kept) - 1), key=lambda i: share[kept[i - 1]] - share[kept[i + 1]])
            del kept[i]
        return kept

    def _priced(self, kernels: Sequence[int], widths: Mapping[str, int]) -> Array:
        """Shares of the limits (rows,) that kernels cost at these widths."""
        total = sum((self.tables.kernel_cost(i, widths) for i in kernels), np.zeros(4))
        return np.asarray(self.rows.coefficients @ total)

    def _losses(self, group: str) -> Array:
        """What each option of a group leaves out. Its block's loss is with the first of the block's groups."""
        block = self._block_of.get(group)
        whole = self.scores.blocks.get(block.name, np.inf) if block is not None else np.inf
        scores = np.sort(self.scores.channels[group])[::-1] if group in self.scores.channels else np.zeros(0)
        alone = block is not None and len(block.inner) == 1
        found = []
        for option in self.options[self._place[group]]:
            if option == GONE:
                found.append(whole if block is not None and self._first(block) == group else 0.0)
            else:
                lost = float(scores[option:].sum())
                # To narrow a block's only group cannot hurt more than to take the block out.
                found.append(min(lost, whole) if alone else lost)
        return np.array(found)

    def _first(self, block: ResidualBlock) -> str:
        return min(block.inner & set(self._place), key=self._place.__getitem__)

    # --- the problem ------------------------------------------------------------------------------------------------

    def problem(self, anchor: Mapping[str, int], forbidden: Sequence[Chosen] = ()) -> tuple[Problem, bool]:
        """The problem, and whether its costs are exact; ``anchor``: widths about which wide kernels are taken."""
        rows = len(self.rows.constant)
        constant = self.rows.constant + self.rows.coefficients @ self.tables.overhead
        costs = [np.zeros((rows, len(options))) for options in self.options]
        pairs: dict[tuple[int, int], Array] = {}
        exact = True
        for i in range(len(self.tables.kernels)):
            if i in self.without:
                continue
            scope = self._scope(i)
            if not scope:
                constant = constant + self._cost(i, {})
            elif len(scope) == 1:
                costs[scope[0]] += self._line(i, scope[0], {})
            elif len(scope) == 2:
                _add(pairs, scope[0], scope[1], self._plane(i, scope[0], scope[1], {}))
            else:
                exact = False
                constant = constant + self._about(i, scope, self._anchored(scope, anchor), costs, pairs)
        together = tuple(
            tuple((self._place[g], len(self.options[self._place[g]]) - 1) for g in self.parts if g in b.inner)
            for b in self.blocks
        )
        losses = tuple(self._losses(group) for group in self.parts)
        limits = np.ones(rows)
        return Problem(losses, tuple(costs), pairs, constant, limits, together, tuple(forbidden)), exact

    def _scope(self, kernel: int) -> list[int]:
        """Parts that a kernel's cost depends on: its groups, and its block where none of them is inside it."""
        found = {self._place[g] for g in self.tables.kernels[kernel].groups if g in self._place}
        block = self._blocks_of_kernel.get(kernel)
        if block is not None and not any(self.parts[p] in block.inner for p in found):
            found.add(self._place[self._first(block)])
        return sorted(found)

    def _cost(self, kernel: int, chosen: Mapping[int, int]) -> Array:
        """Shares (rows,) of a kernel at options of parts; nothing where its block is gone."""
        block = self._blocks_of_kernel.get(kernel)
        widths = dict(self.widths)
        for part, option in chosen.items():
            width, group = self.options[part][option], self.parts[part]
            if width != GONE:
                widths[group] = width
            elif block is not None and group in block.inner:
                return np.zeros(len(self.rows.constant))
        return np.asarray(self.rows.coefficients @ self.tables.kernel_cost(kernel, widths))

    def _line(self, kernel: int, part: int, given: Mapping[int, int]) -> Array:
        """(rows, options) of one part, others given."""
        return np.stack([self._cost(kernel, {**given, part: i}) for i in range(len(self.options[part]))], axis=1)

    def _plane(self, kernel: int, p: int, q: int, given: Mapping[int, int]) -> Array:
        """(rows, options of p, options of q) of two parts, others given."""
        return np.stack(
            [self._line(kernel, q, {**given, p: i}) for i in range(len(self.options[p]))],
            axis=1,
        )

    def _anchored(self, scope: Sequence[int], anchor: Mapping[str, int]) -> dict[int, int]:
        """Options of the parts nearest to the anchor's widths; never GONE, which is no width to take others about."""
        found = {}
        for part in scope:
            there = [i for i, width in enumerate(self.options[part]) if width != GONE]
            wanted = anchor[self.parts[part]]
            found[part] = min(there, key=lambda i, p=part, w=wanted: abs(self.options[p][i] - w))  # type: ignore[misc]
        return found

    def _about(
        self,
        kernel: int,
        scope: Sequence[int],
        at: Mapping[int, int],
        costs: list[Array],
        pairs: dict[tuple[int, int], Array],
    ) -> Array:
        """Add a kernel of many groups to ``costs`` and ``pairs``, an input at a time about ``at``; returns the rest."""
        pivot = self._pivot(kernel, scope)
        others = [p for p in scope if p != pivot]
        given = {p: at[p] for p in others}
        if pivot is None:
            base = self._cost(kernel, given)
            for p in others:
                costs[p] += self._line(kernel, p, given) - base[:, None]
            return base
        base = self._line(kernel, pivot, given)
        costs[pivot] += base
        for p in others:
            _add(pairs, p, pivot, self._plane(kernel, p, pivot, given) - base[:, None, :])
        return np.zeros(len(self.rows.constant))

    def _pivot(self, kernel: int, scope: Sequence[int]) -> int | None:
        """The part that multiplies the others: the block that the kernel goes with, or else its output group."""
        block = self._blocks_of_kernel.get(kernel)
        if block is not None:
            return next(p for p in scope if self.parts[p] in block.inner)
        sized = self.tables.kernels[kernel]
        out = [self._place[g] for g, _ in sized.channels_out.terms if g in self._place]
        reads = {self._place[g] for g, _ in sized.channels_in.terms if g in self._place}
        return out[0] if len(out) == 1 and out[0] not in reads else None

    # --- the choice -------------------------------------------------------------------------------------------------

    def choose(
        self, gap: float = GAP, time_limit_s: float = TIME_LIMIT_S, about: Mapping[str, int] | None = None
    ) -> Allocation:
        """The allocation of least loss within the limits, or the nearest of those that were over when priced anew.

        about: widths to begin the pricing of wide kernels from, the widest if not given. Raises NoChoiceError; where
        the costs are no more than near to the tables' own, only if the time is over.
        """
        anchor: Mapping[str, int] = self.widths if about is None else about
        forbidden: list[Chosen] = []
        held: list[Allocation] = []
        over: list[Allocation] = []
        lowered = np.ones(len(self.rows.constant))  # the solver's limits, as shares of the limits
        while len(held) + len(over) < ANCHORS or (not held and len(over) < ANCHORS + LOWERED):
            problem, exact = self.problem(anchor, forbidden)
            try:
                solution = solve(problem._replace(limits=lowered), gap, time_limit_s)
            except NoChoiceError as error:
                if held or over:
                    break
                if exact or not error.proven:
                    raise
                found = self.least(time_limit_s)  # nothing holds about the widest; something may about the narrowest
            else:
                found = self._allocation(solution.chosen, solution.loss, solution.bound, exact, solution.left)
                if not (found.used <= 1.0).all():
                    forbidden.append(solution.chosen)
            if (found.used <= 1.0).all():
                held.append(found)
                if exact or dict(anchor) == found.widths:
                    break
            else:
                over.append(found)
                if len(over) >= ANCHORS:
                    lowered = lowered / np.maximum(1.0, found.used)
            anchor = found.widths
        if held:
            return min(held, key=lambda found: found.loss)
        return min(over, key=lambda found: float(found.used.max()))

    def refined(self, found: Allocation, gap: float = GAP, time_limit_s: float = TIME_LIMIT_S) -> Allocation:
        """What ``choose`` found, or better: among options between the neighbours of what was chosen."""
        nearer = copy.copy(self)
        for _ in range(REFINED):
            if not (found.used <= 1.0).all():
                break
            nearer.options = [self._nearer(p, nearer.options[p], found) for p in range(len(self.parts))]
            try:
                better = nearer.choose(gap, time_limit_s, found.widths)
            except NoChoiceError:  # undecided in the time given
                break
            if not (better.used <= 1.0).all() or better.loss >= found.loss:
                break
            found = better
        return found

    def _nearer(self, part: int, last: Sequence[int], found: Allocation) -> list[int]:
        """New options of a part about its width in ``found``, which is one of them; GONE stays where it was offered."""
        group = self.parts[part]
        width, known = found.widths[group], sorted({*self.options[part], *last} - {GONE})
        gone = any(group in b.inner for b in self.blocks if b.name in found.removed)
        if gone or len(known) < 2 or group not in self.scores.channels:
            return list(self.options[part])
        place = known.index(width)
        tried = _probed(known[max(0, place - 1)], known[min(len(known) - 1, place + 1)])
        paying = self._paying(group, found.widths, tried, NEARER)
        return [*sorted({*paying, width}, reverse=True), *([GONE] if GONE in self.options[part] else [])]

    def narrowest(self) -> Allocation:
        """Every group at its narrowest option, every block gone."""
        return self._allocation(tuple(len(options) - 1 for options in self.options), np.inf, 0.0, True, 0)

    def least(self, time_limit_s: float = TIME_LIMIT_S) -> Allocation:
        """The allocation whose largest share of a limit is least: what is reachable."""
        problem, exact = self.problem(self.widths)
        chosen = least_cost(problem, time_limit_s)
        return self._allocation(chosen, problem.loss(chosen), problem.loss(chosen), exact, 0)

    def _allocation(self, chosen: Chosen, loss: float, bound: float, exact: bool, left: int) -> Allocation:
        widths, gone = dict(self.widths), set()
        for group, options, i in zip(self.parts, self.options, chosen, strict=True):
            if options[i] == GONE:
                gone.add(group)
            else:
                widths[group] = options[i]
        removed = [b.name for b in self.blocks if b.inner & gone]
        without = self.without | {k for b in self.blocks if b.name in removed for k in b.kernels}
        used = self.rows.used(self.tables.totals(widths, without))
        return Allocation(widths, removed, loss, bound, used, exact, sum(map(len, self.options)), left)


def _probed(least: int, most: int) -> list[int]:
    """Widths to be looked at, falling: all of them or an even part, with both ends."""
    step = 1 << max(0, ((most - least + 1) // PROBED).bit_length() - 1)
    return sorted({least, most, *range(least - least % step + step, most, step)}, reverse=True)


def _add(pairs: dict[tuple[int, int], Array], p: int, q: int, costs: Array) -> None:
    """Add (rows, options of p, options of q) to the costs of a pair, smaller part first."""
    if p > q:
        p, q, costs = q, p, costs.transpose(0, 2, 1)
    pairs[p, q] = pairs[p, q] + costs if (p, q) in pairs else costs


def _apart(blocks: Sequence[ResidualBlock], without: frozenset[int]) -> list[ResidualBlock]:
    """Blocks that can go one without the other; of two that overlap the smaller one."""
    found: list[ResidualBlock] = []
    for block in sorted(blocks, key=lambda b: (len(b.kernels), b.name)):
        if block.kernels <= without or not block.inner:
            continue
        if all(not (block.kernels & other.kernels) and not (block.inner & other.inner) for other in found):
            found.append(block)
    return sorted(found, key=lambda b: min(b.kernels))
