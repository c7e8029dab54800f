"""What learns: a network with its optimizer and its moving average, on this process's device, in step with the others.

    step: this rank's part of the batch → loss → gradients, averaged over the ranks → checked → optimizer

Nothing here knows of epochs, checkpoints or methods: see ``run``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rig.compression import distributed
from rig.compression.cutting.rebuild import builder_of, built, layer_table
from rig.compression.cutting.removal import Cut, carry_over, narrowed, require_same_function
from rig.compression.tasks import Task
from rig.compression.training import synced_norms
from rig.compression.training.averaging import averaged, take_average
from rig.compression.training.failures import NotFinite
from rig.compression.training.losses import finite_gradients, loss_of, make_optimizer, placed
from rig.compression.training.mirror import Mirror
from rig.compression.training.plan import TrainingPlan
from rig.compression.training.teacher import Teacher
from rig.errors import ModelError


class Learner:
    """A network in training. ``own`` is the caller's, ``trained`` where it learns (the same on a CPU).

    table: widths of a network that was made narrower in training, empty for the one that was given; build: makes it at
    other widths, with whatever was done to it beside them (``rebuild``).
    """

    def __init__(self, network: nn.Module, task: Task, plan: TrainingPlan, teacher: nn.Module | None) -> None:
        self.task = task
        self.plan = plan
        self.device = distributed.device()
        self.teacher = Teacher(teacher, task, self.device) if teacher is not None and task.logits else None
        self.table: dict[str, int] = {}
        self.build = builder_of(network, task.model, torch.zeros(1, *task.input_shape))
        self._use(network)

    def _use(self, network: nn.Module) -> None:
        """Train this network from now on, with an optimizer and an average that know nothing yet."""
        self.mirror = Mirror(network, self.device)
        self.trained = self.mirror.trained.train()
        self.mirror.own.train()
        self.optimizer = make_optimizer(self.trained, self.plan)
        wanted = self.plan.ema > 0 and distributed.is_main()
        self.average = averaged(self.trained, self.plan.ema) if wanted else None
        self.norms_by_rank = synced_norms.synchronize(self.trained)
        self._joined: nn.Module | None = None

    @property
    def own(self) -> nn.Module:
        """The caller's network, or the narrower one in its place."""
        return self.mirror.own

    def step(self, batch: tuple[Tensor, Tensor], rate: float, dtype: torch.dtype) -> float:
        """One step on a batch, of which this rank takes its part; returns the mean loss of the whole batch.

        Raises NotFinite on every rank alike, before the optimizer has done anything.
        """
        if self._joined is None:  # all ranks come here at the same time
            self._joined = distributed.joined(self.trained)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        own, share = self.part(batch)
        loss = loss_of(self._joined, self.task, self.plan, own, dtype, self.teacher, share)
        if distributed.ranks() > 1:
            loss = loss * share
        seen = float(distributed.total(loss.detach())) / distributed.ranks()
        if not math.isfinite(seen):
            raise NotFinite(f"the loss became {seen}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not finite_gradients(self.trained):
            raise NotFinite("a gradient is no longer finite")
        self.optimizer.step()
        return seen

    def part(self, batch: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], float]:
        """This rank's part of a batch on its device, and the factor by which a mean over it counts among the ranks'."""
        inputs, targets = (distributed.part(values) for values in batch)
        if not len(inputs):
            raise ModelError(
                f"a batch of {len(batch[0])} cannot be shared among {distributed.ranks()} processes",
                "leave the last, smaller batch of loaders('train') out",
            )
        return placed((inputs, targets), self.device), len(inputs) * distributed.ranks() / len(batch[0])

    def follow(self) -> None:
        """Take the weights as they now are into the average."""
        if self.average is not None:
            self.average.update_parameters(self.trained)

    def finish(self) -> nn.Module:
        """The caller's network with what was learned (the average, where the plan asks for one), for evaluation."""
        if self.average is not None:
            take_average(self.trained, self.average)
        self.mirror.fetch()
        return self.own.eval()

    def release(self) -> None:
        """Leave the network a plain one."""
        synced_norms.separate(self.trained)

    # --- narrower networks ------------------------------------------------------------------------------------------

    def become(self, table: dict[str, int]) -> None:
        """Go on with the network of these widths; its values come from a state."""
        self.table = table
        self._use(built(self.build, table))

    def smaller(self, cut: Cut) -> nn.Module:
        """The network without what ``cut`` takes out; raises ModelError where it would answer differently."""
        self.mirror.fetch()
        synced_norms.separate(self.trained)
        try:
            found = narrowed(self.own, cut, self.build, self._table_after(cut))
            require_same_function(self.own, found, self.task.input_shape, cut)
        finally:
            synced_norms.synchronize(self.trained)
        return found

    def _table_after(self, cut: Cut) -> dict[str, int]:
        """What ``model(widths)`` must be given once ``cut`` is done."""
        return {**(self.table or layer_table(self.own, self.build)), **cut.table}

    def replace(self, network: nn.Module, cut: Cut) -> None:
        """Go on with ``network``, which ``smaller`` gave: momentum and average are cut as the weights were."""
        trained, optimizer, average = self.trained, self.optimizer, self.average
        synced_norms.separate(trained)
        self.table = self._table_after(cut)
        self._use(network)
        carry_over(trained, optimizer, self.trained, self.optimizer, cut)
        if average is not None and self.average is not None:
            kept = narrowed(average.module, cut, self.build, self.table)
            self.average.module.load_state_dict(kept.state_dict())
            self.average.n_averaged.copy_(average.n_averaged)

    # --- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Tensors and plain data, not copied; the average is rank 0's alone."""
        return {
            "model": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "widths": self.table,
            "teacher": self.teacher.state() if self.teacher is not None else {},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave for a network of these widths; the optimizer keeps the given tensors."""
        self.trained.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None and state.get("average"):
            self.average.load_state_dict(state["average"])
        if self.teacher is not None:
            self.teacher.restore(state.get("teacher", {}))
        self.mirror.fetch()
