"""How ranks above 0 take part: they wait for what rank 0 trains, train it along, and wait again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rig.compression import distributed
from rig.compression.cutting.rebuild import Recipe, made, recipe_of
from rig.compression.tasks import Task
from rig.compression.training.failures import DivergedError, told
from rig.compression.training.plan import TrainingPlan
from rig.compression.training.run import Job, TrainingRun


def call(network: nn.Module, task: Task, plan: TrainingPlan, teacher: nn.Module | None) -> None:
    """On rank 0, before a stretch of training: tell the others what it is; alone, nothing.

    Networks travel as the recipes that make them again and their values. Raises ModelError where there is none.
    """
    if distributed.ranks() > 1:
        taught = None if teacher is None else [_recipe(teacher, task), teacher.state_dict()]
        distributed.share({"network": _recipe(network, task), "plan": list(plan), "teacher": taught, "task": task.name})


def serve(task: Task) -> None:
    """On the other ranks: train along until rank 0 is done (``distributed.leading``)."""
    while True:
        with told(task):
            job: dict[str, Any] | None = distributed.share()
        if job is None:
            return
        teacher = None
        if job["teacher"] is not None:
            recipe, values = job["teacher"]
            teacher = made(Recipe(*recipe), task.model, _example(task))
            teacher.load_state_dict(values)
        network = made(Recipe(*job["network"]), task.model, _example(task))
        try:
            with told(task):
                TrainingRun(network, Job(task, TrainingPlan(*job["plan"]), teacher=teacher)).go()
        except DivergedError:
            continue  # rank 0 says so, and may go on


def _recipe(network: nn.Module, task: Task) -> list[Any]:
    return list(recipe_of(network, task.model, _example(task)))


def _example(task: Task) -> torch.Tensor:
    return torch.zeros(1, *task.input_shape)
