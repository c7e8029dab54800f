"""How narrow a group may get through which everything passes: by the ratio at which even widths hold the budget.

What a channel is worth is told in the whole network, one group at a time. At a tenth of its multiplications that says
too little: one channel was left in the stem of a VGG and of a MobileNet, two to three points of accuracy behind the
same ratio everywhere (experiments/peers). So a *bottleneck* keeps a part of what even widths would leave it, the larger
a part the harsher they are:

    floor = r·(1 − r/2) of its width        r: the largest even ratio that holds the budget

At r = 1 a bottleneck may be halved, at r = 0.5 it keeps three quarters of the even width, at r = 0.1 all but all of it.
Even widths hold the budget and no floor is above them; costs are not monotone, and where nothing but narrower ones
hold it, floors are left. Groups that a shortcut or a concatenation leads around may shrink to one channel: those the
rest of the network replaces.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from power_models.tables import NetworkTables
from rig.compression.budget import Budget
from rig.compression.choosing.steering import silenced
from rig.compression.cutting.channel_group import ChannelGroup
from rig.compression.cutting.template import Template
from rig.compression.cutting.tracing import in_inference

RATIOS = 50  # even ratios looked at
SAME = 1e-6  # of the difference that two inputs make: less is none


def bottlenecks(network: nn.Module, groups: Sequence[ChannelGroup], example: Tensor) -> frozenset[str]:
    """Names of the prunable groups without whose channels the output no longer depends on the input.

    Found by silencing each: two random inputs of the shape of ``example`` (1, …) then give the same.
    """
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, *example.shape[1:], generator=generator)
    whole = _difference(network, pair)
    found = set()
    for group in groups:
        if group.prunable:
            without, _ = silenced(network, group, torch.arange(group.width))
            if _difference(without, pair) <= SAME * whole:
                found.add(group.name)
    return frozenset(found) if whole > 0 else frozenset()


def floors_of(template: Template, tables: NetworkTables, budget: Budget, removed: Sequence[str] = ()) -> dict[str, int]:
    """The least width of each bottleneck; none where even widths cannot hold the budget.

    removed: blocks that the network has no longer.
    """
    ratio = even_ratio(template, tables, budget, removed)
    if not ratio:
        return {}
    part = ratio * (1.0 - ratio / 2.0)
    return {g.name: _part_of(g.width, part) for g in template.groups if g.name in template.bottlenecks}


def even_ratio(template: Template, tables: NetworkTables, budget: Budget, removed: Sequence[str] = ()) -> float:
    """The largest ratio of all prunable groups' widths that holds the budget (predicted), 0 where none does."""
    without = template.removed_kernels(removed)
    seed = template.seed_widths()
    free = [g.name for g in template.groups if g.prunable and not g.put_back]
    for step in range(RATIOS, 0, -1):  # costs are not monotone
        widths = {**seed, **{name: _part_of(seed[name], step / RATIOS) for name in free}}
        if budget.usage(tables.totals(widths, without)) <= 1.0:
            return step / RATIOS
    return 0.0


def _part_of(width: int, part: float) -> int:
    return max(1, int(part * width + 0.5))


def _difference(network: nn.Module, pair: Tensor) -> float:
    """How far the outputs of two inputs are apart, at most; 0 where an output is no finite tensor."""
    with in_inference(network), torch.inference_mode():
        outputs = network(pair)
    return float((outputs[0] - outputs[1]).abs().max().nan_to_num(0.0))
