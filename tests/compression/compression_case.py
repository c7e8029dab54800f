"""A small task on the digits, its survey without a device, and a place to search: what methods are tested on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stairs import INPUT, build, stairs
from torch import nn

from power_models.tables import NetworkTables
from rig.compression import tasks
from rig.compression.budget import Budget, resolve
from rig.compression.cutting.template import Template
from rig.compression.methods.base import Workplace
from rig.compression.survey import Ablation, Settings, Survey
from rig.units import parse_limit

# What is limited, at which frame rate, to what, where quiet power is 1 W.
LIMITS = {
    "power-at-a-rate": ("power", 60.0, "50%"),
    "power-flat-out": ("power", None, "85%"),
    "energy": ("energy", None, "50%"),
    "latency": ("latency", None, "50%"),
    "flops": ("flops", None, "40%"),
    "params": ("params", None, "40%"),
}
IDLE_POWER_W = 1.0


class Quiet:
    """A console that says nothing."""

    def stage(self, text: str) -> None:
        """Ignore it."""

    def update(self, text: str) -> None:
        """Ignore it."""


def device(specs: Any) -> tuple[np.ndarray, np.ndarray]:
    """The stairs, but wide kernels draw more watts than narrow ones: what flat-out power can be steered by."""
    seconds, _ = stairs(specs)
    watts = np.array([1.0 + 2.0 * min(1.0, spec.out_channels / 32) for spec in specs])
    return seconds, watts * seconds


def small_task(batches: int = 4, batch: int = 32) -> tasks.Task:
    """The digits, ``batches`` of ``batch`` images a pass, with the network of tests/stairs.py."""
    images = tasks._splits("digits")

    def loaders(split: str) -> Any:
        if split == "train":
            return list(itertools.islice(tasks.Augmented(images["train"], batch, flip=False, shift=1), batches))
        return tasks.InOrder(tasks.datasets.Images(*(part[:128] for part in images[split])), 64)

    def evaluate(network: nn.Module, split: str) -> float:
        return tasks.accuracy(network, loaders(split))

    return tasks.Task(
        "digits", "small", build, torch.nn.functional.cross_entropy, loaders, evaluate, INPUT, 128, logits=True
    )


def survey_of(template: Template) -> Survey:
    """The survey of a device that costs exactly what the tables say."""
    largest = {g.name: round(g.width * 1.5) if g.prunable else g.width for g in template.groups}
    tables = NetworkTables(template.kernels, device, largest)
    totals = tables.totals(template.seed_widths())
    return Survey(Path("seed.onnx"), template, tables, totals, totals, IDLE_POWER_W, None, None)  # type: ignore[arg-type]


def budget_of(survey: Survey, case: str, share: str | None = None) -> Budget:
    """The budget of one of LIMITS."""
    quantity, fps, usual = LIMITS[case]
    return resolve([parse_limit(quantity, share or usual)], fps, IDLE_POWER_W, survey.measured)


def workplace_in(folder: Path, task: tasks.Task, epochs_shrink: int = 3, **settings: Any) -> Workplace:
    """A place to search in, without a run."""
    asked = {"ablation": Ablation(), **settings}
    return Workplace(
        task, Settings((), None, 0, 1, epochs_shrink, 1, rounds=1, **asked), folder, Quiet(), {}, lambda state: None
    )
