"""What a channel that goes leaves behind: its constant, folded into the layers that read it.

A channel whose batch-norm scale is 0 still gives act(β), everywhere and for every input; taking it out shifts each
layer that reads it by ``c · Σ w``, the sum over the weights of that channel. The shift goes into the reader's bias, or,
where the reader has none, into the running mean of the batch-norm that takes its output (``μ ← μ − c · Σ w``).

- The constant is measured, not derived: the mean of the channel at its reader over a batch. So it is right behind any
  activation, addition, pooling or flattening, and for a channel that is not quite constant it is the best constant.
  ``Folded.spread`` says how far from constant it was; 0 for a scale of exactly 0.
- Exact for linear layers and for convolutions without padding. A convolution that pads with zeros reads less of the
  constant at its border: there, and only there, the narrow network differs.
- A running mean matters in inference only: in training a batch-norm takes the shift out by itself, and
  ``surgery.reestimate_norms`` afterwards takes the border's share into the mean too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rig.compression.cutting.channel_group import NORMS, WIDE_LAYERS, ChannelGroup
from rig.compression.cutting.tracing import in_inference


class Folded(NamedTuple):
    """One layer that read channels which go.

    channels: how many; into: "bias", "running mean", or "" where there was nowhere to put it (the shift is lost);
    spread: largest deviation of these channels from their means, over the batch; border: the layer pads with zeros.
    """

    layer: str
    channels: int
    into: str
    spread: float
    border: bool


def fold_constants(
    network: nn.Module, groups: Iterable[ChannelGroup], dropped: Mapping[str, Sequence[int]], inputs: Tensor
) -> list[Folded]:
    """Stop every layer from reading the dropped units, their means made up for, in place; the record of each layer.

    groups: prunable groups, found in ``network`` or in a network of the same layers; inputs: a batch as the task's.
    """
    indices = read_channels(groups, dropped)
    if not indices:
        return []
    means, spreads, followed = _observed(network, indices, inputs)
    modules = dict(network.named_modules())
    found = []
    for layer, index in indices.items():
        module = modules[layer]
        with torch.no_grad():
            shift = _shift(module, index, means[layer])
            into = _put(module, followed.get(layer), shift)
            unread(module, index)
        found.append(Folded(layer, len(index), into, spreads[layer], _pads_with_zeros(module)))
    return found


def read_channels(groups: Iterable[ChannelGroup], dropped: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """By layer, the input channels that belong to the dropped units."""
    found: dict[str, list[Tensor]] = {}
    for group in groups:
        units = torch.tensor(list(dropped.get(group.name, [])), dtype=torch.long)
        for member in group.members if len(units) else []:
            if member.axis == "in" and isinstance(member.module, WIDE_LAYERS):
                found.setdefault(member.layer, []).append(member.index[torch.isin(member.root, units)])
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def unread(module: nn.Module, index: Tensor) -> None:
    """Set the weights to zero with which a layer reads the input channels ``index``."""
    with torch.no_grad():
        if isinstance(module, nn.Linear):
            module.weight[:, index] = 0.0
            return
        read = torch.ones(module.in_channels, dtype=module.weight.dtype)
        read[index] = 0.0
        weight = module.weight
        inside = weight.view(module.groups, -1, *weight.shape[1:])
        inside *= read.view(module.groups, 1, -1, 1, 1)


def _observed(
    network: nn.Module, indices: Mapping[str, Tensor], inputs: Tensor
) -> tuple[dict[str, Tensor], dict[str, float], dict[str, nn.Module]]:
    """One pass: means and largest deviations of the channels read, and the batch-norm right behind each layer."""
    means: dict[str, Tensor] = {}
    spreads: dict[str, float] = {}
    followed: dict[str, nn.Module] = {}
    outputs: dict[int, tuple[str, Tensor]] = {}

    def reads(layer: str) -> Any:
        def hook(module: nn.Module, given: Any) -> None:
            x = given[0].movedim(1 if isinstance(module, nn.Conv2d) else -1, 0)[indices[layer]].flatten(1)
            means[layer] = x.mean(1)
            spreads[layer] = float((x - means[layer][:, None]).abs().max())

        return hook

    def writes(layer: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            outputs[id(output)] = (layer, output)  # held, so that the id stays its own

        return hook

    def takes(module: nn.Module, given: Any) -> None:
        if id(given[0]) in outputs:
            followed[outputs[id(given[0])][0]] = module

    modules = dict(network.named_modules())
    hooks = [modules[layer].register_forward_pre_hook(reads(layer)) for layer in indices]
    hooks += [modules[layer].register_forward_hook(writes(layer)) for layer in indices]
    hooks += [m.register_forward_pre_hook(takes) for m in network.modules() if isinstance(m, NORMS)]
    try:
        with in_inference(network), torch.no_grad():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return means, spreads, followed


def _shift(module: nn.Module, index: Tensor, means: Tensor) -> Tensor:
    """By how much the outputs of a layer move for constants ``means`` on the input channels ``index``, (c_out,)."""
    if isinstance(module, nn.Linear):
        return module.weight[:, index] @ means
    constants = torch.zeros(module.in_channels, dtype=module.weight.dtype)
    constants[index] = means
    weights = module.weight.sum((2, 3)).view(module.groups, -1, module.weight.shape[1])
    return (weights * constants.view(module.groups, 1, -1)).sum(-1).flatten()


def _put(module: nn.Module, norm: nn.Module | None, shift: Tensor) -> str:
    if getattr(module, "bias", None) is not None:
        module.bias += shift
        return "bias"
    if norm is not None and getattr(norm, "running_mean", None) is not None:
        norm.running_mean -= shift
        return "running mean"
    return ""


def _pads_with_zeros(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros" or module.padding == "valid":
        return False
    return module.padding == "same" or any(int(p) > 0 for p in module.padding)
