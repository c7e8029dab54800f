"""Widths to start from without any training: what a channel is worth at initialization, weighed against its cost.

    untrained network ──► how much the loss hangs on each channel's gate (a few batches) ──► least worth per cost saved
    goes, channel block by channel block, until the budget holds

Source: SNIP (Lee, Ajanthan, Torr, ICLR 2019, arXiv 1810.02340): saliency |∂L/∂c| of a gate c = 1 on what may go. On
whole channels, divided by what they cost: 3SP (van Amersfoort et al. 2020, arXiv 2007.00389). Differences: a gate
multiplies batch-norm's scale and shift, so that ∂L/∂c = γ·∂L/∂γ + β·∂L/∂β; tied channels share one gate; the cost is
the device's, on its stairs, instead of FLOPs. Statistics are those of each batch, as in training: at initialization
running ones say nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from power_models.tables import NetworkTables
from rig.compression.budget import Budget
from rig.compression.choosing.importance import averaged, gate_slope
from rig.compression.choosing.widths import WidthChooser
from rig.compression.cutting.channel_group import ChannelGroup
from rig.compression.tasks import Task

BATCHES = 8


def saliency(
    network: nn.Module, task: Task, groups: Sequence[ChannelGroup], batches: int = BATCHES
) -> dict[str, Tensor]:
    """|∂L/∂gate| of each unit of each prunable group, shape (width,), mean over batches; the network stays as it is."""
    trial = copy.deepcopy(network).train()
    own = [g.on(trial) for g in groups if g.prunable]
    return averaged(trial, task, own, batches, gate_slope)


def starting_widths(
    network: nn.Module,
    task: Task,
    groups: Sequence[ChannelGroup],
    tables: NetworkTables,
    budget: Budget,
    batches: int = BATCHES,
) -> dict[str, int]:
    """Width of every group under the budget (predicted), from an untrained network; no group loses all its units."""
    scores = saliency(network, task, groups, batches)
    seed = {g.name: g.width for g in groups}
    return WidthChooser(tables, budget, scores, seed).cut(seed)
