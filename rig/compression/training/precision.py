"""bfloat16 where a training step of this network is measured faster with it on this machine, else float32.

A teacher, whose step is its answers alone and whose layers are wider, is measured by itself.

The two take turns, so that a disturbance meets both, and the best lap of each counts. bfloat16 must win by more than
laps differ: a near tie would fall one way in one run and the other way in the next, and change what is trained.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rig.compression.tasks import Task, checked
from rig.compression.training.losses import loss_of, placed
from rig.compression.training.plan import TrainingPlan
from rig.compression.training.teacher import Teacher

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAPS = 5
GAIN = 0.95  # of float32's time: what bfloat16 may take at most


def fastest_precision(model: nn.Module, task: Task, steps: int = LAPS) -> torch.dtype:
    """bfloat16 if a training step of a copy is measured clearly faster with it than in float32, else float32."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    rng = torch.get_rng_state()
    batch = placed(checked(next(iter(task.loaders("train"))), "train", task.name), device)
    torch.set_rng_state(rng)
    return DTYPES[choose(step_times_s(model, task, TrainingPlan(1), batch, steps))]


def step_times_s(
    model: nn.Module, task: Task, plan: TrainingPlan, batch: tuple[Tensor, Tensor], laps: int = LAPS
) -> dict[str, float]:
    """Best time of a training step on ``batch`` in each precision; ``model`` and the generator stay as they are.

    batch: on the model's device.
    """
    rng = torch.get_rng_state()
    trial = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(trial.parameters(), lr=0.0)

    def step(name: str) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(trial, task, plan, batch, DTYPES[name]).backward()
        optimizer.step()

    times_s = _best_times_s(step, batch[0].device, laps)
    torch.set_rng_state(rng)
    return times_s


def answer_times_s(teacher: Teacher, inputs: Tensor, laps: int = LAPS) -> dict[str, float]:
    """Best time of a teacher's answers to a batch of inputs on its device, in each precision."""
    return _best_times_s(lambda name: teacher.answers(inputs, DTYPES[name]), inputs.device, laps)


def _best_times_s(step: Callable[[str], object], device: torch.device, laps: int) -> dict[str, float]:
    """The best of so many laps of a step, named by its precision, the two in turns."""

    def lap(name: str) -> float:
        start = time.perf_counter()
        step(name)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    names = list(DTYPES)
    for name in names:
        lap(name)  # allocations and the choice of algorithms
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(laps):
        for name in names if turn % 2 else names[::-1]:
            found[name].append(lap(name))
    return {name: min(times_s) for name, times_s in found.items()}


def choose(times_s: dict[str, float]) -> str:
    """The name of the precision to train in."""
    return "bfloat16" if times_s["bfloat16"] < GAIN * times_s["float32"] else "float32"
