"""The power-aware regularizer: MorphNet's penalty with the device's own costs as its weights.

MorphNet (Gordon et al., CVPR 2018, arXiv 1711.06798) charges a layer ``C · (Σ|γ_in| · ΣB + ΣA · Σ|γ_out|)`` with C its
FLOPs. Here the factor of a group's scales is the marginal of the device's cost tables at the widths now alive (watts at
a frame rate, joules or seconds), summed over all kernels that see the group. Differences from the paper:

- A channel's scale n is the L2 norm over all batch-norms that are tied in its group, shifts (β) included, so that a
  channel at zero contributes nothing at all.
- Σ|γ| becomes the effective width (Σn)²/Σn²: k for k equal channels whatever their scale. The batch-norm behind a layer
  undoes any common factor, so that plain Σ|γ| falls for nothing while all channels shrink together and none dies.
- Beside the penalty for a loss there is a step that applies it to the norms. At the optimum of ``L + λ·G`` a channel is
  zero where the loss pulls less than the penalty pushes, ``|n·∂L/∂n| ≤ λ·price``. The left side is watched while
  training goes on (its running mean), and exactly the channels that meet the condition are shrunk, at an even pace, to
  exact zeros: a few epochs do what plain subgradient steps need many for.
- The paper calls a channel dead whose |γ| is under a threshold. But γ may be small because the next layer makes up for
  it: a channel with a·γ, a·β here and 1/a of the weights there is the same channel. So nothing here looks at the size
  of γ. ``γ·∂L/∂γ`` does not change with a; a condemned channel shrinks by a share of its own norm, so that all take
  equally long; and dead is what has reached zero exactly, however small the living are.

``penalty()`` is what is differentiated, ``cost()`` is what the alive channels would cost: never confuse the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from power_models.tables import Array, NetworkTables, TablesLeft

Gradient = Callable[[Array], Array]  # totals (4,) → derivative of the limited quantity by each total (4,)


class ScaledGroup(Protocol):
    """What the regularizer needs of a channel group."""

    name: str
    width: int

    @property
    def prunable(self) -> bool:
        """Whether channels may go."""

    @property
    def scales(self) -> Sequence[Any]:
        """Records with ``weight``, ``bias``, ``index``, ``root``, ``plain`` and ``by_unit`` (a group's scales)."""

    def norms(self) -> Tensor:
        """Norm of each channel, shape (width,)."""


class CostRegularizer:
    """Penalty and true cost of a network's channel groups under a device's tables.

    groups: the channel groups (their batch-norms are the parameters that shrink); tables: the device's costs of this
    network; gradient: derivative of the resource by the four totals; floors: channels that a group keeps (one, where
    it is not named).
    """

    def __init__(
        self,
        groups: Sequence[ScaledGroup],
        tables: NetworkTables | TablesLeft,
        gradient: Gradient,
        floors: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.groups = [g for g in groups if g.name in tables.largest]
        self.tables = tables
        self.gradient = gradient
        self.floors = floors
        shrinking = [g for g in self.groups if g.prunable]
        self._channels = max(sum(g.width for g in shrinking), 1)  # of the network as it was, cut or not
        self._at_once = {g.name: max(tables.block, math.ceil(AT_ONCE * g.width)) for g in shrinking}
        self.resistance = {g.name: torch.zeros(g.width) for g in shrinking}
        self.condemned = {g.name: torch.zeros(g.width, dtype=torch.bool) for g in shrinking}
        self.dead = {g.name: torch.zeros(g.width, dtype=torch.bool) for g in shrinking}
        self.sentenced = {g.name: torch.zeros(g.width) for g in shrinking}  # norms when they were condemned
        self._going: set[str] = set()  # groups with condemned or dead channels
        self._watched = 0
        self._prices: dict[str, float] = {}
        self._priced_at: dict[str, int] = {}
        first = self.prices()
        mean = sum(first[g.name] * g.width for g in shrinking) / self._channels
        self._unit = mean if mean > 0 else 1.0

    def alive(self) -> dict[str, Tensor]:
        """Which channels of each group are alive, bool (width,); of a group that must stay, all."""
        found = {}
        with torch.no_grad():
            for group in self.groups:
                if group.prunable:  # an optimizer's momentum moves the dead for a moment
                    found[group.name] = (group.norms() > 0) & ~self.dead[group.name]
                else:
                    found[group.name] = torch.ones(group.width, dtype=torch.bool)
        return found

    def widths(self) -> dict[str, int]:
        """Alive channels of each group."""
        return {name: int(alive.sum()) for name, alive in self.alive().items()}

    def cost(self) -> Array:
        """True totals (4,) of the alive channels, in the order of ``tables.QUANTITIES``."""
        return self.tables.totals(self.widths())

    def block_steps(self) -> dict[str, Array]:
        """What each group's totals (4,) fall by with one hardware block of its alive channels less: a step of cost."""
        widths = self.widths()
        marginals = self.tables.marginals(widths)
        spans = {g.name: min(self.tables.block, widths[g.name] - 1) for g in self.groups if g.prunable}
        return {name: marginals[name] * max(span, 0) for name, span in spans.items()}

    def state(self) -> dict[str, Any]:
        """What was watched, for a checkpoint."""
        return {
            "resistance": self.resistance,
            "condemned": self.condemned,
            "dead": self.dead,
            "sentenced": self.sentenced,
            "watched": self._watched,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back ``state``."""
        self.resistance = dict(state["resistance"])
        self.condemned = dict(state["condemned"])
        self.dead = dict(state["dead"])
        self.sentenced = dict(state["sentenced"])
        self._watched = int(state["watched"])
        self._note_going()

    def _note_going(self) -> None:
        self._going = {name for name, marks in self.condemned.items() if bool((marks | self.dead[name]).any())}

    def prices(self) -> dict[str, float]:
        """What one channel of each group costs of the resource at the widths now alive."""
        widths = self.widths()
        if widths != self._priced_at:
            slope = self.gradient(self.tables.totals(widths))
            marginals = self.tables.marginals(widths)
            self._prices = {name: max(0.0, float(np.dot(slope, m))) for name, m in marginals.items()}
            self._priced_at = widths
        return self._prices

    def penalty(self) -> Tensor:
        """Relaxed cost, a scalar tensor: Σ over groups of price · effective width. Differentiable in every γ and β."""
        prices = self.prices()
        total = torch.zeros(())
        for group in self.groups:
            if group.prunable:
                total = total + prices[group.name] * effective_width(group.norms())
        return total

    @torch.no_grad()
    def watch(self) -> None:
        """Take the gradients of the step just made into each channel's running ``Σ |γ·∂L/∂γ + β·∂L/∂β|``."""
        self._watched += 1
        share = max(1.0 / self._watched, 1.0 / MEMORY)
        for group in self.groups:
            if group.prunable:
                self.resistance[group.name].lerp_(_resistance(group), share)

    @torch.no_grad()
    def condemn(self, strength: float) -> None:
        """Mark the channels whose price times ``strength`` exceeds their resistance; pardon those below half of it.

        Both are relative to their means over the network (in which the dead count, also those taken out), so that
        strength 1 takes an average channel of average price.
        """
        if not self._watched:
            return
        for group, ratio in self._ratios(strength):
            name, before = group.name, self.condemned[group.name]
            self.condemned[name] = (before & (ratio > PARDON)) | (ratio > 1.0)
            fresh = self.condemned[name] & ~before
            self.sentenced[name] = torch.where(fresh, group.norms(), self.sentenced[name])
        self._note_going()

    @torch.no_grad()
    def idle_strength(self) -> float:
        """The strength below which ``condemn`` leaves no channel condemned, and so makes no difference any more.

        0 where that is not known yet.
        """
        if not self._watched:
            return 0.0
        most = 0.0  # over 1: the least strength that makes a difference
        for group, ratio in self._ratios(1.0):
            going = self.condemned[group.name]
            most = max(most, float(torch.where(going, ratio / PARDON, ratio).max()))
        return 1.0 / most if most > 0 else 0.0

    @torch.no_grad()
    def proximal_step(self, rate: float) -> None:
        """Shrink the condemned channels by ``rate`` of the norm they had when condemned; what crosses zero is dead."""
        for group in self.groups:
            if group.name in self._going:
                lengths = min(MAX_STEP, rate) * self.condemned[group.name] * self.sentenced[group.name]
                _shrink(group, lengths, self.dead[group.name])

    @torch.no_grad()
    def projected(self) -> dict[str, int]:
        """Alive channels of each group less the condemned."""
        alive = self.alive()
        return {name: int((kept & ~self.condemned.get(name, ~kept)).sum()) for name, kept in alive.items()}

    def _ratios(self, strength: float) -> list[tuple[ScaledGroup, Tensor]]:
        """Per group price over resistance, (width,), of the weakest channels; 0 elsewhere.

        A price is the secant over one hardware block, so it says little about the channels beyond. Of a wide group more
        are looked at: block by block it would take longer to shrink than the training, and narrow ones pay for that.
        """
        prices, alive = self.prices(), self.alive()
        mean = float(torch.cat(list(self.resistance.values())).sum()) / self._channels  # the dead resist nothing
        found = []
        for group in self.groups:
            if not group.prunable:
                continue
            push = strength * prices[group.name] / self._unit * mean
            held = torch.where(alive[group.name], self.resistance[group.name], torch.inf)
            spare = int(alive[group.name].sum()) - self.floors.get(group.name, 1)
            weakest = torch.argsort(held)[: max(0, min(self._at_once[group.name], spare))]
            ratio = torch.zeros(group.width)
            ratio[weakest] = push / held[weakest].clamp_min(1e-12)
            found.append((group, ratio))
        return found


PARDON = 0.5  # of the condition that condemns: watched gradients are noisy, and a channel half gone is worth little
AT_ONCE = 0.25  # of a group's channels may go at once, or one hardware block of them where that is more
MAX_STEP = 0.05  # of the norm when condemned, in one step
MEMORY = 100  # steps over which resistance is averaged


def effective_width(norms: Tensor) -> Tensor:
    """(Σn)²/Σn² of channel norms (width,), a scalar: the number of channels that carry the group."""
    square = (norms**2).sum()
    return norms.sum() ** 2 / square if float(square.detach()) > 0 else norms.sum()


def pulls(group: ScaledGroup) -> list[Tensor]:
    """γ·∂L/∂γ + β·∂L/∂β of each channel, one tensor (width,) for each of the group's tied scales."""
    found = []
    for scale in group.scales:
        parts = [
            scale.by_unit(values * values.grad, group.width)
            for values in (scale.weight, scale.bias)
            if values is not None and values.grad is not None
        ]
        found.append(sum(parts[1:], parts[0]) if parts else torch.zeros(group.width))
    return found


def _resistance(group: ScaledGroup) -> Tensor:
    """Σ over the tied scales of |γ·∂L/∂γ + β·∂L/∂β|, shape (width,).

    Absolute before the sum: at a trained network's optimum the parts of a residual channel cancel, which says nothing
    about doing without it.
    """
    return sum((parts.abs() for parts in pulls(group)), torch.zeros(group.width))


def _shrink(group: ScaledGroup, steps: Tensor, dead: Tensor) -> None:
    """Lower each channel's norm by ``steps`` (width,), not below zero.

    ``dead`` (width,) gains what reaches zero, and is held there: an optimizer's momentum would move it again.
    """
    norms = group.norms()
    wanted = torch.where(dead, torch.zeros_like(norms), (norms - steps).clamp_min(0.0))
    dead |= wanted == 0
    factor = torch.where(norms > 0, wanted / norms.clamp_min(torch.finfo(norms.dtype).tiny), torch.zeros_like(norms))
    for scale in group.scales:
        rows = factor if scale.plain else factor[scale.root]
        for values in (scale.weight, scale.bias):
            if values is None:
                continue
            by_row = rows.view((-1,) + (1,) * (values.dim() - 1))
            if scale.plain:
                values.mul_(by_row)
            else:
                values[scale.index] = values[scale.index] * by_row
