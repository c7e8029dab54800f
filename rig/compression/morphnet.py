"""MorphNet's shrinking with the device's cost as the resource, its strength driven to the target.

Gordon et al., CVPR 2018. Differences: the resource is power at a frame rate, energy or latency from the device's
tables; the strength follows a controller instead of a sweep; zeros are exact (see ``power_models.regularizer``).
"""

from __future__ import annotations

from typing import Any

from power_models.regularizer import CostRegularizer
from rig.compression.budget import Budget
from rig.compression.controller import StrengthController

LOOKS = 150  # at the true cost, over the whole stretch of training
PACE = 10.0  # a channel that must go is gone within a tenth of the training


class Shrinker:
    """Step hook of training: shrinks the groups' scales and keeps the record that the report draws.

    With ``gradient_on`` False the strength stays zero: the ablation that shows what the regularizer contributes.
    """

    def __init__(
        self,
        regularizer: CostRegularizer,
        budget: Budget,
        controller: StrengthController,
        gradient_on: bool = True,
    ) -> None:
        self.regularizer = regularizer
        self.budget = budget
        self.controller = controller
        self.gradient_on = gradient_on
        self.strength = 0.0
        self.history: list[dict[str, Any]] = []

    def after_step(self, step: int, total: int, learning_rate: float, loss: float) -> None:
        """Proximal step after each optimizer step; the controller looks at the true cost LOOKS times."""
        if self.gradient_on:
            self.regularizer.watch()
        if step % max(1, total // LOOKS) == 0 or step == total:
            self._look(step, total, loss)
        if self.gradient_on:
            self.regularizer.proximal_step(PACE / total)

    def _look(self, step: int, total: int, loss: float) -> None:
        share = step / total
        usage = self.budget.usage(self.regularizer.cost())
        # Channels take a while to die: those on their way count, or the controller would press ever harder meanwhile.
        projected = self.budget.usage(self.regularizer.tables.totals(self.regularizer.projected()))
        self.strength = self.controller.update(usage, share, projected)
        if self.gradient_on:
            self.regularizer.condemn(self.strength)
        widths = self.regularizer.widths()
        whole = sum(g.width for g in self.regularizer.groups)
        self.history.append(
            {
                "step": step,
                "log_strength": float(self.controller.log_strength),
                "true_cost": usage,
                "relaxed_cost": float(self.regularizer.penalty().detach()),
                "target_cost": float(self.controller.wanted(share)),
                "loss": loss,
                "alive_share": sum(widths.values()) / whole,
            }
        )

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
