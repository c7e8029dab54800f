"""Training a network of a task: SGD with warm-up and cosine, label smoothing, a moving average of the weights, bf16
where it is measured faster, on a CPU, a GPU or several processes, resumable by epoch.

``run`` is the stretch of training, ``learner`` its step, ``plan`` what it is asked to do; sources are cited where they
are used (``losses``, ``averaging``).
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from rig.compression.tasks import Task
from rig.compression.training.checkpoint import load_state, save_atomically
from rig.compression.training.failures import DivergedError, OutOfMemoryError, told
from rig.compression.training.followers import call, serve
from rig.compression.training.losses import TAUGHT_SHARE, TEMPERATURE, distilled
from rig.compression.training.plan import (
    Progress,
    StepHook,
    Surgeon,
    Trained,
    TrainingPlan,
    learning_rate_at,
)
from rig.compression.training.precision import fastest_precision
from rig.compression.training.run import Job, TrainingRun

__all__ = [
    "TAUGHT_SHARE",
    "TEMPERATURE",
    "DivergedError",
    "OutOfMemoryError",
    "Progress",
    "StepHook",
    "Surgeon",
    "Trained",
    "TrainingPlan",
    "distilled",
    "fastest_precision",
    "learning_rate_at",
    "load_state",
    "save_atomically",
    "serve",
    "train",
]


def train(
    model: nn.Module,
    task: Task,
    plan: TrainingPlan,
    *,
    hook: StepHook | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    teacher: nn.Module | None = None,
) -> Trained:
    """Train ``model`` in place; a hook that operates (``Surgeon``) gets a narrower network in its place, returned.

    ``teacher``: a network for the same task whose answers are learned too (``distilled``), if they are logits.
    With ``checkpoint``, the state is saved after each epoch and taken up again where that file exists.
    With several processes rank 0 calls this and the others are in ``serve``.
    Raises DivergedError where the loss or a gradient stays not finite after going back ``plan.rollbacks`` times,
    OutOfMemoryError, ModelError where the task yields no batches or wrong ones, BadInputError for an impossible plan.
    """
    plan.check()
    with told(task):
        call(model, task, plan, teacher)
        return TrainingRun(model, Job(task, plan, hook, checkpoint, progress, teacher)).go()
