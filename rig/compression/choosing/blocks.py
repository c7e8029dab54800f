"""Residual blocks: removed where that is cheaper than narrowing to save the same cost.

Both are tried for real on the steering split, batch-norm statistics estimated anew (``recovery``): the loss without
the block against the loss with as much cost taken from the least important channels of all groups. Hardware likes the
first: kernels vanish whole.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from power_models.tables import NetworkTables
from rig.compression.budget import Budget
from rig.compression.choosing.recovery import Recovery
from rig.compression.choosing.steering import loss_and_accuracy, steering_batches
from rig.compression.cutting.surgery import without_blocks
from rig.compression.cutting.template import Template
from rig.compression.tasks import Task

Judge = Callable[[nn.Module], tuple[float, float]]
IMAGES = 2000  # of the steering split, to judge a block by
MAX_ACCURACY_DROP = 0.005  # of all removals together, before fine-tuning


class BlockTrial(NamedTuple):
    """One block looked at: the loss without it, the loss of narrowing by the same cost, and what was decided."""

    block: str
    saved: float
    loss_without: float
    loss_narrowed: float
    accuracy_without: float
    removed: bool


def remove_blocks(
    model: nn.Module,
    task: Task,
    template: Template,
    tables: NetworkTables,
    budget: Budget,
    alive: Mapping[str, int],
    importance: Mapping[str, Tensor],
    gone: Sequence[str] = (),
) -> tuple[list[str], list[BlockTrial]]:
    """Names of the blocks to remove, those that are ``gone`` already first, and the record of all trials.

    A block whose inner channels are all dead goes in any case: nothing flows through it.
    """
    dead = [b.name for b in template.blocks if any(alive.get(g) == 0 for g in b.inner)]
    removed = [*gone, *(name for name in dead if name not in gone)]
    score = _judge(task)
    floor = score(copy.deepcopy(model))[1] - MAX_ACCURACY_DROP
    trials: list[BlockTrial] = []
    for block in sorted((b for b in template.blocks if b.name not in removed), key=lambda b: b.name):
        trial = _try(block.name, model, task, template, tables, budget, alive, importance, removed, score)
        keep_it = trial.loss_without > trial.loss_narrowed or trial.accuracy_without < floor
        trials.append(trial._replace(removed=not keep_it))
        if not keep_it:
            removed.append(block.name)
    return removed, trials


def _try(
    name: str,
    model: nn.Module,
    task: Task,
    template: Template,
    tables: NetworkTables,
    budget: Budget,
    alive: Mapping[str, int],
    importance: Mapping[str, Tensor],
    removed: list[str],
    score: Judge,
) -> BlockTrial:
    widths = {**template.seed_widths(), **alive}
    before = budget.usage(tables.totals(widths, template.removed_kernels(removed)))
    without = template.removed_kernels([*removed, name])
    after = budget.usage(tables.totals(widths, without))
    lost, accuracy = score(without_blocks(model, task, template, [*removed, name]))
    masked = narrowed_by(model, template, tables, budget, widths, importance, template.removed_kernels(removed), after)
    if removed:
        masked = without_blocks(masked, task, template, removed)
    narrowed, _ = score(masked)
    return BlockTrial(name, before - after, lost, narrowed, accuracy, False)


def narrowed_by(
    model: nn.Module,
    template: Template,
    tables: NetworkTables,
    budget: Budget,
    widths: Mapping[str, int],
    importance: Mapping[str, Tensor],
    without: frozenset[int],
    goal: float,
) -> nn.Module:
    """A copy whose least important channels (per cost) are silenced until the predicted usage is down to ``goal``."""
    trial = copy.deepcopy(model)
    here = dict(widths)
    slope = budget.gradient(tables.totals(here, without))
    prices = {g: max(float(slope @ m), 1e-12) for g, m in tables.marginals(here, without).items()}
    order = sorted(
        (float(score) / prices[name], name, i)
        for name, scores in importance.items()
        for i, score in enumerate(scores)
        if float(score) > 0
    )
    silenced: dict[str, list[int]] = {}
    for count, (_, name, i) in enumerate(order):
        if here[name] <= 1:
            continue
        here[name] -= 1
        silenced.setdefault(name, []).append(i)
        if count % 8 == 0 and budget.usage(tables.totals(here, without)) <= goal:
            break
    for group in template.groups:
        if group.name in silenced:
            group.on(trial).silence(torch.tensor(silenced[group.name]))
    return trial


def _judge(task: Task) -> Judge:
    """Mean loss and accuracy on steering images, the statistics of the network given being estimated anew."""
    recovery = Recovery(task)
    batches = steering_batches(task, IMAGES)

    def score(network: nn.Module) -> tuple[float, float]:
        recovery(network)
        return loss_and_accuracy(network, task, batches)

    return score
