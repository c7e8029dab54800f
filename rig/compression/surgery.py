"""Narrow a trained network for real: keep chosen channels of each group, drop removed blocks, grow where asked.

The narrow network is always built by the task's own ``model(widths)``, so that the table of widths rebuilds it; the
weights come from a copy of the trained network that torch-pruning's dependency graph has cut (its index bookkeeping
through concatenations and flattened images), or keep their place where a layer grew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from rig.compression.groups import ChannelGroup, dependency_graph
from rig.compression.tasks import Task
from rig.compression.template import Template
from rig.errors import ModelError


def keep_channels(group: ChannelGroup, importance: Tensor, width: int) -> list[int]:
    """The ``width`` most important channels of a group, in their old order; ties go to the lower index."""
    order = torch.argsort(importance, descending=True, stable=True)
    return sorted(order[: min(width, group.width)].tolist())


def narrow(
    model: nn.Module,
    build: Callable[[Mapping[str, int]], nn.Module],
    template: Template,
    kept: Mapping[str, Sequence[int]],
    widths: Mapping[str, int],
    removed: Sequence[str],
    example: Tensor,
) -> nn.Module:
    """The network at ``widths`` with blocks ``removed``, holding the weights of the kept channels of ``model``.

    kept: indices kept of each group (at most its width; a group that grows keeps all and gains new channels whose
    outgoing weights are zero, so that the function does not change). Raises ModelError where the task's model(widths)
    does not have the layers or shapes that the table asks for; ``model`` is not changed.
    """
    cut = copy.deepcopy(model)
    vanishing = {g for b in template.blocks if b.name in removed for g in b.inner}
    for group in template.groups:
        drop = sorted(set(range(group.width)) - set(kept.get(group.name, range(group.width))))
        if drop and group.prunable and group.name not in vanishing:
            _remove(cut, group.name, drop, example)
    target = build(template.layer_widths(widths, removed))
    _copy_weights(cut, target, removed)
    target.train(model.training)
    return target


def _remove(model: nn.Module, layer: str, drop: list[int], example: Tensor) -> None:
    graph = dependency_graph(model, example)
    module = dict(model.named_modules())[layer]
    handler = graph.get_pruner_of_module(module).prune_out_channels
    group = graph.get_pruning_group(module, handler, drop)
    if not graph.check_pruning_group(group):
        raise ModelError(f"removing {len(drop)} channels of {layer} would leave a layer without channels")
    group.prune()


def _copy_weights(source: nn.Module, target: nn.Module, removed: Sequence[str]) -> None:
    have = {**dict(source.named_parameters()), **dict(source.named_buffers())}
    with torch.no_grad():
        for name, wanted in [*target.named_parameters(), *target.named_buffers()]:
            if name not in have:
                raise ModelError(
                    f"model(widths) has the parameter {name}, which the trained network lacks",
                    "model(widths) must keep the names of the layers: see docs/writing-a-task.md",
                )
            _copy_overlap(name, have[name], wanted)
    gone = set(have) - {n for n, _ in [*target.named_parameters(), *target.named_buffers()]}
    strange = [n for n in gone if not any(n.startswith(f"{block}.") for block in removed)]
    if strange:
        raise ModelError(
            f"model(widths) lacks {', '.join(sorted(strange)[:3])} of the trained network",
            "width 0 must remove only the residual block that it names: see docs/writing-a-task.md",
        )


def _copy_overlap(name: str, old: Tensor, new: Tensor) -> None:
    """Copy what both have; inputs that are new get zero weights, outputs that are new keep their fresh values."""
    if old.shape == new.shape:
        new.copy_(old)
        return
    if old.dim() != new.dim() or any(a > b for a, b in zip(old.shape, new.shape, strict=True)):
        raise ModelError(
            f"model(widths) gives {name} the shape {tuple(new.shape)}; the trained network, cut, {tuple(old.shape)}",
            "model(widths) must apply the widths that it is given: see docs/writing-a-task.md",
        )
    overlap = tuple(slice(0, n) for n in old.shape)
    if new.dim() > 1:
        new[: old.shape[0], old.shape[1] :] = 0.0
    new[overlap] = old


def function_difference(a: nn.Module, b: nn.Module, example: Tensor) -> float:
    """Largest difference of two networks' outputs, relative to the largest output (inference mode)."""
    flags = a.training, b.training
    a.eval()
    b.eval()
    with torch.inference_mode():
        first, second = a(example), b(example)
    a.train(flags[0])
    b.train(flags[1])
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))


def reestimate_norms(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Estimate the running statistics of every batch-norm anew: other channels went in when they were learned."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    was_training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    model.train()
    with torch.no_grad():
        for batch in inputs:
            model(batch)
    model.train(was_training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def bare_network(
    shrunk: nn.Module, task: Task, template: Template, removed: Sequence[str]
) -> tuple[nn.Module, dict[str, int]]:
    """The shrunk network without its dead channels and its removed blocks, and the widths that are left."""
    kept = {g.name: torch.nonzero(g.norms().detach() > 0).flatten().tolist() for g in template.groups if g.prunable}
    widths = {**template.seed_widths(), **{name: len(channels) for name, channels in kept.items()}}
    example = torch.zeros(1, *task.input_shape)
    return narrow(shrunk, task.model, template, kept, widths, removed, example), widths
