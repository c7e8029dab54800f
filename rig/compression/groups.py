"""Channel groups: channels that must change together, from torch-pruning's dependency graph.

A residual addition ties every layer that writes into it; a depthwise convolution ties its input to its output; a
concatenation offsets the channels of its parts. Only the graph of torch-pruning is used (Fang et al., DepGraph,
CVPR 2023), none of its pruners.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rig.errors import ModelError

WIDE_LAYERS = (nn.Conv2d, nn.Linear)


class Member(NamedTuple):
    """One side of one layer in a group: channel ``index[i]`` of its axis is channel ``root[i]`` of the group."""

    layer: str
    module: nn.Module
    axis: str  # "out" or "in"
    index: Tensor
    root: Tensor


class Scale(NamedTuple):
    """Parameters that scale a group's channels: rows ``index`` of ``weight`` and ``bias`` belong to ``root``."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    index: Tensor
    root: Tensor


class ChannelGroup:
    """Channels 0 … width−1 that are kept or removed together, everywhere they occur."""

    def __init__(self, name: str, width: int, members: Sequence[Member], why_fixed: str = "") -> None:
        self.name = name
        self.width = width
        self.members = list(members)
        self.why_fixed = why_fixed

    @property
    def prunable(self) -> bool:
        """Whether channels of the group may be removed."""
        return not self.why_fixed

    @property
    def writers(self) -> list[str]:
        """Names of the convolutions and linear layers whose output channels the group is."""
        return [m.layer for m in self.members if m.axis == "out" and isinstance(m.module, WIDE_LAYERS)]

    @property
    def scales(self) -> list[Scale]:
        """The batch-norms of the group; where it has none, the filters themselves (group lasso)."""
        norms = [m for m in self.members if isinstance(m.module, nn.modules.batchnorm._BatchNorm)]
        chosen = norms or [m for m in self.members if m.axis == "out" and isinstance(m.module, WIDE_LAYERS)]
        return [Scale(m.module.weight, m.module.bias, m.index, m.root) for m in chosen if m.module.weight is not None]

    def norms(self) -> Tensor:
        """L2 norm of each channel's scales and shifts over the whole group, shape (width,); 0 is a dead channel."""
        total = torch.zeros(self.width)
        for scale in self.scales:
            total = total.index_add(0, scale.root, _row_energy(scale.weight, scale.index))
            if scale.bias is not None:
                total = total.index_add(0, scale.root, scale.bias[scale.index] ** 2)
        # The derivative of the root at zero is infinite: dead channels get no gradient instead.
        alive = total > 0
        return torch.where(alive, torch.where(alive, total, torch.ones_like(total)).sqrt(), torch.zeros_like(total))


def _row_energy(weight: Tensor, index: Tensor) -> Tensor:
    rows = weight[index]
    return rows**2 if rows.dim() == 1 else (rows**2).flatten(1).sum(1)


def dependency_graph(model: nn.Module, example: Tensor) -> Any:
    """torch-pruning's graph of a model; raises ModelError where it cannot be traced."""
    import torch_pruning

    was_training = model.training
    model.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch_pruning.DependencyGraph().build_dependency(model, example)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(
            f"the dependency graph of the network cannot be built: {type(error).__name__}: {error}",
            "networks with control flow that depends on data cannot be pruned",
        ) from error
    finally:
        model.train(was_training)


def find_groups(model: nn.Module, example: Tensor) -> list[ChannelGroup]:
    """Every channel group of a model, in network order; those that must stay say why.

    example: one input batch, shape (1, channels, height, width).
    """
    graph = dependency_graph(model, example)
    names = {module: name for name, module in model.named_modules()}
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    groups = []
    for raw in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        members, why = _members(graph, raw, names)
        writers = [m for m in members if m.axis == "out" and isinstance(m.module, WIDE_LAYERS)]
        if not writers:
            continue
        name = min((m.layer for m in writers), key=lambda n: order[n])
        width = int(max(int(m.root.max()) for m in members)) + 1
        groups.append(ChannelGroup(name, width, members, why))
    groups.sort(key=lambda g: order[g.name])
    return groups


def _members(graph: Any, raw: Any, names: dict[nn.Module, str]) -> tuple[list[Member], str]:
    """The layers of one of torch-pruning's groups, and why the group must stay as it is (empty if it need not)."""
    members: dict[tuple[str, str], Member] = {}
    why = ""
    for item in raw:
        node, module = item.dep.target, item.dep.target.module
        is_out = graph.is_out_channel_pruning_fn(item.dep.handler)
        if is_out and not node.outputs:
            why = "its channels are the network's outputs"
        if module not in names or not names[module]:
            continue
        grouped = isinstance(module, nn.Conv2d) and 1 < module.groups < module.in_channels
        if grouped:
            why = why or f"{names[module]} is a grouped convolution"
        roots = getattr(item, "root_idxs", None)
        index = torch.tensor([int(i) for i in item.idxs])
        root = torch.tensor([int(i) for i in roots]) if roots is not None else index
        member = Member(names[module], module, "out" if is_out else "in", index, root)
        members.setdefault((member.layer, member.axis), member)
    return list(members.values()), why
