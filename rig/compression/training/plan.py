"""What a stretch of training is asked to do: its plan, its learning rate, and what a method may do meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import nn

from rig.errors import BadInputError

if TYPE_CHECKING:
    from rig.compression.cutting.removal import Cut

Progress = Callable[[int, int, float], None]  # step, total, mean loss of late
PRECISIONS = ("fastest", "float32", "bfloat16")
FIRST_FIELDS = 7  # of TrainingPlan: those that every version of the rig has known


class TrainingPlan(NamedTuple):
    """One stretch of training; ``epochs`` may be a fraction. Weight decay spares batch-norm and biases.

    ema: decay of the moving average of the weights that is kept in place of the last weights (0: none);
    label_smoothing: share of the loss that asks for all classes alike, where outputs are logits; precision: one of
    ``PRECISIONS``; rollbacks: how often a training that diverges is taken back to its last checkpoint.
    """

    epochs: float
    learning_rate: float = 0.1
    warmup_share: float = 0.15
    final_share: float = 0.0  # of the learning rate, at the end of the cosine
    weight_decay: float = 5e-4
    momentum: float = 0.9
    seed: int = 0
    ema: float = 0.0
    label_smoothing: float = 0.0
    precision: str = "fastest"
    rollbacks: int = 3

    def recipe(self) -> str:
        """The plan as text, to name what was trained by it; a field that came later is left out at its default."""
        fields = self._asdict()
        late = list(fields)[FIRST_FIELDS:]
        shown = {k: v for k, v in fields.items() if k not in late or v != self._field_defaults[k]}
        return f"TrainingPlan({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def check(self) -> None:
        """Raise BadInputError for a value that no training can have."""
        for name, value in (("ema", self.ema), ("label smoothing", self.label_smoothing)):
            if not 0.0 <= value < 1.0:
                raise BadInputError(f"{name} is {value:g}", "give a number from 0 (none) to below 1")
        if self.precision not in PRECISIONS:
            raise BadInputError(f"unknown precision {self.precision!r}", f"known: {', '.join(PRECISIONS)}")


class StepHook(Protocol):
    """What a method does during training; its state goes into the checkpoint.

    With several processes it is called on rank 0 alone; what it does to the parameters reaches the others.
    """

    def after_step(self, step: int, total: int, learning_rate: float, loss: float) -> None:
        """Called after each optimizer step; ``step`` counts from 1."""

    def state(self) -> dict[str, Any]:
        """Plain data to checkpoint."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""


class Surgeon(StepHook, Protocol):
    """A hook that has channels and blocks taken out of the network while it is trained."""

    def surgery(self, epoch: int) -> Cut | None:
        """What goes now, after ``epoch`` epochs; None where nothing does. The network must keep its function."""

    def adopt(self, network: nn.Module) -> None:
        """The network is this one from now on: after a cut, and where a checkpoint holds one that was cut."""


class Trained(NamedTuple):
    """What ``train`` leaves.

    network: the one given, or the narrower one that surgery made of it; loss: mean of the last hundred steps (nan where
    none was left to do); facts: plain data for the stage's record (precision, step_s, teacher_precision, device, ranks,
    rollbacks, removals, epochs: time and trained parameters of each).
    """

    network: nn.Module
    loss: float
    facts: dict[str, Any]


def learning_rate_at(step: int, total: int, plan: TrainingPlan) -> float:
    """Linear warm-up over ``warmup_share`` of the steps, then a cosine down to ``final_share``."""
    warm = max(1, round(total * plan.warmup_share))
    if step < warm:
        return plan.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, total - warm)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return plan.learning_rate * (plan.final_share + (1 - plan.final_share) * cosine)
