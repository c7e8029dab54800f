"""The seam between a compression method and the loop that closes on the device.

    search(workplace, baseline, survey, budget) ──► Found: a trained network and what each of its channels is worth
    choose(found, survey, budget)               ──► Choice: widths and removed blocks, once a round on the device

The loop prices, measures and corrects: a method's budgets are what its *predictions* must hold, already corrected by
what was measured. ``search`` trains and may take hours; ``choose`` only decides, and gives the same choice for the same
budget. Everything that a method remembers across a stop goes into checkpoints (``Workplace.train``) or ``state``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rig.compression.budget import Budget
from rig.compression.cutting.template import Template
from rig.compression.footprint import PeakMemory
from rig.compression.survey import Settings, Survey
from rig.compression.tasks import Task, batches_per_epoch, no_batch
from rig.compression.training import StepHook, TrainingPlan, train
from rig.errors import ModelError

RESOURCES = frozenset({"power", "energy", "latency", "flops", "params"})


class Found(NamedTuple):
    """What a method's search leaves.

    network: trained, holds the weights from which channels are taken; template: its groups point into it (their widths
    may be other than the seed network's); importance: per prunable group, shape (width,); alive: widths the search
    ended with; removed: residual blocks that it took out; history: the steering, for the report; trials: the blocks
    looked at; scales: what each prunable group shrank by (``ChannelGroup.scaled_by``), where the search shrank any.
    """

    network: nn.Module
    template: Template
    importance: dict[str, Tensor]
    alive: dict[str, int]
    removed: list[str]
    history: list[dict[str, Any]]
    trials: list[dict[str, Any]]
    scales: Mapping[str, str] = MappingProxyType({})


class Choice(NamedTuple):
    """A configuration to build: the width of every group, and the names of the residual blocks that go."""

    widths: dict[str, int]
    removed: list[str]


class Method(Protocol):
    """A way to compress; ``serves`` are the quantities of ``RESOURCES`` that it can be given a limit of.

    from_scratch: only widths come of its search; the loop trains that network from fresh weights, not on.
    """

    name: str
    serves: frozenset[str]
    from_scratch: bool

    def search(self, workplace: Workplace, baseline: nn.Module, survey: Survey, budget: Budget) -> Found:
        """Look for what can go; ``baseline`` is not changed."""

    def choose(self, found: Found, survey: Survey, budget: Budget) -> Choice:
        """The best configuration whose predicted cost holds the budget, or the nearest to it."""


class Workplace:
    """What a method works with: the task, the settings, a folder for checkpoints, the console, a place for decisions.

    folder: of the run; progress: ``stage(text)`` and ``update(text)``; state: plain data, kept by ``save_state``;
    save: writes it. ``stages`` is the record of what was trained.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        folder: Path,
        progress: Any,
        state: dict[str, Any],
        save: Callable[[dict[str, Any]], object],
    ) -> None:
        self.task = task
        self.settings = settings
        self.folder = folder
        self.progress = progress
        self.state = state
        self.stages: list[dict[str, Any]] = []
        self._save = save

    @property
    def example(self) -> Tensor:
        """One input of zeros, to trace networks with."""
        return torch.zeros(1, *self.task.input_shape)

    @cached_property
    def per_epoch(self) -> int:
        """Batches in a pass over the training data; a loader without a length is gone through, once.

        torch's global generator is left as it was: what is drawn next must not depend on who asked first.
        """
        drawn = torch.get_rng_state()
        count = batches_per_epoch(self.task)
        torch.set_rng_state(drawn)
        return count

    def checkpoint(self, name: str) -> Path:
        """Where the checkpoint of a stretch of training lies."""
        return self.folder / "stages" / f"{name}.pt"

    def train(
        self,
        name: str,
        network: nn.Module,
        plan: TrainingPlan,
        checkpoint: Path,
        hook: StepHook | None = None,
        teacher: nn.Module | None = None,
    ) -> nn.Module:
        """Train in place; a checkpoint that is there is taken up. Time and peak memory go into ``stages``.

        Returns what is left of the network: itself, or the narrower one that a hook's surgery made of it.
        """
        self.progress.stage(f"{name}: training {plan.epochs:g} epochs")
        start = time.monotonic()

        def report(step: int, total: int, loss: float) -> None:
            left = (time.monotonic() - start) / step * (total - step)
            self.progress.update(f"step {step} of {total}, loss {loss:.3f}, {left:.0f} s left")

        peak = PeakMemory()
        try:
            with peak:
                trained = train(
                    network, self.task, plan, hook=hook, checkpoint=checkpoint, progress=report, teacher=teacher
                )
        finally:  # a stop too: a resumed run tells what all its tries took
            spent = self._spend(checkpoint.stem, time.monotonic() - start, peak.facts())
        self.state["trained"][checkpoint.stem] = {**spent, **trained.facts}
        self.save_state()
        self.stages.append({"name": name, **spent, **trained.facts})
        return trained.network

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Put the time of what trains for itself, trials or a race, into ``stages`` under a name.

        Kept with the decisions: what a stopped run took counts, and ``recall`` tells it where nothing is left to do.
        """
        start = time.monotonic()
        try:
            yield
        finally:
            self._spend(name, time.monotonic() - start)
        self.recall(name)

    def recall(self, name: str) -> None:
        """Put into ``stages`` what a stretch took that is kept under this name, where this run did it."""
        taken = self.state.get("trained", {}).get(name)
        if taken is not None:
            self.stages.append({"name": name, **taken})

    def _spend(self, key: str, seconds: float, peak: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Add to the time of a stretch and raise its peak memory, where that is known; kept with the decisions."""
        before = self.state.setdefault("trained", {}).get(key)
        now = {"seconds": seconds, **peak}
        if before is not None:
            most = max(before, now, key=lambda one: one.get("peak_memory_bytes") or 0)
            now = {**most, "seconds": before["seconds"] + seconds}
        self.state["trained"][key] = now
        self.save_state()
        return now

    def accuracy(self, network: nn.Module, split: str = "val") -> float:
        """The task's own score of a network; raises ModelError where it is not a finite number."""
        return scored(self.task, network, split)

    def note(self, name: str, network: nn.Module, **facts: Any) -> dict[str, Any]:
        """Put a network's accuracy and other facts to the last stage of that name; returns that stage's record."""
        accuracy = self.accuracy(network)
        entry = next((s for s in reversed(self.stages) if s["name"] == name), None)
        if entry is None:
            entry = {"name": name, "seconds": 0.0}
            self.stages.append(entry)
        entry.update(accuracy_val=accuracy, **facts)
        return entry

    def save_state(self) -> None:
        """Write the decisions made so far into the run folder."""
        self._save(self.state)


def scored(task: Task, network: nn.Module, split: str) -> float:
    """``evaluate(network, split)`` of a task; raises ModelError where it is not a finite number."""
    value = float(task.evaluate(network, split))
    if not math.isfinite(value):
        raise ModelError(
            f"evaluate(model, {split!r}) of the task {task.name} gave {value}",
            "it must give a fraction from 0 to 1: look for a division by no images, or for outputs that are not finite",
        )
    return value


def check_task(task: Task, network: nn.Module) -> None:
    """Raise ModelError where the task cannot be trained on or judged; before anything is trained."""
    for split in ("train", "val"):
        if next(iter(task.loaders(split)), None) is None:
            raise no_batch(task.name, split)
    scored(task, network, "val")
