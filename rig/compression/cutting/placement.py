"""Where every weight of a network goes when its channels do, and the moving of it.

``placements`` is the plan (computed from the groups' layouts alone), ``Placement.move`` carries it out for one tensor:
weights, running statistics, and just as well an optimizer's momentum of a weight.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rig.compression.cutting.channel_group import ChannelGroup
from rig.compression.cutting.layouts import Axis, AxisMap, Part, axis_length, axis_map, rows_of_parts
from rig.errors import ModelError


class Placement(NamedTuple):
    """Where the values of one parameter or buffer go: an axis map for each of its leading axes (at most two)."""

    axes: tuple[AxisMap, ...]

    def shape(self, old: Tensor) -> tuple[int, ...]:
        """The shape that the narrow network's tensor must have."""
        return (*(a.length for a in self.axes), *old.shape[len(self.axes) :])

    def move(self, old: Tensor, new: Tensor) -> None:
        """Copy into ``new`` in place what is kept; inputs that are new get zeros, outputs that are new stay fresh.

        Momentum and other per-weight state of an optimizer move the same way (into zeros).
        """
        if not self.axes:
            new.copy_(old)
            return
        rows = self.axes[0]
        with torch.no_grad():
            if len(self.axes) == 1:
                new[rows.target] = old[rows.source].to(new.dtype)
                return
            columns = self.axes[1]
            fresh = torch.ones(new.shape[1], dtype=torch.bool)
            fresh[columns.target] = False
            new[:, fresh] = 0.0
            new[rows.target[:, None], columns.target] = old[rows.source[:, None], columns.source].to(new.dtype)


def placements(
    model: nn.Module, groups: Iterable[ChannelGroup], kept: Mapping[str, Sequence[int]], widths: Mapping[str, int]
) -> dict[str, Placement]:
    """For every parameter and buffer of ``model``: where its values go in the network at ``widths``.

    Tensors of layers that no group cuts map onto themselves.
    """
    rows = rows_of_parts(groups)
    found: dict[str, Placement] = {}
    for layer, module in model.named_modules():
        named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        touched = (layer, "out") in rows or (layer, "in") in rows
        for tensor, value in named:
            name = f"{layer}.{tensor}" if layer else tensor
            found[name] = _placement(layer, module, value, rows, kept, widths) if touched else Placement(())
    return found


def _placement(
    layer: str,
    module: nn.Module,
    value: Tensor,
    rows: Mapping[Axis, Sequence[Part]],
    kept: Mapping[str, Sequence[int]],
    widths: Mapping[str, int],
) -> Placement:
    if not value.dim():
        return Placement(())
    out = _mapped(layer, module, "out", rows, kept, widths)
    if value.dim() == 1 or not isinstance(module, (nn.Conv2d, nn.Linear)):
        return Placement((out,))
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return Placement((out, _within_group(layer, module, rows, kept, widths)))
    return Placement((out, _mapped(layer, module, "in", rows, kept, widths)))


def _mapped(
    layer: str,
    module: nn.Module,
    axis: str,
    rows: Mapping[Axis, Sequence[Part]],
    kept: Mapping[str, Sequence[int]],
    widths: Mapping[str, int],
) -> AxisMap:
    row = rows.get((layer, axis)) or [Part("", 0, axis_length(module, axis))]
    return axis_map(row, kept, widths)


def _within_group(
    layer: str,
    conv: nn.Conv2d,
    rows: Mapping[Axis, Sequence[Part]],
    kept: Mapping[str, Sequence[int]],
    widths: Mapping[str, int],
) -> AxisMap:
    """The second axis of a grouped convolution's weights: the inputs of one group, in the same places in each."""
    row = rows.get((layer, "in"))
    inside = row[0]._replace(blocks=1, start=0) if row else Part("", 0, conv.in_channels // conv.groups)
    return axis_map([inside], kept, widths)


def place_weights(
    source: nn.Module,
    target: nn.Module,
    places: Mapping[str, Placement],
    removed: Collection[str] = (),
    gone: Collection[str] = (),
) -> None:
    """Move every tensor of ``source`` to its place in ``target``; raises ModelError where the two do not fit.

    removed: blocks, and gone: tensors, that only ``source`` has.
    """
    have = {**dict(source.named_parameters()), **dict(source.named_buffers())}
    want = [*target.named_parameters(), *target.named_buffers()]
    with torch.no_grad():
        for name, wanted in want:
            if name not in have:
                raise ModelError(
                    f"model(widths) has the parameter {name}, which the trained network lacks",
                    "model(widths) must keep the names of the layers: see docs/writing-a-task.md",
                )
            asked = places[name].shape(have[name])
            if tuple(wanted.shape) != asked:
                raise ModelError(
                    f"model(widths) gives {name} the shape {tuple(wanted.shape)}; the widths ask for {asked}",
                    "model(widths) must apply the widths that it is given: see docs/writing-a-task.md",
                )
            places[name].move(have[name], wanted)
    left = set(have) - {n for n, _ in want} - set(gone)
    strange = [n for n in left if not any(n.startswith(f"{block}.") for block in removed)]
    if strange:
        raise ModelError(
            f"model(widths) lacks {', '.join(sorted(strange)[:3])} of the trained network",
            "width 0 must remove only the residual block that it names: see docs/writing-a-task.md",
        )
