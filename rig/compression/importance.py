"""How much the loss would change without a channel: first-order Taylor on the scales of its group.

Molchanov et al., CVPR 2019: |Σ γ·∂L/∂γ + β·∂L/∂β| per batch, averaged over batches;
tied channels sum over their batch-norms.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rig.compression.groups import ChannelGroup
from rig.compression.tasks import Task


def taylor(model: nn.Module, task: Task, groups: Sequence[ChannelGroup], batches: int = 20) -> dict[str, Tensor]:
    """Importance of each channel of each prunable group, shape (width,); batch-norm statistics stay as they are."""
    model.eval()
    scores = {g.name: torch.zeros(g.width) for g in groups if g.prunable}
    count = 0
    for inputs, targets in itertools.islice(iter(task.loaders("train")), batches):
        model.zero_grad(set_to_none=True)
        task.loss(model(inputs), targets).backward()
        count += 1
        with torch.no_grad():
            for group in groups:
                if group.prunable:
                    scores[group.name] += _batch_scores(group).abs()
    model.zero_grad(set_to_none=True)
    return {name: score / max(count, 1) for name, score in scores.items()}


def _batch_scores(group: ChannelGroup) -> Tensor:
    total = torch.zeros(group.width)
    for scale in group.scales:
        for values in (scale.weight, scale.bias):
            if values is not None and values.grad is not None:
                product = (values * values.grad)[scale.index]
                total = total.index_add(0, scale.root, product.flatten(1).sum(1) if product.dim() > 1 else product)
    return total
