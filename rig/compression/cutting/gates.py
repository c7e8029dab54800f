"""Gates: one factor a channel behind a convolution or linear layer that has no batch-norm, folded away before export.

MorphNet shrinks batch-norm scales; where a network has none there are two ways. Without gates the filters themselves
are the scales (group lasso: Yuan and Lin, JRSS B 2006; Wen et al., NIPS 2016), whose size depends on fan-in and weight
decay. With gates (Liu et al., ICCV 2017, use the batch-norm's; Guo et al., arXiv 2003.12563, factors of their own)
each channel has one trained factor g that starts at 1, as a batch-norm scale would: ``y = g · (W x + b)``. It is one or
the other, and ``ChannelGroup.scaled_by`` says which:

    gated = with_gates(network, groups)            # only where a group has no batch-norm
    template = template.on(gated)                  # the groups' scales are the gates now
    …train…; narrow(gated, …)                      # folds them: the narrow network has none

The factor multiplies the weights, not the output, so that folding, ``W ← g·W, b ← g·b``, is the same arithmetic.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from rig.compression.cutting.channel_group import ChannelGroup


class GatedConv2d(nn.Conv2d):
    """A convolution whose output channels are multiplied by ``gate``, shape (out_channels,)."""

    gate: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) → (n, c_out, h', w')."""
        bias = None if self.bias is None else self.bias * self.gate
        return self._conv_forward(x, self.weight * self.gate.view(-1, 1, 1, 1), bias)


class GatedLinear(nn.Linear):
    """A linear layer whose outputs are multiplied by ``gate``, shape (out_features,)."""

    gate: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """(…, features in) → (…, features out)."""
        bias = None if self.bias is None else self.bias * self.gate
        return F.linear(x, self.weight * self.gate.view(-1, 1), bias)


GATED = (GatedConv2d, GatedLinear)


def with_gates(network: nn.Module, groups: Iterable[ChannelGroup]) -> nn.Module:
    """A copy with open gates behind every writer of the prunable groups that have no batch-norm.

    The function is the same, and so are the names of the layers; ``gate`` is one more parameter of each. Where a writer
    is of a class of its own (its forward pass is not ours to rewrite) the group keeps its filters as scales.
    """
    gated = copy.deepcopy(network)
    layers = []
    for group in groups:
        plain = all(type(gated.get_submodule(layer)) in (nn.Conv2d, nn.Linear) for layer in group.writers)
        if group.prunable and group.scaled_by == "filters" and plain:
            layers += group.writers
    return gate_layers(gated, layers)


def gate_layers(network: nn.Module, layers: Iterable[str]) -> nn.Module:
    """Put open gates behind these convolutions and linear layers, those that the network has, in place."""
    there = dict(network.named_modules())
    for layer in layers:
        if layer in there:
            _put(network, layer, _gated(there[layer]))
    return network


def gated_layers(network: nn.Module) -> list[str]:
    """The layers that have gates, in the order in which the network lists them."""
    return [name for name, module in network.named_modules() if isinstance(module, GATED)]


def fold_gates(network: nn.Module) -> nn.Module:
    """Multiply every gate into its layer and take it out, in place; the function stays exactly the same."""
    for layer, module in list(network.named_modules()):
        if isinstance(module, GATED):
            _put(network, layer, _folded(module))
    return network


def _gated(module: nn.Module) -> nn.Module:
    made: nn.Module = _like(module, GatedConv2d) if isinstance(module, nn.Conv2d) else _like_linear(module, GatedLinear)
    made.weight, made.bias = module.weight, module.bias
    made.gate = nn.Parameter(torch.ones(made.weight.shape[0], dtype=made.weight.dtype))
    return made.train(module.training)


def _folded(module: nn.Module) -> nn.Module:
    made: nn.Module = _like(module, nn.Conv2d) if isinstance(module, nn.Conv2d) else _like_linear(module, nn.Linear)
    with torch.no_grad():
        gate = module.gate
        made.weight.copy_(module.weight * gate.view(-1, *[1] * (module.weight.dim() - 1)))
        if module.bias is not None:
            made.bias.copy_(module.bias * gate)
    return made.train(module.training)


def _like(conv: nn.Conv2d, kind: type[nn.Conv2d]) -> nn.Conv2d:
    return kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        dtype=conv.weight.dtype,
    )


def _like_linear(linear: nn.Module, kind: type[nn.Linear]) -> nn.Linear:
    return kind(linear.in_features, linear.out_features, linear.bias is not None, dtype=linear.weight.dtype)


def _put(network: nn.Module, layer: str, module: nn.Module) -> None:
    parent, _, name = layer.rpartition(".")
    setattr(network.get_submodule(parent), name, module)
