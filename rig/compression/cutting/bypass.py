"""Take a residual branch out of a network that has no words for it: surgery on its traced graph (torch.fx).

Where a task's ``model(widths)`` leaves a block out for a width of 0, that is used. Any other traceable network is cut
here: the addition in which the branch ends is replaced by its other side (nothing, or the projection), and what nobody
reads any more goes. Layers keep their names and weights; the result is a ``torch.fx.GraphModule``.

    x ─┬─► conv1 ─► bn1 ─► relu ─► conv2 ─► bn2 ─┐                x ───► projection or nothing ───►
       └─► projection or nothing ────────────────┴─► + ─►

Checked before it is given back: the traced graph computes what the network does, and without the branch it computes
what it did with the branch's output set to zero. What a module decides by ``self.training`` inside its own forward pass
(not dropout or batch-norm layers, which stay layers) is as in inference afterwards.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection

import torch
from torch import Tensor, fx, nn

from rig.compression.cutting.channel_group import WIDE_LAYERS
from rig.compression.cutting.tracing import FOREIGN_ERRORS, in_inference
from rig.errors import ModelError

ADDITIONS = (operator.add, operator.iadd, torch.add)
SAME = 1e-5  # of the largest output: the same operators on the same numbers
BRANCHES = "bypassed"  # in a graph module's ``meta``: the layers of each branch that was taken out


def bypassed(network: nn.Module, layers: Collection[str], example: Tensor) -> nn.Module:
    """A copy of the network without the residual branch made of ``layers``, its convolutions and linear layers.

    Raises ModelError, naming the branch, where the network cannot be traced, has no such branch, or does not compute
    the same without it.
    """
    traced, addition, branch, other = _found(network, layers)
    inputs = _random_like(example)
    try:
        with in_inference(network), in_inference(traced), torch.no_grad():
            _require_same(
                traced(inputs), network(inputs), layers, "as traced, it does not compute what the network does"
            )
            silent = _silenced(traced, addition, branch)(inputs)
        addition.replace_all_uses_with(other)
        traced.graph.eliminate_dead_code()
        traced.graph.lint()
        traced.recompile()
        traced.delete_all_unused_submodules()
        traced.meta[BRANCHES] = [*bypassed_branches(network), sorted(layers)]
        with in_inference(traced), torch.no_grad():
            _require_same(traced(inputs), silent, layers, "without it the network does not compute what it did")
    except FOREIGN_ERRORS as error:
        raise _refused(layers, f"{type(error).__name__}: {error}") from error
    return traced.train(network.training)


def bypassed_branches(network: nn.Module) -> list[list[str]]:
    """The branches that were taken out of a network, each by its layers, in the order in which they went."""
    return [list(layers) for layers in network.meta.get(BRANCHES, [])] if isinstance(network, fx.GraphModule) else []


def silenced(network: nn.Module, layers: Collection[str]) -> nn.Module:
    """A copy whose residual branch made of ``layers`` gives zeros: what ``bypassed`` must equal. Raises as it does."""
    traced, addition, branch, _ = _found(network, layers)
    return _silenced(traced, addition, branch).train(network.training)


def _found(network: nn.Module, layers: Collection[str]) -> tuple[fx.GraphModule, fx.Node, fx.Node, fx.Node]:
    """The traced copy, the addition in which the branch ends, the branch's side of it and the other side."""
    copied = copy.deepcopy(network)
    copied.eval()
    try:
        traced = fx.symbolic_trace(copied)
    except (*FOREIGN_ERRORS, fx.proxy.TraceError) as error:
        raise _refused(layers, f"the network cannot be traced: {error}") from error
    for node in traced.graph.nodes:
        if node.op not in ("call_function", "call_method") or node.target not in (*ADDITIONS, "add", "add_"):
            continue
        sides = [a for a in node.args if isinstance(a, fx.Node)]
        if len(sides) != 2 or node.kwargs:
            continue
        reach = [_before(side) for side in sides]
        for i in (0, 1):
            if _wide_layers(traced, reach[i] - reach[1 - i]) == set(layers):
                return traced, node, sides[i], sides[1 - i]
    raise _refused(layers, "no addition ends a branch of exactly these layers")


def _before(node: fx.Node) -> set[fx.Node]:
    """A node and everything that it needs."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting.extend(here.all_input_nodes)
    return found


def _wide_layers(traced: fx.GraphModule, nodes: Collection[fx.Node]) -> set[str]:
    called = {str(n.target) for n in nodes if n.op == "call_module"}
    return {name for name in called if isinstance(traced.get_submodule(name), WIDE_LAYERS)}


def _silenced(traced: fx.GraphModule, addition: fx.Node, branch: fx.Node) -> fx.GraphModule:
    """A copy in which the addition gets zeros in place of the branch."""
    quiet = copy.deepcopy(traced)
    ours = dict(zip(traced.graph.nodes, quiet.graph.nodes, strict=True))
    with quiet.graph.inserting_before(ours[addition]):
        nothing = quiet.graph.call_function(torch.zeros_like, (ours[branch],))
    ours[addition].replace_input_with(ours[branch], nothing)
    quiet.recompile()
    return quiet


def _random_like(example: Tensor) -> Tensor:
    return torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example.dtype)


def _require_same(found: Tensor, expected: Tensor, layers: Collection[str], trouble: str) -> None:
    difference = float((found - expected).abs().max())
    if not difference <= SAME * max(float(expected.abs().max()), 1e-12):
        raise _refused(layers, trouble)


def _refused(layers: Collection[str], why: str) -> ModelError:
    return ModelError(
        f"the residual branch of {', '.join(layers)} cannot be taken out: {why}",
        "let model(widths) leave it out for a width of 0: see docs/writing-a-task.md",
    )
