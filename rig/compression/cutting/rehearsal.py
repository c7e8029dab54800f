"""Every cut is tried on a copy with random weights before it is offered: a group that does not survive is left alone.

    copy, random weights ──► masked: layers stop reading half of each group ──┐
                        └──► cut:    those channels are gone for real ────────┴──► equal in every layer?

Random weights, because a trained or zero-initialized layer can hide a wrong cut, and every layer's output, because a
saturated softmax can. It finds what no list of unsupported layers would: channel shuffles, shapes written into the
code, normalization over channels, tensors made for one width, layers that ``model(widths)`` does not narrow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rig.compression.cutting.channel_group import WIDE_LAYERS, ChannelGroup, layer_channels
from rig.compression.cutting.folding import read_channels, unread
from rig.compression.cutting.layouts import AxisMap, axis_map, rows_of_parts
from rig.compression.cutting.placement import place_weights, placements
from rig.compression.cutting.resizing import resized
from rig.compression.cutting.tracing import FOREIGN_ERRORS, in_inference
from rig.errors import RigError

Build = Callable[[Mapping[str, int]], nn.Module]
TOLERANCE = 1e-4  # of a layer's largest output; sums of float32 in another order stay a hundred times below
PROBES = 2  # inputs in the batch


def rehearse_groups(
    model: nn.Module, groups: Sequence[ChannelGroup], example: Tensor, build: Build | None = None
) -> None:
    """Cut half of every prunable group and compare; those that do not come out equal get their ``why_fixed``.

    build: the task's ``model(widths)``, which makes the narrow network; without it the layers of a copy are resized.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stage = scrambled(model)
        inputs = torch.randn(PROBES, *example.shape[1:]).to(example.dtype)
        if build is None:
            _rehearse(stage, groups, inputs, lambda chosen, widths: resized(stage, chosen, widths))
        else:
            _rehearse(stage, groups, inputs, lambda chosen, widths: build(layer_channels(chosen, widths)))


def _rehearse(
    stage: nn.Module,
    groups: Sequence[ChannelGroup],
    inputs: Tensor,
    make: Callable[[Sequence[ChannelGroup], Mapping[str, int]], nn.Module],
) -> None:
    candidates = [g for g in groups if g.prunable]
    if not candidates or not _trouble(stage, candidates, inputs, make):
        return
    accepted: list[ChannelGroup] = []
    for group in candidates:
        why = _trouble(stage, [*accepted, group], inputs, make)
        if why:
            group.why_fixed = why
        else:
            accepted.append(group)


def _trouble(
    stage: nn.Module,
    groups: Sequence[ChannelGroup],
    inputs: Tensor,
    make: Callable[[Sequence[ChannelGroup], Mapping[str, int]], nn.Module],
) -> str:
    """What goes wrong when half of each group's units are cut; empty if nothing does."""
    kept = {g.name: sorted(torch.randperm(g.width)[: max(1, g.width // 2)].tolist()) for g in groups}
    widths = {name: len(units) for name, units in kept.items()}
    try:
        target = make(groups, widths)
        place_weights(stage, target, placements(stage, groups, kept, widths))
        return difference(masked(stage, groups, kept), target, groups, kept, widths, inputs)
    except RigError as error:
        return error.message
    except FOREIGN_ERRORS as error:
        return f"without half of its channels the network does not run: {type(error).__name__}: {_line(error)}"


def difference(
    reference: nn.Module,
    narrow: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    widths: Mapping[str, int],
    inputs: Tensor,
) -> str:
    """Where a narrow network does not compute what the masked one does, layer by layer; empty if it does everywhere.

    ``narrow`` may lack layers of ``reference`` (removed blocks).
    """
    rows = rows_of_parts(groups)
    layers = {name for name, m in narrow.named_modules() if isinstance(m, WIDE_LAYERS)}
    expected, outputs = observed(reference, layers, inputs)
    found, ends = observed(narrow, layers, inputs)
    for layer, wide in expected.items():
        if layer not in found:
            return f"{layer} does not run any more"
        row = rows.get((layer, "out"))
        places = axis_map(row, kept, widths) if row else None
        off = _off(wide, found[layer], places, isinstance(reference.get_submodule(layer), nn.Conv2d))
        if off:
            return f"what {layer} gives is another without them ({off})"
    for wide, end in zip(outputs, ends, strict=True):
        off = _off(wide, end, None, False)
        if off:
            return f"what the network gives is another without them ({off})"
    return ""


def _off(wide: Tensor, narrow: Tensor, places: AxisMap | None, image: bool) -> str:
    """By how much two outputs differ on the channels that both have; empty if they do not."""
    if places is not None:
        axis = 1 if image else -1
        wide, narrow = wide.index_select(axis, places.source), narrow.index_select(axis, places.target)
    if wide.shape != narrow.shape:
        return f"shape {tuple(narrow.shape)} in place of {tuple(wide.shape)}"
    if not wide.is_floating_point():
        return "" if torch.equal(wide, narrow) else "other values"
    largest = float(wide.abs().max()) if wide.numel() else 0.0
    error = float((wide - narrow).abs().max()) if wide.numel() else 0.0
    return "" if error <= TOLERANCE * max(largest, 1e-12) else f"{error / max(largest, 1e-12):.1e} of its largest value"


def observed(network: nn.Module, layers: Collection[str], inputs: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
    """What each layer gives (inference mode), in the order in which they run, and what the network gives."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            seen[name] = output.detach().clone()

        return hook

    hooks = [m.register_forward_hook(watch(name)) for name, m in network.named_modules() if name in layers]
    try:
        with in_inference(network), torch.no_grad():
            outputs = network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen, [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def masked(network: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of full width in which no layer reads the channels that are not kept: what a cut must equal."""
    copied = copy.deepcopy(network)
    dropped = {g.name: sorted(set(range(g.width)) - set(kept.get(g.name, range(g.width)))) for g in groups}
    for layer, index in read_channels(groups, dropped).items():
        unread(copied.get_submodule(layer), index)
    return copied


def scrambled(model: nn.Module) -> nn.Module:
    """A copy with random weights and statistics, of sizes that neither vanish nor explode through many layers."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in [*copied.named_parameters(), *copied.named_buffers()]:
            if not value.is_floating_point() or not value.dim():
                continue
            last = name.rpartition(".")[2]
            if value.dim() > 1:
                fan_in = max(value.numel() // value.shape[0], 1)
                value.normal_(0.0, (2.0 / fan_in) ** 0.5)
            elif last in ("bias", "running_mean"):
                value.uniform_(-0.3, 0.3)
            elif last in ("weight", "running_var", "gate"):
                value.uniform_(0.5, 1.5)
    return copied


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:120]
