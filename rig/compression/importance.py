"""How much the loss would change without a channel: first-order Taylor on the scales of its group.

Molchanov et al., CVPR 2019: |Σ γ·∂L/∂γ + β·∂L/∂β| per batch, averaged over batches;
tied channels sum over their batch-norms.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from power_models.regularizer import pulls
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
                    scores[group.name] += sum(pulls(group), torch.zeros(group.width)).abs()
    model.zero_grad(set_to_none=True)
    return {name: score / max(count, 1) for name, score in scores.items()}
