"""From alive channels to the widths that are built: rounded to what the table says pays, then expanded to the budget.

MorphNet expands all widths by one factor ω; costs are stairs here and not monotone, so ω is scanned from above, and
what is left goes channel block by channel block to where importance per cost is greatest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from power_models.tables import Array, NetworkTables
from rig.compression.budget import Budget

FREE = 1e-3  # a wider group within this share of the budget costs nothing
OMEGAS = np.arange(2.0, 0.995, -0.02)


class WidthChooser:
    """Widths under a budget, by the device's tables.

    importance: per group the channels' scores, shape (seed width,); alive: channels alive of each prunable group;
    without: kernels that went with removed blocks; frozen: groups that are not chosen (they vanished with a block).
    """

    def __init__(
        self,
        tables: NetworkTables,
        budget: Budget,
        importance: Mapping[str, Tensor],
        seed: Mapping[str, int],
        without: frozenset[int] = frozenset(),
        frozen: frozenset[str] = frozenset(),
    ) -> None:
        self.tables = tables
        self.budget = budget
        self.seed = dict(seed)
        self.without = without
        self.free_groups = [g for g in importance if g not in frozen]
        self._worth = {g: _cumulative(importance[g], tables.largest[g]) for g in self.free_groups}

    def usage(self, widths: Mapping[str, int]) -> float:
        """Share of the budget that these widths use (predicted)."""
        return self.budget.usage(self.tables.totals(widths, self.without))

    def totals(self, widths: Mapping[str, int]) -> Array:
        """Predicted totals (4,) at these widths."""
        return self.tables.totals(widths, self.without)

    def choose(self, alive: Mapping[str, int]) -> dict[str, int]:
        """Round the alive widths, cut to the budget where they are over it, expand to what is left."""
        start = {**self.seed, **{g: max(1, int(alive[g])) for g in self.free_groups}}
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
        here = self.usage(widths)
        best = widths[group]
        for width in range(best + 1, min(best + self.tables.block, self.tables.largest[group]) + 1):
            if self.usage({**widths, group: width}) > here + FREE:
                break
            best = width
        return best

    def cut(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Remove channel blocks, least importance per cost saved first, until the budget holds or nothing is left."""
        found = dict(widths)
        while (usage := self.usage(found)) > 1.0:
            best = self._best_move(found, usage, self._step_down, lambda lost, saved: -lost / saved)
            if best is None:
                return found
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
        """MorphNet's expansion: the largest uniform factor whose rounded widths hold the budget."""
        for omega in OMEGAS:
            wider = dict(widths)
            for group in self.free_groups:
                wider[group] = min(self.tables.largest[group], round(widths[group] * float(omega)))
            if self.usage(wider) <= 1.0:
                rounded = self.rounded(wider)
                return rounded if self.usage(rounded) <= 1.0 else wider
        return dict(widths)

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

    def _step_down(self, widths: dict[str, int], group: str) -> int:
        """The next width below that is cheaper: the end of the plateau below."""
        here = self.usage(widths)
        for width in range(widths[group] - 1, 0, -1):
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
