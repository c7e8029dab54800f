"""How ranks above 0 take part: they wait for what rank 0 trains, train it along, and wait again."""

from __future__ import annotations

from typing import Any

from torch import nn

from rig.compression import distributed
from rig.compression.cutting.rebuild import built, layer_table
from rig.compression.tasks import Task
from rig.compression.training.failures import DivergedError, told
from rig.compression.training.plan import TrainingPlan
from rig.compression.training.run import Job, TrainingRun


def call(network: nn.Module, task: Task, plan: TrainingPlan, teacher: nn.Module | None) -> None:
    """On rank 0, before a stretch of training: tell the others what it is; alone, nothing.

    Networks travel as the widths that rebuild them and their values. Raises ModelError where widths cannot.
    """
    if distributed.ranks() > 1:
        taught = None if teacher is None else [layer_table(teacher, task.model), teacher.state_dict()]
        distributed.share(
            {"widths": layer_table(network, task.model), "plan": list(plan), "teacher": taught, "task": task.name}
        )


def serve(task: Task) -> None:
    """On the other ranks: train along until rank 0 is done (``distributed.leading``)."""
    while True:
        with told(task):
            job: dict[str, Any] | None = distributed.share()
        if job is None:
            return
        teacher = None
        if job["teacher"] is not None:
            table, values = job["teacher"]
            teacher = built(task.model, table)
            teacher.load_state_dict(values)
        network = built(task.model, job["widths"])
        try:
            with told(task):
                TrainingRun(network, Job(task, TrainingPlan(*job["plan"]), teacher=teacher)).go()
        except DivergedError:
            continue  # rank 0 says so, and may go on
