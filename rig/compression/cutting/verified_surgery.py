"""Surgery that is checked every time: what does not come out as the same function is undone and named.

    narrow ──► a forward pass ──► equal to the masked network, layer by layer ──► ONNX Runtime gives what torch gives
                     └──────────────────────┴── no: the group or block at fault is put back, the rest is tried again

Masked is the wide network in which no layer reads the channels that go and removed branches give zeros: it computes
what the narrow one must. A group that was put back is left alone from then on (``ChannelGroup.put_back``).

``rehearsed`` does the same for residual blocks before anything is trained, as ``groups.find_groups`` does for groups.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rig.compression.cutting.bypass import silenced
from rig.compression.cutting.channel_group import NORMS
from rig.compression.cutting.folding import fold_constants
from rig.compression.cutting.gates import fold_gates
from rig.compression.cutting.rehearsal import difference, masked, scrambled
from rig.compression.cutting.surgery import Narrowing, narrow
from rig.compression.cutting.template import Template
from rig.compression.cutting.tracing import FOREIGN_ERRORS, in_inference
from rig.compression.export import save_checked
from rig.errors import ModelError, RigError

Build = Callable[[Mapping[str, int]], nn.Module]


class Verified(NamedTuple):
    """A narrow network that is what it should be; ``refused``: groups and blocks that were put back, and why.

    widths, removed: what was built, which is what was asked less what was refused (and groups that must stay).
    """

    network: nn.Module
    widths: dict[str, int]
    removed: list[str]
    refused: dict[str, str]


def verified_narrow(
    model: nn.Module,
    build: Build,
    template: Template,
    to: Narrowing,
    example: Tensor,
    constants: Tensor | None = None,
    onnx: bool = True,
) -> Verified:
    """``surgery.narrow``, checked; what fails is put back one group or block at a time.

    onnx: export too, and compare ONNX Runtime with torch (seconds). Groups that were put back say so
    (``ChannelGroup.put_back``) and are not tried again.
    Raises ModelError where even the network as it was does not pass.
    """
    staying = {g.name: g.width for g in template.groups if g.put_back or not g.prunable}
    widths = {**to.widths, **staying}
    kept = {name: units for name, units in to.kept.items() if name not in staying}
    asked = [g.name for g in template.groups if _changes(g.width, kept.get(g.name), widths[g.name])]
    changes = [*asked, *to.removed]
    seed = template.seed_widths()

    def only(chosen: Sequence[str]) -> Narrowing:
        wide = {g for g in asked if g not in chosen}
        return Narrowing(
            {name: seed[name] if name in wide else int(width) for name, width in widths.items()},
            [b for b in to.removed if b in chosen],
            {name: units for name, units in kept.items() if name not in wide},
        )

    def attempt(tried: Narrowing) -> tuple[nn.Module | None, str]:
        try:
            found = narrow(model, build, template, tried, example, constants)
            why = unequal(model, found, template, tried, example, constants)
            if not why and onnx:
                _require_exportable(found, example)
        except RigError as error:
            return None, error.message
        except FOREIGN_ERRORS as error:
            return None, f"{type(error).__name__}: {error}"
        return (None if why else found), why

    done = only(changes)
    network, first = attempt(done)
    why = first
    refused: dict[str, str] = {}
    if network is None:
        refused, accepted = _at_fault(changes, lambda chosen: attempt(only(chosen))[1])
        done = only(accepted)
        network, why = attempt(done)
    if network is None:
        raise ModelError(
            f"the network cannot be rebuilt as it is: {why}" + (f"; as chosen: {first}" if first != why else ""),
            "see docs/writing-a-task.md, model(widths)",
        )
    for group in template.groups:
        group.put_back = group.put_back or refused.get(group.name, "")
    return Verified(network, dict(done.widths), list(done.removed), refused)


def unequal(
    model: nn.Module,
    found: nn.Module,
    template: Template,
    to: Narrowing,
    example: Tensor,
    constants: Tensor | None = None,
) -> str:
    """Where a narrow network does not compute what the masked one does; empty if it is the same function.

    constants: as given to ``narrow``, if it folded any.
    """
    cut = to.cut(template)
    wide: nn.Module = fold_gates(masked(model, [], {}))
    if constants is not None:
        fold_constants(wide, cut, to.dropped(cut), constants)
    else:
        wide = masked(wide, cut, to.kept)
    inputs = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example.dtype)
    there = {name for name, _ in wide.named_modules()}
    for block in template.blocks:
        if block.name in to.removed and there.issuperset(block.layers):  # else it went before
            wide = _silent(wide, block.layers, inputs)
    return difference(wide, found, cut, to.kept, to.widths, inputs)


def _silent(network: nn.Module, layers: Sequence[str], inputs: Tensor) -> nn.Module:
    """A copy whose residual branch of ``layers`` gives zeros: in its traced graph, or, where it has none, by a hook.

    The hook is on the batch-norm behind the branch's last layer, or on that layer. What comes behind it and is not zero
    at zero shows as a difference.
    """
    try:
        return silenced(network, layers)
    except ModelError:
        quiet = copy.deepcopy(network)
        end = _end_of_branch(quiet, layers[-1], inputs)
        end.register_forward_hook(lambda module, given, output: torch.zeros_like(output))
        return quiet


def _end_of_branch(network: nn.Module, last: str, inputs: Tensor) -> nn.Module:
    """The batch-norm that takes what the layer ``last`` gives, or that layer."""
    layer = network.get_submodule(last)
    found, given_on = [layer], []
    hooks = [layer.register_forward_hook(lambda module, given, output: given_on.append(output))]
    for norm in (m for m in network.modules() if isinstance(m, NORMS)):
        hooks.append(
            norm.register_forward_pre_hook(
                lambda module, given: found.append(module) if any(given[0] is one for one in given_on) else None
            )
        )
    try:
        with in_inference(network), torch.no_grad():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1]


def rehearsed(network: nn.Module, build: Build, template: Template, example: Tensor) -> Template:
    """The template with the blocks that can really go; the others are in ``refused``, each with its reason.

    Each is taken out of a copy with random weights, as ``narrow`` would (by ``model(widths)`` or by ``bypass``).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stage = scrambled(network)
        seed = template.seed_widths()

        def trouble(chosen: Sequence[str]) -> str:
            try:
                without = Narrowing(seed, chosen)
                found = narrow(stage, build, template, without, example)
                return unequal(stage, found, template, without, example)
            except RigError as error:
                return error.message
            except FOREIGN_ERRORS as error:
                return f"without it the network does not run: {type(error).__name__}: {error}"

        names = [b.name for b in template.blocks]
        if not names or not trouble(names):
            return template
        refused, _ = _at_fault(names, trouble)
    staying = [b for b in template.blocks if b.name not in refused]
    return template._replace(blocks=staying, refused=tuple(sorted(refused.items())))


def _at_fault(changes: Sequence[str], trouble: Callable[[Sequence[str]], str]) -> tuple[dict[str, str], list[str]]:
    """Changes that fail on top of the ones that went well before them, with why, and those that went well."""
    refused: dict[str, str] = {}
    accepted: list[str] = []
    for change in changes:
        why = trouble([*accepted, change])
        if why:
            refused[change] = why
        else:
            accepted.append(change)
    return refused, accepted


def _changes(width: int, kept: Sequence[int] | None, wanted: int) -> bool:
    return wanted != width or (kept is not None and list(kept) != list(range(width)))


def _require_exportable(network: nn.Module, example: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_checked(network, example.shape[1:], Path(folder) / "narrow.onnx")
