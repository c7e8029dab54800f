"""Training a network of a task: SGD with warm-up and cosine, bf16 where it is measured faster, resumable by epoch."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rig.compression.tasks import Task
from rig.errors import ModelError, RigError

TEMPERATURE, TAUGHT_SHARE = 3.0, 0.7  # of distillation


class TrainingPlan(NamedTuple):
    """One stretch of training; ``epochs`` may be a fraction. Weight decay spares batch-norm and biases."""

    epochs: float
    learning_rate: float = 0.1
    warmup_share: float = 0.15
    final_share: float = 0.0  # of the learning rate, at the end of the cosine
    weight_decay: float = 5e-4
    momentum: float = 0.9
    seed: int = 0


class StepHook(Protocol):
    """What a method does during training; its state goes into the checkpoint."""

    def after_step(self, step: int, total: int, learning_rate: float, loss: float) -> None:
        """Called after each optimizer step; ``step`` counts from 1."""

    def state(self) -> dict[str, Any]:
        """Plain data to checkpoint."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""


class DivergedError(RigError):
    """The loss is no longer finite."""

    code = "training-diverged"


Progress = Callable[[int, int, float], None]  # step, total, mean loss of late


def learning_rate_at(step: int, total: int, plan: TrainingPlan) -> float:
    """Linear warm-up over ``warmup_share`` of the steps, then a cosine down to ``final_share``."""
    warm = max(1, round(total * plan.warmup_share))
    if step < warm:
        return plan.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, total - warm)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return plan.learning_rate * (plan.final_share + (1 - plan.final_share) * cosine)


def train(
    model: nn.Module,
    task: Task,
    plan: TrainingPlan,
    *,
    hook: StepHook | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    teacher: nn.Module | None = None,
) -> float:
    """Train ``model`` in place; returns the mean loss of the last hundred steps.

    ``teacher``: a network for the same task whose answers are learned too (``distilled``), if they are logits.
    With ``checkpoint``, the state is saved after each epoch and taken up again where that file exists.
    Raises DivergedError where the loss is not finite, ModelError where the task yields no batches.
    """
    torch.manual_seed(plan.seed)
    model.to(memory_format=torch.channels_last).train()
    if teacher is not None:
        teacher.to(memory_format=torch.channels_last).eval()
    optimizer = _optimizer(model, plan)
    batches = task.loaders("train")
    per_epoch = _length(batches)
    total = max(1, round(plan.epochs * per_epoch))
    step = _restore(checkpoint, model, optimizer, hook)
    precision = fastest_precision(model, task) if step < total else torch.float32
    recent: list[float] = []
    while step < total:
        for inputs, targets in itertools.islice(iter(batches), min(per_epoch - step % per_epoch, total - step)):
            rate = learning_rate_at(step, total, plan)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = _step(model, task, optimizer, inputs, targets, precision, teacher if task.logits else None)
            step += 1
            if not math.isfinite(loss):
                raise DivergedError(
                    f"training {task.model_name} on {task.name}: the loss became {loss} at step {step} of {total}",
                    "lower the learning rate; the last checkpoint is kept and --resume starts from it",
                )
            recent = [*recent[-99:], loss]
            if hook is not None:
                hook.after_step(step, total, rate, loss)
            if progress is not None:
                progress(step, total, sum(recent) / len(recent))
        if checkpoint is not None:
            _save(checkpoint, model, optimizer, hook, step)
    model.eval()
    return sum(recent) / len(recent) if recent else math.nan


def _step(
    model: nn.Module,
    task: Task,
    optimizer: Any,
    inputs: Any,
    targets: Any,
    precision: torch.dtype,
    teacher: nn.Module | None = None,
) -> float:
    inputs = inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        outputs = model(inputs)
        taught = None
        if teacher is not None:
            with torch.no_grad():
                taught = teacher(inputs).float()
    loss = task.loss(outputs.float(), targets)
    if taught is not None:
        loss = (1 - TAUGHT_SHARE) * loss + TAUGHT_SHARE * distilled(outputs.float(), taught)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def distilled(outputs: Tensor, taught: Tensor) -> Tensor:
    """Cross-entropy of softened answers to the teacher's, both logits (N, classes), on the scale of the hard loss.

    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531).
    """
    soft = F.softmax(taught / TEMPERATURE, dim=1)
    return -(soft * F.log_softmax(outputs / TEMPERATURE, dim=1)).sum(dim=1).mean() * TEMPERATURE**2


def _optimizer(model: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.dim() > 1]
    spared = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [g for g in groups if g["params"]], lr=plan.learning_rate, momentum=plan.momentum, nesterov=True
    )


def _length(batches: Any) -> int:
    count = len(batches) if hasattr(batches, "__len__") else sum(1 for _ in batches)
    if not count:
        raise ModelError("loaders('train') of the task yields no batch", "check its data folder")
    return count


def fastest_precision(model: nn.Module, task: Task, steps: int = 3) -> torch.dtype:
    """bfloat16 if a training step of a copy is measured faster with it than in float32, else float32."""
    import copy

    inputs, targets = next(iter(task.loaders("train")))
    rng = torch.get_rng_state()
    times_s = {}
    for precision in (torch.float32, torch.bfloat16):
        trial = copy.deepcopy(model)
        optimizer = torch.optim.SGD(trial.parameters(), lr=0.0)
        _step(trial, task, optimizer, inputs, targets, precision)
        laps = []
        for _ in range(steps):
            start = time.perf_counter()
            _step(trial, task, optimizer, inputs, targets, precision)
            laps.append(time.perf_counter() - start)
        times_s[precision] = min(laps)
    torch.set_rng_state(rng)
    return min(times_s, key=lambda p: times_s[p])


def _save(path: Path, model: nn.Module, optimizer: Any, hook: StepHook | None, step: int) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "hook": hook.state() if hook is not None else {},
        "rng": torch.get_rng_state(),
        "step": step,
    }
    save_atomically(state, path)


def save_atomically(state: Any, path: Path) -> None:
    """torch.save beside the path, then rename: a kill leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    os.replace(beside, path)


def load_state(path: Path) -> Any:
    """Read what ``save_atomically`` wrote, tensors and plain data only."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _restore(path: Path | None, model: nn.Module, optimizer: Any, hook: StepHook | None) -> int:
    if path is None or not path.exists():
        return 0
    state = load_state(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if hook is not None:
        hook.restore(state["hook"])
    torch.set_rng_state(state["rng"])
    return int(state["step"])
