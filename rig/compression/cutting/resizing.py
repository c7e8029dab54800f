"""Layers resized in place of a network that is built anew: shapes for given widths, by surgery on the layers alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rig.compression.cutting.channel_group import ChannelGroup
from rig.compression.cutting.layouts import rows_of_parts


def resized(network: nn.Module, groups: Sequence[ChannelGroup], widths: Mapping[str, int]) -> nn.Module:
    """An untrained copy whose layers have the shapes of these widths (units, by group; the others as they are).

    Its values are drawn from those that the layer had, so that they follow the network's own initialization.
    """
    copied = copy.deepcopy(network)
    rows = rows_of_parts(groups)
    lengths = {axis: sum(p.length(int(widths.get(p.group, p.units))) for p in row) for axis, row in rows.items()}
    for layer, module in copied.named_modules():
        out, given = lengths.get((layer, "out")), lengths.get((layer, "in"))
        if out is None and given is None:
            continue
        _resize(module, out, given)
    return copied


def _resize(module: nn.Module, out: int | None, given: int | None) -> None:
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels == module.out_channels
        module.out_channels = module.out_channels if out is None else out
        module.in_channels = module.in_channels if given is None else given
        if depthwise and out is not None:
            module.in_channels = module.groups = out
        shape = (module.out_channels, module.in_channels // module.groups, *module.weight.shape[2:])
        _renew(module, "weight", shape)
    elif isinstance(module, nn.Linear):
        module.out_features = module.out_features if out is None else out
        module.in_features = module.in_features if given is None else given
        _renew(module, "weight", (module.out_features, module.in_features))
    elif out is not None:
        if isinstance(module, nn.PReLU):
            module.num_parameters = out
        else:
            module.num_features = out  # type: ignore[assignment]
        for name in ("weight", "running_mean", "running_var"):
            _renew(module, name, (out,))
    if out is not None:
        for name in ("bias", "gate"):
            _renew(module, name, (out,))


def _renew(module: nn.Module, name: str, shape: Sequence[int]) -> None:
    old = getattr(module, name, None)
    if isinstance(old, Tensor):
        new = _drawn(old.detach(), shape)
        setattr(module, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _drawn(old: Tensor, shape: Sequence[int]) -> Tensor:
    """Values of another shape drawn from the old ones; weights, (out, in, …), for the number of inputs they sum now."""
    values = old.flatten()[torch.randint(old.numel(), tuple(shape))]
    return values * math.sqrt(math.prod(old.shape[1:]) / math.prod(shape[1:])) if len(shape) > 1 else values
