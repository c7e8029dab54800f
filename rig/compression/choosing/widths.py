"""From alive channels to the widths that are built: rounded to what the table says pays, then expanded to the budget.

MorphNet expands all widths by one factor ω. Costs are stairs here and not monotone, so that no search by halves finds
the largest ω: a width changes where ω times it rounds up, all those ω are looked at, from above. What is left goes
channel block by channel block to where importance per cost is greatest, and what is free is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from types import MappingProxyType

import numpy as np
from torch import Tensor

from power_models.tables import Array, NetworkTables
from rig.compression.budget import Budget

FREE = 1e-3  # a wider group within this share of the budget costs nothing


class WidthChooser:
    """Widths under a budget, by the device's tables.

    importance: per group the channels' scores, shape (seed width,); alive: channels alive of each prunable group;
    without: kernels that went with removed blocks; frozen: groups that are not chosen (they vanished with a block);
    floors: widths that groups are not cut below while anything else can be cut.
    """

    def __init__(
        self,
        tables: NetworkTables,
        budget: Budget,
        importance: Mapping[str, Tensor],
        seed: Mapping[str, int],
        without: frozenset[int] = frozenset(),
        frozen: frozenset[str] = frozenset(),
        floors: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.tables = tables
        self.budget = budget
        self.seed = dict(seed)
        self.without = without
        self.floors = floors
        self.free_groups = [g for g in importance if g not in frozen]
        self._worth = {g: _cumulative(importance[g], tables.largest[g]) for g in self.free_groups}

    def usage(self, widths: Mapping[str, int]) -> float:
        """Share of the budget that these widths use (predicted)."""
        return self.budget.usage(self.tables.totals(widths, self.without))

    def totals(self, widths: Mapping[str, int]) -> Array:
        """Predicted totals (4,) at these widths."""
        return self.tables.totals(widths, self.without)

    def choose(self, alive: Mapping[str, int], expand: bool = True) -> dict[str, int]:
        """Round the alive widths, cut to the budget where they are over it, expand to what is left (``expand``)."""
        start = {**self.seed, **{g: max(1, int(alive[g])) for g in self.free_groups}}
        if not expand:
            return self.cut(start)
        widths = self.cut(self.rounded(start))
        widths = self.expanded(widths)
        return self.filled(widths)

    def rounded(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Each group raised to the edge of its plateau, where more channels cost nothing."""
        found = dict(widths)
        for group in self.free_groups:
            found[group] = self._plateau_end(found, group)
        return found

    def _plateau_end(self, widths: dict[str, int], group: str) -> int:
        """The widest that is free, at most one hardware block on; within the budget if ``widths`` are."""
        here = self.usage(widths)
        limit = min(here + FREE, 1.0) if here <= 1.0 else here + FREE
        width = widths[group]
        for wider in range(min(width + self.tables.block, self.tables.largest[group]), width, -1):
            if self.usage({**widths, group: wider}) <= limit:
                return wider
        return width

    def cut(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Remove channel blocks, least importance per cost saved first, until the budget holds or nothing is left."""
        found = dict(widths)
        for floors in (self.floors, {}):
            step_down = partial(self._step_down, floors=floors)
            while (usage := self.usage(found)) > 1.0:
                best = self._best_move(found, usage, step_down, lambda lost, saved: -lost / saved)
                if best is None:
                    break
                found[best[0]] = best[1]
        return found

    def filled(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Add channel blocks, most importance per cost first, while the budget holds."""
        found = dict(widths)
        while True:
            usage = self.usage(found)
            best = self._best_move(found, usage, self._step_up, lambda gained, spent: gained / spent, within=1.0)
            if best is None:
                return found
            found[best[0]] = best[1]

    def expanded(self, widths: Mapping[str, int]) -> dict[str, int]:
        """MorphNet's expansion: the largest uniform factor whose widths hold the budget, and what is free with it."""
        wider = {**widths, **{g: max(widths[g], self.tables.largest[g]) for g in self.free_groups}}
        costs = self.tables.kernel_costs(wider)
        for _, changes in groupby(self._breakpoints(widths), key=lambda change: change[0]):
            if self._holds(costs):
                break
            for _, group, width in changes:
                wider[group] = width
                costs = self.tables.recosted(costs, wider, group)
        return self.rounded(wider) if self._holds(costs) else dict(widths)

    def _breakpoints(self, widths: Mapping[str, int]) -> list[tuple[float, str, int]]:
        """(ω, group, its width just below that ω) where ω · width rounds to another number, falling, down to ω = 1."""
        found = [
            ((wider - 0.5) / widths[group], group, wider - 1)
            for group in self.free_groups
            for wider in range(widths[group] + 1, self.tables.largest[group] + 1)
        ]
        return sorted(found, key=lambda change: (-change[0], change[1]))

    def _holds(self, costs: Array) -> bool:
        """Whether kernels of these costs (kernels, 4) hold the budget together."""
        there = [i for i in range(len(costs)) if i not in self.without]
        return self.budget.usage(self.tables.overhead + costs[there].sum(axis=0)) <= 1.0

    def _best_move(
        self,
        widths: dict[str, int],
        usage: float,
        step: Callable[[dict[str, int], str], int],
        score: Callable[[float, float], float],
        within: float | None = None,
    ) -> tuple[str, int] | None:
        """The group and width of the best single step; None where no step helps."""
        best, best_score = None, -np.inf
        for group in self.free_groups:
            width = step(widths, group)
            if width == widths[group]:
                continue
            then = self.usage({**widths, group: width})
            if within is not None and then > within:
                continue
            worth = abs(float(self._worth[group][width] - self._worth[group][widths[group]]))
            change = max(abs(then - usage), 1e-9)
            if within is None and then >= usage:
                continue
            value = score(worth, change)
            if value > best_score:
                best, best_score = (group, width), value
        return best

    def _step_down(self, widths: dict[str, int], group: str, floors: Mapping[str, int]) -> int:
        """The next width below that is cheaper: the end of the plateau below."""
        here = self.usage(widths)
        for width in range(widths[group] - 1, floors.get(group, 1) - 1, -1):
            if self.usage({**widths, group: width}) < here - FREE:
                return width
        return widths[group]

    def _step_up(self, widths: dict[str, int], group: str) -> int:
        """One channel more and then to the end of the plateau that it lies on."""
        if widths[group] >= self.tables.largest[group]:
            return widths[group]
        return self._plateau_end({**widths, group: widths[group] + 1}, group)


def _cumulative(importance: Tensor, largest: int) -> Array:
    """Importance kept at each width 0 … largest, best channels first; channels beyond the seed count half its least."""
    scores = np.sort(importance.detach().numpy().astype(np.float64))[::-1]
    scores = np.maximum(scores, 1e-12)
    alive = scores[scores > 1e-9]
    fresh = 0.5 * float(alive[-1]) if len(alive) else 1e-12
    padded = np.concatenate([np.maximum(scores, fresh), np.full(max(0, largest - len(scores)), fresh)])
    return np.concatenate([[0.0], np.cumsum(padded)])
