"""A stretch of training: epochs, what happens between them, and how it goes on after a stop.

    epoch:       steps (``learner``), after each of them the hook and the moving average
    between:     surgery, where the hook asks for it; then the checkpoint
    not finite:  back to the last checkpoint with the learning rate halved, ``plan.rollbacks`` times at most; what is
                 kept then has the rate halved once more, for a run that is taken up

A checkpoint holds everything that the next step depends on: weights, momentum, average, the hook's state, the random
generator, the widths of a network that surgery made narrower, the precision, what each epoch took and how often it went
back. Its step counts batches, so that it can be taken up only where an epoch has as many as before.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rig.compression import distributed
from rig.compression.tasks import Task, batches_per_epoch, checked
from rig.compression.training import precision, synced_norms
from rig.compression.training.checkpoint import load_state, save_atomically
from rig.compression.training.failures import DivergedError, NotFinite
from rig.compression.training.learner import Learner
from rig.compression.training.plan import Progress, Trained, TrainingPlan, learning_rate_at
from rig.errors import BadInputError, ModelError


class Job(NamedTuple):
    """What is trained, how, and who is told; ``hook``, ``checkpoint`` and ``progress`` are rank 0's alone."""

    task: Task
    plan: TrainingPlan
    hook: Any = None
    checkpoint: Path | None = None
    progress: Progress | None = None
    teacher: nn.Module | None = None


class TrainingRun:
    """One stretch of training of one network; ``go`` does it. Every rank holds one, and they keep step."""

    def __init__(self, network: nn.Module, job: Job) -> None:
        self.job, self.task, self.plan = job, job.task, job.plan
        torch.manual_seed(job.plan.seed)
        self.hooked, self.operated = distributed.share([job.hook is not None, hasattr(job.hook, "surgery")])
        self.learner = Learner(network, job.task, job.plan, job.teacher)
        self.step = 0
        self.recent: list[float] = []
        self.precision: str | None = None
        self.step_s: dict[str, float] | None = None
        self.teacher_precision: str | None = None
        self.rollbacks: list[dict[str, Any]] = []
        self.removals: list[dict[str, Any]] = []
        self.epochs: list[dict[str, Any]] = []
        self._kept: dict[str, Any] = {}
        self._random: Tensor | None = None  # the loader's own, where there are several ranks
        self._batches = self.task.loaders("train")
        self.per_epoch = batches_per_epoch(self.task, self._batches)
        self.total = max(1, round(self.plan.epochs * self.per_epoch))

    def go(self) -> Trained:
        """Train to the end of the plan; the network is left in evaluation mode."""
        try:
            self._take_up()
            self._choose_precision()
            self._kept = self._state()
            while self.step < self.total:
                try:
                    self._epoch()
                except NotFinite as seen:
                    self._go_back(str(seen))
                    continue
                self._operate()
                self._keep()
            network = self.learner.finish()
        finally:
            self.learner.release()
        return Trained(network, sum(self.recent) / len(self.recent) if self.recent else math.nan, self.facts())

    def facts(self) -> dict[str, Any]:
        """What a reader of the result should know of how it was trained."""
        return {
            "precision": self.precision,
            "step_s": self.step_s,
            "teacher_precision": self.teacher_precision,
            "teacher_heard": self.learner.teacher.heard if self.learner.teacher is not None else None,  # batches
            "device": self.learner.device.type,
            "ranks": distributed.ranks(),
            "rollbacks": self.rollbacks,
            "removals": self.removals,
            "epochs": self.epochs,
            "norms_by_rank": self.learner.norms_by_rank,
        }

    # --- an epoch ---------------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        """Steps to the end of this pass over the data, or of the plan."""
        left = min(self.per_epoch - self.step % self.per_epoch, self.total - self.step)
        before, start_s = self.step, time.monotonic()
        for batch in itertools.islice(self._pass(), left):
            rate = learning_rate_at(self.step, self.total, self.plan) * 0.5 ** len(self.rollbacks)
            loss = self.learner.step(
                checked(batch, "train", self.task.name), rate, precision.DTYPES[self.precision or "float32"]
            )
            self.step += 1
            self.recent = [*self.recent[-99:], loss]
            self._after_step(rate, loss)
        if self.step == before:
            raise ModelError(
                f"loaders('train') of the task {self.task.name} yields no batch on pass {before // self.per_epoch + 1}",
                "give an iterable that can be gone through again, or a new iterator at each call",
            )
        self.epochs.append({"time_s": time.monotonic() - start_s, "parameters": _count(self.learner.own)})

    def _pass(self) -> Iterator[Any]:
        """One pass over the data; a task that gives iterators is asked for a new one.

        Several ranks draw the same batches: the generator is set to where the loader left it, whatever else drew since.
        """
        batches = iter(self._batches)
        if batches is self._batches:
            batches = iter(self.task.loaders("train"))
        while True:
            if self._random is not None:
                torch.set_rng_state(self._random)
            batch = next(batches, None)
            if self._random is not None:
                self._random = torch.get_rng_state()
            if batch is None:
                return
            yield batch

    def _after_step(self, rate: float, loss: float) -> None:
        hook, mirror = self.job.hook, self.learner.mirror
        if hook is not None:
            mirror.fetch(gradients=True)
            hook.after_step(self.step, self.total, rate, loss)
            mirror.bring_back()
        if self.hooked:
            distributed.spread(mirror.trained.parameters())
        self.learner.follow()
        if self.job.progress is not None:
            self.job.progress(self.step, self.total, sum(self.recent) / len(self.recent))

    # --- before and between epochs ----------------------------------------------------------------------------------

    def _choose_precision(self) -> None:
        """As the plan says; where it is to be measured, rank 0 measures, once a stretch of training."""
        teacher = self.learner.teacher
        if self.plan.precision != "fastest":
            self.precision = self.plan.precision
            self.teacher_precision = self.plan.precision if teacher is not None else None
        elif self.step < self.total:
            if distributed.is_main():
                self._time_precisions(self.precision is None, teacher is not None and self.teacher_precision is None)
            self.precision, self.teacher_precision = distributed.share([self.precision, self.teacher_precision])
        if teacher is not None:
            teacher.dtype = precision.DTYPES[self.teacher_precision or "float32"]

    def _time_precisions(self, of_step: bool, of_teacher: bool) -> None:
        """Measure what is asked for, and choose."""
        if not (of_step or of_teacher):
            return
        rng = torch.get_rng_state()
        batch, _ = self.learner.part(checked(next(iter(self.task.loaders("train"))), "train", self.task.name))
        torch.set_rng_state(rng)
        trained, teacher = self.learner.trained, self.learner.teacher
        if of_teacher and teacher is not None:
            self.teacher_precision = precision.choose(precision.answer_times_s(teacher, batch[0]))
        if not of_step:
            return
        synced_norms.separate(trained)  # no other rank answers now
        try:
            self.step_s = precision.step_times_s(trained, self.task, self.plan, batch)
            self.precision = precision.choose(self.step_s)
        finally:
            synced_norms.synchronize(trained)

    def _operate(self) -> None:
        """Take out what the hook says is dead; undone, and recorded, where the network would answer differently."""
        if not self.operated:
            return
        cut, smaller = self._cut() if distributed.is_main() else (None, None)
        if cut is not None and smaller is not None:
            self.learner.replace(smaller, cut)
            self.job.hook.adopt(self.learner.own)
        done, table = distributed.share([cut is not None, self.learner.table])
        if done:
            if not distributed.is_main():
                self.learner.become(table)
            self._share_state()

    def _cut(self) -> tuple[Any, Any]:
        """On rank 0: what goes and the network without it; (None, None) where nothing goes."""
        self.learner.mirror.fetch()
        cut = self.job.hook.surgery(-(-self.step // self.per_epoch))
        if cut is None:
            return None, None
        record = {"step": self.step, "parameters_before": _count(self.learner.own)}
        try:
            smaller = self.learner.smaller(cut)
        except ModelError as error:
            self.removals.append({**record, "undone": error.message})
            return None, None
        self.removals.append({**record, "parameters_after": _count(smaller)})
        return cut, smaller

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """Everything that the next step depends on, a copy; the average and the hook's state are rank 0's alone."""
        hook = self.job.hook
        return copy.deepcopy(
            {
                **self.learner.state(),
                "hook": hook.state() if hook is not None else {},
                "rng": torch.get_rng_state() if self._random is None else self._random,
                "step": self.step,
                "per_epoch": self.per_epoch,
                "precision": self.precision,
                "step_s": self.step_s,
                "teacher_precision": self.teacher_precision,
                "rollbacks": self.rollbacks,
                "removals": self.removals,
                "epochs": self.epochs,
            }
        )

    def _restore(self, given: dict[str, Any]) -> None:
        """Take back what ``_state`` gave, here or in an earlier version, which had fewer entries."""
        state = copy.deepcopy(given)
        table = state.get("widths") or {}
        if table != self.learner.table:
            self.learner.become(table)
            if self.operated and distributed.is_main():
                self.job.hook.adopt(self.learner.own)
        self.learner.restore(state)
        if self.job.hook is not None:
            self.job.hook.restore(state["hook"])
        torch.set_rng_state(state["rng"])
        if distributed.ranks() > 1:
            self._random = state["rng"]
        self.step = int(state["step"])
        self.precision = state.get("precision")
        self.step_s = state.get("step_s")
        self.teacher_precision = state.get("teacher_precision")
        self.rollbacks = state.get("rollbacks", [])
        self.removals = state.get("removals", [])
        self.epochs = state.get("epochs", [])

    def _share_state(self) -> None:
        """Set every rank to rank 0's state."""
        if distributed.ranks() == 1:
            return
        if distributed.is_main():
            if self._random is None:
                self._random = torch.get_rng_state()
            distributed.share({**self._state(), "average": None, "hook": {}})
        else:
            self._restore(distributed.share())

    def _take_up(self) -> None:
        """Go on from the checkpoint, if there is one."""
        path = self.job.checkpoint
        if path is not None and path.exists():
            state = load_state(path)
            before = int(state.get("per_epoch", self.per_epoch))
            if before != self.per_epoch:
                raise BadInputError(
                    f"the checkpoint {path.name} was trained with {before} batches an epoch; loaders('train') of "
                    f"the task {self.task.name} now has {self.per_epoch}",
                    "resume with the batches that the run was begun with, or begin a new run",
                )
            self._restore(state)
        self._share_state()

    def _keep(self) -> None:
        self._kept = self._state()
        if self.job.checkpoint is not None:
            save_atomically(self._kept, self.job.checkpoint)

    def _go_back(self, seen: str) -> None:
        """To the last checkpoint with half the learning rate; raises DivergedError once that was done often enough."""
        rollbacks, step = self.rollbacks, self.step + 1
        record = {"step": step, "seen": seen, "back_to": int(self._kept["step"])}
        self._restore(self._kept)
        self.rollbacks = [*rollbacks, record]
        self.recent = []
        if len(rollbacks) >= self.plan.rollbacks:
            tried = f", after going back {len(rollbacks)} times with half the learning rate" if rollbacks else ""
            self._keep()
            raise DivergedError(
                f"training {self.task.model_name} on {self.task.name}: {seen} at step {step} of {self.total}" + tried,
                "--resume goes on from the last checkpoint with half the learning rate again; in a new run try another "
                "--seed, or scale down the inputs or the loss of the task",
            )


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
