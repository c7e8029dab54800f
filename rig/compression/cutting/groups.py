"""Channel groups: channels that must change together, from torch-pruning's dependency graph.

A residual addition ties every layer that writes into it; a depthwise convolution ties its input to its output, and so
does a squeeze-and-excitation gate what it scales (its inner width is a group of its own); a concatenation offsets the
channels of its parts; a grouped convolution lets channels go only in whole units (``channel_group``).

Nothing is believed of the graph that was not tried: what surgery cannot cut is left alone with its reason
(``ChannelGroup.why_fixed``), and the other groups are rehearsed on a copy (``rehearsal``) before they are offered, so
that a channel shuffle, a hard-coded shape or a layer that ``model(widths)`` ignores costs its group and not the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rig.compression.cutting.channel_group import WIDE_LAYERS, ChannelGroup, Member, Scale, layer_channels
from rig.compression.cutting.layouts import member_parts, rows_of_parts
from rig.compression.cutting.rehearsal import rehearse_groups
from rig.compression.cutting.tracing import CUT_LAYERS, count_runs, obstacles, tied_layers
from rig.errors import ModelError

__all__ = [
    "WIDE_LAYERS",
    "ChannelGroup",
    "Member",
    "Scale",
    "find_groups",
    "layer_channels",
    "require_prunable",
]

Build = Callable[[Mapping[str, int]], nn.Module]


def find_groups(
    model: nn.Module, example: Tensor, build: Build | None = None, like: Sequence[ChannelGroup] | None = None
) -> list[ChannelGroup]:
    """Every channel group of a model, in network order; those that must stay say why (``why_fixed``).

    example: one input batch, shape (1, channels, height, width). build: the task's ``model(widths)``; with it a layer
    that ``model(widths)`` does not narrow is found now and left alone, not after hours of training. like: the groups
    that were found in the seed network; ``model`` is a version of it (narrower, wider, without blocks), whose groups
    then have the same names and are left alone for the same reasons, without another rehearsal. Raises ModelError where
    the network does not run, or decides by the values of its data.
    """
    runs = count_runs(model, example)
    trouble = obstacles(model, runs)
    graph, tied = tied_layers(model, example)
    names = {module: name for name, module in model.named_modules()}
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    groups = []
    for raw in tied:
        members, why = _members(graph, raw, names, trouble)
        writers = [m for m in members if m.axis == "out" and isinstance(m.module, WIDE_LAYERS)]
        if writers:
            groups.append(_group(min((m.layer for m in writers), key=lambda n: order[n]), members, why))
    groups.sort(key=lambda g: order[g.name])
    _require_order(groups)
    if like is not None:
        return _follow(groups, like)
    rehearse_groups(model, groups, example, build)
    return groups


def _follow(groups: Sequence[ChannelGroup], like: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """The groups named as those of the seed network that hold their layers, the same ones left alone.

    What was one group and has fallen into two (the addition that tied them went with its block) stays one: the cost
    tables know one width.
    """
    before = {layer: g for g in like for layer in g.writers}
    followed: dict[str, ChannelGroup] = {}
    for group in groups:
        found = {before[layer].name: before[layer] for layer in group.writers if layer in before}
        if len(found) != 1:
            raise ModelError(
                f"the layers {', '.join(group.writers)} change together after cutting, but belong to "
                f"{', '.join(sorted(found)) or 'no group'} in the network as it was",
                "model(widths) must connect the layers in the same way at any widths: see docs/writing-a-task.md",
            )
        name, old = next(iter(found.items()))
        first = followed.get(name)
        if first is None:
            group.name, group.why_fixed = name, old.why_fixed or group.why_fixed
            followed[name] = group
        elif (first.width, first.quantum) == (group.width, group.quantum):
            first.members += group.members
        else:
            first.why_fixed = f"{', '.join(group.writers)} has another width than {', '.join(first.writers)}"
    return list(followed.values())


def require_prunable(groups: Sequence[ChannelGroup], blocks: Sequence[Any] = ()) -> None:
    """Raise ModelError where nothing can be taken out of a network: neither channels nor residual blocks."""
    if blocks or any(g.prunable for g in groups):
        return
    reasons = list(dict.fromkeys(g.why_fixed for g in groups))
    shown = "; ".join(reasons[:3]) or "it has no convolution and no linear layer"
    raise ModelError(
        f"nothing of the network can be compressed: {shown}"
        + (f"; and {len(reasons) - 3} more" if reasons[3:] else ""),
        "see 'What can be shrunk' in docs/writing-a-task.md",
    )


def _members(graph: Any, raw: Any, names: dict[nn.Module, str], trouble: Mapping[str, str]) -> tuple[list[Member], str]:
    """The layers of one of torch-pruning's groups, and why the group must stay as it is (empty if it need not)."""
    members: dict[tuple[str, str], Member] = {}
    whys: list[str] = []
    for item in raw:
        node, module = item.dep.target, item.dep.target.module
        is_out = graph.is_out_channel_pruning_fn(item.dep.handler)
        if is_out and not node.outputs:
            whys.insert(0, "its channels are the network's outputs")
        if isinstance(module, nn.Parameter):
            whys.append(f"the parameter {graph._param_to_name.get(module, '')} is used outside of any layer")
            continue
        name = names.get(module, "")
        if not name:
            continue
        if name in trouble:
            whys.append(trouble[name])
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            continue  # one slope for all channels: nothing to cut
        if not isinstance(module, CUT_LAYERS):
            whys.append(f"{name} is a {type(module).__name__}, which surgery does not cut")
            continue
        roots = getattr(item, "root_idxs", None)
        index = torch.tensor([int(i) for i in item.idxs])
        if roots is not None and any(i is None for i in roots):
            whys.append(f"the channels of {name} cannot be followed")
            continue
        root = torch.tensor([int(i) for i in roots]) if roots is not None else index
        member = Member(name, module, "out" if is_out else "in", index, root)
        members.setdefault((member.layer, member.axis), member)
    return list(members.values()), next(iter(whys), "")


def _group(name: str, members: Sequence[Member], why: str) -> ChannelGroup:
    """The group with its channels counted in units; why it must stay is completed."""
    channels = int(max(int(m.root.max()) for m in members)) + 1
    grouped = [m for m in members if isinstance(m.module, nn.Conv2d) and _is_grouped(m.module)]
    counts = {m.module.groups for m in grouped}
    if not why and grouped:
        why = _grouping_trouble(grouped, channels)
    quantum = counts.pop() if grouped and not why else 1
    width = channels // quantum
    in_units = [m._replace(root=m.root % width) for m in members]
    group = ChannelGroup(name, width, in_units, why, quantum)
    if group.prunable:
        lost = [m.layer for m in in_units if member_parts(group, m) is None]
        if lost:
            group.why_fixed = f"its channels lie in {lost[0]} in an order that is not understood"
    return group


def _is_grouped(conv: nn.Conv2d) -> bool:
    """Whether a convolution has groups and is not depthwise."""
    return conv.groups > 1 and not conv.groups == conv.in_channels == conv.out_channels


def _grouping_trouble(grouped: Sequence[Member], channels: int) -> str:
    """Why the grouped convolutions of one channel group cannot shrink together; empty if they can."""
    first = grouped[0]
    if len({m.module.groups for m in grouped}) > 1:
        return f"{first.layer} and {grouped[-1].layer} are grouped convolutions of different group counts"
    for m in grouped:
        length = m.module.out_channels if m.axis == "out" else m.module.in_channels
        whole = torch.arange(channels)
        in_order = torch.equal(m.index.sort().values, whole) and torch.equal(m.index, m.root)
        if length != channels or not in_order:
            return f"{m.layer} is a grouped convolution behind a concatenation or a split"
        if m.module.groups in (m.module.in_channels, m.module.out_channels):
            return f"{m.layer} is a depthwise convolution with a multiplier"
    return ""


def _require_order(groups: Sequence[ChannelGroup]) -> None:
    """Leave groups alone that claim channels of others: one channel can follow one group only."""
    try:
        rows_of_parts(groups)
    except ValueError:
        accepted: list[ChannelGroup] = []
        for group in groups:
            if not group.prunable:
                continue
            try:
                rows_of_parts([*accepted, group])
            except ValueError as error:
                group.why_fixed = str(error)
            else:
                accepted.append(group)
