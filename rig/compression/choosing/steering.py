"""What channels and blocks are worth in units of the loss, so that both can be weighed against each other.

A score of ``importance`` says which channels of a group matter more, not how much a group matters beside another, or
beside a whole residual block. That is measured on the steering split (validation images that training never saw):

    each group   the loss with the less important half of its living channels silenced ──► its scores' scale: their sum
                 over that half is the loss that this added. Channels without a score are dead already and say nothing;
                 a half that is worth next to nothing is widened until it holds WORTH of the group's scores
    each block   the loss of the network without it (removed for real) ──► the loss that this added

Both are losses before any fine-tuning, added to the same network; noise below FLOOR of what is usual counts as FLOOR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rig.compression.cutting.channel_group import ChannelGroup
from rig.compression.cutting.surgery import without_blocks
from rig.compression.cutting.template import Template
from rig.compression.tasks import Task

IMAGES = 512  # of the steering split, at least
FLOOR = 0.02  # of the median loss added
SILENCED = 0.5  # of a group's channels with a score
WORTH = 0.05  # of a group's scores: less than this is noise, from which no scale can be had


def measured_scores(
    model: nn.Module, task: Task, template: Template, removed: Sequence[str], scores: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Scores in units of the loss, and a record of every block that is still there with the loss it adds to go.

    template: its groups point into ``model``; removed: blocks that are gone already.
    """
    batches = _steering(task)
    before = _loss(model, task, batches)
    added = {
        group.name: _loss_silenced(model, task, batches, group, scores[group.name]) - before
        for group in template.groups
        if group.prunable and group.width > 1
    }
    blocks = {}
    for block in template.blocks:
        if block.name not in removed:
            without = without_blocks(model, task, template, [*removed, block.name])
            blocks[block.name] = _loss(without, task, batches) - before
    usual = [value for value in [*added.values(), *blocks.values()] if value > 0]
    least = FLOOR * float(np.median(usual)) if usual else 1e-9
    found = {}
    for group in template.groups:
        if group.prunable:
            own = scores[group.name]
            silenced = float(own[_weaker(own)].sum())
            scale = max(added.get(group.name, 0.0), least) / silenced if silenced > 0 else 1.0
            found[group.name] = own * scale
    trials = [
        {"block": name, "loss": before, "loss_without": before + value, "loss_added": max(value, least)}
        for name, value in blocks.items()
    ]
    return found, trials


def _steering(task: Task) -> list[tuple[Tensor, Tensor]]:
    batches: list[tuple[Tensor, Tensor]] = []
    for inputs, targets in task.loaders("val"):
        batches.append((inputs, targets))
        if sum(len(t) for _, t in batches) >= IMAGES:
            break
    return batches


def _loss(model: nn.Module, task: Task, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Mean loss of a network in inference mode."""
    model.eval()
    with torch.inference_mode():
        total = sum(float(task.loss(model(inputs), targets)) * len(targets) for inputs, targets in batches)
    return total / sum(len(targets) for _, targets in batches)


def _weaker(scores: Tensor) -> Tensor:
    """Indices of the less important half of what has a score, or more; of ties the higher index goes first."""
    order = torch.argsort(scores, descending=True, stable=True).flip(0)
    living = order[scores[order] > 0]
    if not len(living):
        return living
    sums = scores[living].double().cumsum(0)
    enough = 1 + int((sums < WORTH * sums[-1]).sum())
    return living[: max(int(SILENCED * len(living)), enough)]


def _loss_silenced(
    model: nn.Module, task: Task, batches: Sequence[tuple[Tensor, Tensor]], group: ChannelGroup, scores: Tensor
) -> float:
    """The loss while the less important channels of a group give nothing; the network is left as it was."""
    quiet = torch.zeros(group.width, dtype=torch.bool)
    quiet[_weaker(scores)] = True
    kept: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for scale in group.scales:
            rows = scale.index[quiet[scale.root]]
            for values in (scale.weight, scale.bias):
                if values is not None:
                    kept.append((values, values.detach().clone()))
                    values[rows] = 0.0
    try:
        return _loss(model, task, batches)
    finally:
        with torch.no_grad():
            for values, before in kept:
                values.copy_(before)
