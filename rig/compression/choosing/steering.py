"""What channels and blocks are worth in units of the loss, so that both can be weighed against each other.

A score of ``importance`` says which channels of a group matter more, not how much a group matters beside another, or
beside a whole residual block. That is measured on the steering split (validation images that training never saw):

    each group   the loss with the most important half, quarter and eighth of its living channels alone ──► its scores:
                 summed over what is silent they are the loss that this added, between two points in the ratio of the
                 scores given. Channels without a score are dead already and say nothing
    each block   the loss of the network without it (removed for real) ──► the loss that this added

Several points, because the loss rises far more steeply than the scores when little is left: from one point a group of
64 looked as if 3 channels cost a fifth of what they do. Both are losses once the network has
recovered a little (``recovery``), added to that of the same network, which got the same; noise below FLOOR of what is
usual counts as FLOOR.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rig.compression.choosing.recovery import Recovery
from rig.compression.cutting.channel_group import ChannelGroup
from rig.compression.cutting.surgery import without_blocks
from rig.compression.cutting.template import Template
from rig.compression.tasks import Task
from rig.compression.training.losses import placed
from rig.errors import ModelError

IMAGES = 512  # of the steering split, at least
MOST_BYTES = 256e6  # of images, of a size for which so many are too much
FLOOR = 0.02  # of the median loss added
KEPT = (2, 4, 8)  # a group is tried with this part of its channels with a score


def measured_scores(
    model: nn.Module,
    task: Task,
    template: Template,
    removed: Sequence[str],
    scores: Mapping[str, Tensor],
    steps: int = 0,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Scores in units of the loss, and a record of every block that is still there with the loss it adds to go.

    template: its groups point into ``model``, which stays as it is; removed: blocks that are gone already; steps: of
    training that each trial recovers in.
    """
    recovery = Recovery(task, steps)
    batches = steering_batches(task)
    untouched = copy.deepcopy(model)
    recovery(untouched)
    before = mean_loss(untouched, task, batches)
    if not math.isfinite(before):
        raise ModelError(
            f"loss(outputs, targets) of the task {task.name} is {before} on the steering split",
            "look for a division by nothing in the loss, or for inputs that are not finite",
        )
    curves = {
        group.name: [
            mean_loss(_recovered(model, group, silent, recovery), task, batches) - before
            for silent in _silent(scores[group.name])
        ]
        for group in template.groups
        if group.prunable
    }
    blocks = {}
    for block in template.blocks:
        if block.name not in removed:
            without = without_blocks(model, task, template, [*removed, block.name])
            recovery(without)
            blocks[block.name] = mean_loss(without, task, batches) - before
    worst = max((v for v in [*itertools.chain(*curves.values()), *blocks.values()] if math.isfinite(v)), default=0.0)
    curves = {name: [v if math.isfinite(v) else worst for v in added] for name, added in curves.items()}
    blocks = {name: v if math.isfinite(v) else worst for name, v in blocks.items()}
    usual = [value for value in [*itertools.chain(*curves.values()), *blocks.values()] if value > 0]
    least = FLOOR * float(np.median(usual)) if usual else 1e-9
    found = {name: _in_loss(scores[name], added, least) for name, added in curves.items()}
    trials = [
        {"block": name, "loss": before, "loss_without": before + value, "loss_added": max(value, least)}
        for name, value in blocks.items()
    ]
    return found, trials


def trials_of(template: Template, removed: Sequence[str]) -> int:
    """How many networks ``measured_scores`` lets recover, at most."""
    groups = sum(len(_parts(group.width)) for group in template.groups if group.prunable)
    return 1 + groups + sum(block.name not in removed for block in template.blocks)


def steering_batches(task: Task, images: int = IMAGES) -> list[tuple[Tensor, Tensor]]:
    """The first batches of the steering split: so many images or a few more, or fewer where they are large."""
    batches: list[tuple[Tensor, Tensor]] = []
    for batch in task.loaders("val"):
        batches.append(batch)
        held = sum(inputs.nbytes for inputs, _ in batches)
        if sum(len(t) for _, t in batches) >= images or held >= MOST_BYTES:
            break
    return batches


def mean_loss(model: nn.Module, task: Task, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Mean loss of a network in inference mode."""
    return loss_and_accuracy(model, task, batches)[0]


def loss_and_accuracy(model: nn.Module, task: Task, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean loss of a network in inference mode, and the share of right answers (0 where outputs are no classes)."""
    loss = right = 0.0
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        for batch in batches:
            inputs, targets = placed(batch, device)
            outputs = model(inputs)
            loss += float(task.loss(outputs, targets)) * len(targets)
            if outputs.dim() == 2 and targets.dim() == 1:
                right += float((outputs.argmax(1) == targets).sum())
    seen = sum(len(targets) for _, targets in batches)
    return loss / seen, right / seen


def _parts(width: int) -> list[int]:
    """How many of so many channels are kept in each trial, falling."""
    return sorted({width // part for part in KEPT if width // part}, reverse=True)


def _order(scores: Tensor) -> Tensor:
    """Channels with a score, the most important first; of ties the lower index."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[scores[order] > 0]


def _silent(scores: Tensor) -> list[Tensor]:
    """The channels (indices) that are silenced in each trial of a group, ever more of them."""
    living = _order(scores)
    return [living[kept:] for kept in _parts(len(living))]


def _in_loss(scores: Tensor, added: Sequence[float], least: float) -> Tensor:
    """Scores (width,) whose sums over what was silent are the losses added, or more: they never fall with importance.

    The channels that every trial kept go on at the rate of the last ones that were tried.
    """
    living = _order(scores)
    if not len(living):
        return torch.zeros_like(scores)
    ends = [*_parts(len(living)), 0]
    rises = np.diff(np.maximum.accumulate([0.0, *added]))
    found = torch.zeros(len(living), dtype=torch.float64)
    own = scores[living].double()
    rate, upper = 1.0, len(living)
    for lower, rise in itertools.zip_longest(ends, rises):
        part = own[lower:upper]
        if rise is not None and len(part):
            floor = least * float(part.sum() / own.sum())
            rate = max(float(rise), floor) / float(part.sum())
        found[lower:upper] = rate * part
        upper = lower
    rising = torch.cummax(found.flip(0), 0).values.flip(0)
    rank = torch.arange(len(living), 0, -1, dtype=torch.float64) / len(living)
    worth = torch.zeros(len(scores), dtype=torch.float64)
    worth[living] = rising * (1.0 + 1e-6 * rank)  # of what is worth alike the more important one still leads
    return worth.to(scores.dtype)


def silenced(model: nn.Module, group: ChannelGroup, silent: Tensor) -> tuple[nn.Module, Callable[[], None]]:
    """A copy in which these channels of a group give nothing, and what keeps them silent while it is trained."""
    trial = copy.deepcopy(model)
    here = group.on(trial)
    here.silence(silent)
    return trial, lambda: here.silence(silent)


def _recovered(model: nn.Module, group: ChannelGroup, silent: Tensor, recovery: Recovery) -> nn.Module:
    """A copy in which these channels of a group give nothing, once it has recovered from that."""
    trial, hold = silenced(model, group, silent)
    recovery(trial, hold)
    return trial
