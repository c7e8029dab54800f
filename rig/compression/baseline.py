"""The uncompressed network, trained once and kept for every run that starts from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from rig.compression.tasks import BATCH, Task
from rig.compression.training import TrainingPlan, load_state, save_atomically


def trained_baseline(task: Task, plan: TrainingPlan, folder: Path, train_it: Callable[[nn.Module], None]) -> nn.Module:
    """The seed network trained by ``plan``: from ``folder`` if an earlier run left it there, else by ``train_it``."""
    key = hashlib.sha256(_named(task, plan).encode()).hexdigest()[:12]
    cached = folder / f"{task.name}-{task.model_name}-{key}.pt"
    torch.manual_seed(plan.seed)
    network = task.model()
    if cached.exists():
        network.load_state_dict(load_state(cached))
        network.eval()
        return network
    train_it(network)
    save_atomically(network.state_dict(), cached)
    return network


def _named(task: Task, plan: TrainingPlan) -> str:
    """What tells one baseline from another; of usual options as it always was, so that earlier ones are found."""
    batch = "" if task.batch == BATCH else f", batch {task.batch}"
    text = f", file {task.text}" if task.text else ""
    return f"({task.name!r}, {task.model_name!r}, {plan.recipe()}{batch}{text})"
