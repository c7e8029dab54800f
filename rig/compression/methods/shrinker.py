"""The step hook of MorphNet's training: the regularizer shrinks, the controller sets how hard, a record is kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from power_models.regularizer import MAX_STEP, CostRegularizer
from rig.compression.budget import Budget
from rig.compression.methods.controller import Seen, StrengthController

LOOKS = 150  # at the true cost, over the whole stretch of training
PACE = 10.0  # a channel that must go is gone within a tenth of the training


class Shrinker:
    """Step hook of training: shrinks the groups' scales and keeps the record that the report draws.

    With ``gradient_on`` False the strength stays zero: the ablation that shows what the regularizer contributes.
    ``grace``: share of the steps in which only watching is done.
    """

    def __init__(
        self,
        regularizer: CostRegularizer,
        budget: Budget,
        controller: StrengthController,
        gradient_on: bool = True,
        grace: float = 0.0,
    ) -> None:
        self.regularizer = regularizer
        self.budget = budget
        self.controller = controller
        self.gradient_on = gradient_on
        self.grace = grace
        self.strength = 0.0
        self.history: list[dict[str, Any]] = []
        self._channels = sum(g.width for g in regularizer.groups)  # before any is taken out

    def after_step(self, step: int, total: int, learning_rate: float, loss: float) -> None:
        """Proximal step after each optimizer step; the controller looks at the true cost LOOKS times."""
        if self.gradient_on:
            self.regularizer.watch()
        share = (step / total - self.grace) / (1.0 - self.grace)
        if share >= 0 and (step % max(1, total // LOOKS) == 0 or step == total):
            self._look(total, step, share, loss)
        if self.gradient_on:
            self.regularizer.proximal_step(PACE / total)

    def _look(self, total: int, step: int, share: float, loss: float) -> None:
        usage = self.budget.usage(self.regularizer.cost())
        # Channels take a while to die: those on their way count, or the controller would press ever harder meanwhile.
        projected = self.budget.usage(self.regularizer.tables.totals(self.regularizer.projected()))
        lead = max(1.0 / PACE, 1.0 / (MAX_STEP * total)) / (1.0 - self.grace)
        idle = self.regularizer.idle_strength()
        seen = Seen(projected, lead=lead, step=self._cost_step(), idle=idle)
        self.strength = self.controller.update(usage, share, seen)
        if self.gradient_on:
            self.regularizer.condemn(self.strength)
        widths = self.regularizer.widths()
        self.history.append(
            {
                "step": step,
                "log_strength": float(self.controller.log_strength),
                "true_cost": usage,
                "relaxed_cost": float(self.regularizer.penalty().detach()),
                "target_cost": float(self.controller.wanted(share)),
                "loss": loss,
                "alive_share": sum(widths.values()) / self._channels,
            }
        )

    def _cost_step(self) -> float:
        """What one hardware block of channels less changes of the budget's use: the median over the groups."""
        slope = self.budget.gradient(self.regularizer.cost())
        steps = [abs(float(slope @ step)) for step in self.regularizer.block_steps().values()]
        told = [step for step in steps if step > 0]
        return float(np.median(told)) if told else 0.0

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "controller": self.controller.state(),
            "history": self.history,
            "strength": float(self.strength),
            "watched": self.regularizer.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back ``state``."""
        self.controller.restore(state["controller"])
        self.history = list(state["history"])
        self.strength = float(state["strength"])
        self.regularizer.restore(state["watched"])
