"""What a channel is worth: three scores, each averaged over training batches.

    taylor      (Σ g·w)² over all parameters of the channel's group: filters, scales, shifts, and what reads them
    bn-taylor   |Σ γ·∂L/∂γ + β·∂L/∂β| over the group's batch-norms (without any: the filters and biases themselves)
    magnitude   √(Σ w²) over all parameters of the group; no data

Sources: Molchanov et al., CVPR 2019 (both Taylor scores); Shen et al., NeurIPS 2022 (HALP, the batch-norm's); Fang et
al., CVPR 2023 (DepGraph: sums over groups). Summed before squaring, the first is the square of the loss's first-order
change when the channel goes everywhere at once; its mean over batches is, up to a factor, the Fisher estimate of the
second-order change (Theis et al. 2018), which does not vanish at a trained network's optimum. None of them is in units
of the loss: ``steering`` measures what they lack.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from power_models.regularizer import pulls
from rig.compression.cutting.groups import ChannelGroup
from rig.compression.tasks import Task

BATCHES = 20
Importance = Callable[[nn.Module, Task, Sequence[ChannelGroup], int], dict[str, Tensor]]


def taylor(model: nn.Module, task: Task, groups: Sequence[ChannelGroup], batches: int = BATCHES) -> dict[str, Tensor]:
    """Batch-norm Taylor of each channel of each prunable group, shape (width,); running statistics stay as they are."""
    return averaged(model.eval(), task, groups, batches, gate_slope)


def group_taylor(
    model: nn.Module, task: Task, groups: Sequence[ChannelGroup], batches: int = BATCHES
) -> dict[str, Tensor]:
    """Group Taylor of each channel of each prunable group, shape (width,); running statistics stay as they are."""

    def score(group: ChannelGroup) -> Tensor:
        parts = [
            rows.new_zeros(group.width).index_add(0, root, _per_row(rows * slopes))
            for rows, slopes, root in _parameters(group)
        ]
        return _sum(parts, group.width) ** 2

    return averaged(model.eval(), task, groups, batches, score)


def magnitude(model: nn.Module, task: Task, groups: Sequence[ChannelGroup], batches: int = 0) -> dict[str, Tensor]:
    """Norm of each channel's parameters over the group, shape (width,); 0 where its scales are dead."""
    found = {}
    with torch.no_grad():
        for group in groups:
            if group.prunable:
                squares = [
                    rows.new_zeros(group.width).index_add(0, root, _per_row(rows**2))
                    for rows, _, root in _parameters(group)
                ]
                found[group.name] = _sum(squares, group.width).sqrt() * (group.norms() > 0)
    return found


IMPORTANCES: dict[str, Importance] = {"taylor": group_taylor, "bn-taylor": taylor, "magnitude": magnitude}


def gate_slope(group: ChannelGroup) -> Tensor:
    """|Σ γ·∂L/∂γ + β·∂L/∂β| of each unit after a backward pass, shape (width,): how much the loss hangs on its gate."""
    return _sum(pulls(group), group.width).abs()


def averaged(
    model: nn.Module,
    task: Task,
    groups: Sequence[ChannelGroup],
    batches: int,
    score: Callable[[ChannelGroup], Tensor],
) -> dict[str, Tensor]:
    """Mean over batches of what ``score`` gives after each backward pass, in the mode that the model is in."""
    scores = {g.name: torch.zeros(g.width) for g in groups if g.prunable}
    count = 0
    for inputs, targets in itertools.islice(iter(task.loaders("train")), batches):
        model.zero_grad(set_to_none=True)
        task.loss(model(inputs), targets).backward()
        count += 1
        with torch.no_grad():
            for group in groups:
                if group.prunable:
                    scores[group.name] += score(group)
    model.zero_grad(set_to_none=True)
    return {name: total / max(count, 1) for name, total in scores.items()}


def _parameters(group: ChannelGroup) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Every parameter of a group by rows: values and gradients (rows, …) and the channel (rows,) they belong to."""
    for member in group.members:
        for name, values in member.module.named_parameters(recurse=False):
            slopes = torch.zeros_like(values) if values.grad is None else values.grad
            if member.axis == "in":
                # What reads the group: weights by input channel. A depthwise layer's are counted by output channel.
                if name != "weight" or values.dim() < 2 or values.shape[1] <= int(member.index.max()):
                    continue
                values, slopes = values.transpose(0, 1), slopes.transpose(0, 1)
            elif values.shape[0] <= int(member.index.max()):
                continue
            yield values[member.index], slopes[member.index], member.root


def _per_row(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1) if values.dim() > 1 else values


def _sum(parts: Sequence[Tensor], width: int) -> Tensor:
    return sum(parts, torch.zeros(width))
