"""What must change together: a channel group, its layers, and the parameters that say how alive its channels are.

A group counts *units*: what can go at once. A unit is one channel, or ``quantum`` channels where a grouped convolution
reads or writes the group (one channel of each of its convolution groups, so that they stay equal). Widths, importance,
norms, cost tables, choosers and the regularizer all count units, so that any whole number of them from 1 up is a width
that the network can have; only ``Template.layer_widths`` and the kernels' channels multiply by ``quantum``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rig.compression.cutting.gates import GATED
from rig.errors import BadInputError

WIDE_LAYERS = (nn.Conv2d, nn.Linear)
NORMS = (nn.modules.batchnorm._BatchNorm,)


def has_norms(network: nn.Module) -> bool:
    """Whether a network has batch-norms, which bear far higher rates of learning."""
    return any(isinstance(module, NORMS) for module in network.modules())


class Member(NamedTuple):
    """One side of one layer in a group: channel ``index[i]`` of its axis belongs to unit ``root[i]`` of the group."""

    layer: str
    module: nn.Module
    axis: str  # "out" or "in"
    index: Tensor
    root: Tensor


class Scale(NamedTuple):
    """Parameters that scale a group's channels: rows ``index`` of ``weight`` and ``bias`` belong to unit ``root``.

    ``plain``: row i is unit i and there are no others, as nearly everywhere, so that nothing has to be gathered.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    index: Tensor
    root: Tensor
    plain: bool

    @classmethod
    def of(cls, weight: nn.Parameter, bias: nn.Parameter | None, member: Member, width: int) -> Scale:
        """The parameters of a member of a group of so many units."""
        units = torch.arange(width)
        plain = len(weight) == width and torch.equal(member.index, units) and torch.equal(member.root, units)
        return cls(weight, bias, member.index, member.root, plain)

    def by_unit(self, values: Tensor, width: int) -> Tensor:
        """Σ over each unit's rows of ``values`` (rows, …), shape (width,)."""
        if self.plain:
            return values.flatten(1).sum(1) if values.dim() > 1 else values
        rows = values[self.index]
        return torch.zeros(width).index_add(0, self.root, rows.flatten(1).sum(1) if rows.dim() > 1 else rows)


class ChannelGroup:
    """Units 0 … width−1 that are kept or removed together, everywhere they occur.

    quantum: channels of each layer in a unit (see above); why_fixed: why nothing of the group may go, empty otherwise.
    put_back: why a surgery on it was undone (``verified_surgery``), which then keeps all of it.
    """

    def __init__(self, name: str, width: int, members: Sequence[Member], why_fixed: str = "", quantum: int = 1) -> None:
        self.name = name
        self.width = width
        self.members = list(members)
        self.why_fixed = why_fixed
        self.quantum = quantum
        self.put_back = ""

    @property
    def prunable(self) -> bool:
        """Whether channels of the group may be removed."""
        return not self.why_fixed

    @property
    def channels(self) -> int:
        """Output channels of each of its writers."""
        return self.width * self.quantum

    @property
    def writers(self) -> list[str]:
        """Names of the convolutions and linear layers whose output channels the group is."""
        return [m.layer for m in self.members if m.axis == "out" and isinstance(m.module, WIDE_LAYERS)]

    @property
    def scaled_by(self) -> str:
        """What ``scales`` are: "batch-norm"; "gates" where they were put in (``gates.with_gates``); else "filters"."""
        if any(isinstance(m.module, NORMS) and m.module.weight is not None for m in self.members):
            return "batch-norm"
        return "gates" if any(isinstance(m.module, GATED) and m.axis == "out" for m in self.members) else "filters"

    @cached_property
    def scales(self) -> list[Scale]:
        """The batch-norms of the group; where it has none, its gates, or else the filters themselves (group lasso)."""
        kind = self.scaled_by
        if kind == "batch-norm":
            norms = [m for m in self.members if isinstance(m.module, NORMS) and m.module.weight is not None]
            return [Scale.of(m.module.weight, m.module.bias, m, self.width) for m in norms]
        writers = [m for m in self.members if m.axis == "out" and isinstance(m.module, WIDE_LAYERS)]
        if kind == "gates":  # a closed gate takes the layer's bias along
            return [Scale.of(m.module.gate, None, m, self.width) for m in writers if isinstance(m.module, GATED)]
        return [Scale.of(m.module.weight, m.module.bias, m, self.width) for m in writers]

    def norms(self) -> Tensor:
        """L2 norm of each unit's scales and shifts over the whole group, shape (width,); 0 is a dead unit."""
        total = torch.zeros(self.width)
        for scale in self.scales:
            total = total + scale.by_unit(scale.weight**2, self.width)
            if scale.bias is not None:
                total = total + scale.by_unit(scale.bias**2, self.width)
        # The derivative of the root at zero is infinite: dead channels get no gradient instead.
        alive = total > 0
        return torch.where(alive, torch.where(alive, total, torch.ones_like(total)).sqrt(), torch.zeros_like(total))

    @torch.no_grad()
    def silence(self, units: Tensor) -> None:
        """Set the scales and shifts of these units (indices) to zero, so that they give nothing."""
        quiet = torch.zeros(self.width, dtype=torch.bool)
        quiet[units] = True
        for scale in self.scales:
            rows = scale.index[quiet[scale.root]]
            scale.weight[rows] = 0.0
            if scale.bias is not None:
                scale.bias[rows] = 0.0

    def on(self, network: nn.Module) -> ChannelGroup:
        """The same group with its members in ``network``, a copy of the one that it was found in."""
        modules = dict(network.named_modules())
        members = [m._replace(module=modules[m.layer]) for m in self.members]
        return ChannelGroup(self.name, self.width, members, self.why_fixed, self.quantum)


def layer_channels(
    groups: Iterable[ChannelGroup], widths: Mapping[str, int], gone: Iterable[str] = ()
) -> dict[str, int]:
    """The table for ``model(widths)``: output channels of every writer of a prunable group, but of layers ``gone``."""
    left_out = set(gone)
    return {
        layer: int(widths[g.name]) * g.quantum
        for g in groups
        if g.prunable
        for layer in g.writers
        if layer not in left_out
    }


def group_widths(
    groups: Iterable[ChannelGroup], table: Mapping[str, int], most: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Units of every group that a table of layers names: the inverse of ``layer_channels``.

    most: units that each group may have (without it: any). Raises BadInputError for a layer that no group writes or
    whose group is left alone, a width that the layer cannot have, and layers of one group at different widths.
    """
    of_layer = {layer: group for group in groups for layer in group.writers}
    found: dict[str, int] = {}
    said: dict[str, str] = {}
    for layer, channels in table.items():
        group = of_layer.get(layer)
        if group is None:
            raise BadInputError(
                f"the widths name {layer}, which is no layer of the network", "take its own widths file"
            )
        width, rest = divmod(channels, group.quantum)
        if not group.prunable and channels != group.channels:
            raise BadInputError(f"the widths give {layer} {channels} channels, but {group.why_fixed}", "leave it out")
        if rest or width < 1 or (most is not None and width > most[group.name]):
            up_to = " or more" if most is None else f" to {group.quantum * most[group.name]}"
            steps = f", in steps of {group.quantum}" if group.quantum > 1 else ""
            raise BadInputError(
                f"the widths give {layer} {channels} channels; it may have {group.quantum}{up_to}{steps}",
                "0 stands for the first layer of a residual block only, which removes the block",
            )
        if found.setdefault(group.name, width) != width:
            raise BadInputError(
                f"the widths give {said[group.name]} and {layer}, which change together, different widths",
                "give them the same",
            )
        said[group.name] = layer
    return found
