"""What a network does with one batch: its dependency graph, and what stands in the way of cutting a layer.

Two passes over one example. In the first every module's runs are counted and every read of a tensor's *value* is
refused: a network that decides by its data has other paths than the one that is traced. The second is torch-pruning's
(Fang et al., DepGraph, CVPR 2023), of which the dependency graph alone is used, none of its pruners.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from rig.compression.cutting.gates import GATED
from rig.errors import ModelError

FOREIGN_ERRORS = (  # what a network's own code may raise where something in it does not fit
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    NameError,  # of torch.fx too, for a module that is made in forward()
    LookupError,
    ArithmeticError,
    AssertionError,
)
NORMALIZERS = (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d)
CUT_LAYERS = (nn.Conv2d, nn.Linear, *NORMALIZERS, nn.PReLU)
OWN_TENSORS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


class _ValueRead(Exception):
    """Raised inside the forward pass by ``_NoValueReads``; caught right outside."""


class _NoValueReads(TorchDispatchMode):
    """Refuses every operator whose result in Python, or whose shape, depends on the values of tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            raise _ValueRead(func.name())
        return func(*args, **(kwargs or {}))


def count_runs(model: nn.Module, example: Tensor) -> dict[str, int]:
    """How often each module runs in one forward pass (inference mode), by name.

    Raises ModelError where the pass fails, or where it depends on the values of tensors.
    """
    runs: dict[str, int] = dict.fromkeys((name for name, _ in model.named_modules()), 0)
    running: list[str] = []

    def entered(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            runs[name] += 1
            running.append(name)

        return hook

    def left(module: nn.Module, inputs: Any, outputs: Any) -> None:
        running.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks += [module.register_forward_pre_hook(entered(name)), module.register_forward_hook(left)]
    try:
        with in_inference(model), torch.no_grad(), _NoValueReads():
            model(example)
    except _ValueRead as error:
        raise ModelError(
            f"{running[-1] or 'the network'} reads the values of a tensor in its forward pass ({error}): what it does "
            "then depends on its data",
            "networks with control flow that depends on data cannot be compressed: choose by shapes, or by torch.where",
        ) from error
    except FOREIGN_ERRORS as error:
        raise ModelError(
            f"the network does not run on an input of shape {tuple(example.shape)}: {type(error).__name__}: {error}",
            "check model() and the batches of loaders('val'); quantized networks must be given in float",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return runs


def tied_layers(model: nn.Module, example: Tensor) -> tuple[Any, list[Any]]:
    """torch-pruning's graph of a model and its groups, one of each convolution or linear layer; ModelError for none."""
    import torch_pruning

    # The graph is read off autograd: frozen weights must be in it too.
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with in_inference(model), torch.enable_grad(), warnings.catch_warnings(), _tolerated_reshapes():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(model, (example,))
            return graph, list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))
    except FOREIGN_ERRORS as error:
        raise ModelError(
            f"the dependency graph of the network cannot be built: {type(error).__name__}: {error}",
            "networks with control flow that depends on data, or without float weights, cannot be compressed",
        ) from error
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextlib.contextmanager
def _tolerated_reshapes() -> Iterator[None]:
    """torch-pruning takes a reshape between two channel counts for a flattened image and divides one by the other,
    which ends in a division by zero at ShuffleNetV2's shuffles: those are taken for no reshape. What is cut wrongly
    then does not survive its rehearsal.
    """
    from torch_pruning.dependency import index_mapping

    original = index_mapping.update_reshape_index_mapping

    def tolerant(graph: Any, node: Any) -> None:
        with contextlib.suppress(ZeroDivisionError):
            original(graph, node)

    index_mapping.update_reshape_index_mapping = tolerant
    try:
        yield
    finally:
        index_mapping.update_reshape_index_mapping = original


@contextlib.contextmanager
def in_inference(model: nn.Module) -> Iterator[None]:
    """The model in inference mode, every module's own mode restored behind."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def obstacles(model: nn.Module, runs: dict[str, int]) -> dict[str, str]:
    """Layers that must not be cut, by name, and why."""
    found = _shared_storage(model)
    for name, module in model.named_modules():
        bare = not list(module.parameters(recurse=False)) and not list(module.buffers(recurse=False))
        if bare and not isinstance(module, CUT_LAYERS):
            continue
        if runs[name] > 1:
            found.setdefault(name, f"{name} runs {runs[name]} times in one pass")
        why = _own_trouble(name, module)
        if why:
            found.setdefault(name, why)
    return found


def _own_trouble(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    if isinstance(module, (nn.Conv2d, nn.Linear)) and "weight" not in dict(module.named_parameters(recurse=False)):
        return f"the weight of {name} is computed from others (weight normalization, pruning or a parametrization)"
    if parametrize.is_parametrized(module):
        return f"{name} has parametrized weights"
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for tensor, value in tensors:
        if not value.is_floating_point() and tensor != "num_batches_tracked":
            return f"{tensor} of {name} is of type {str(value.dtype).removeprefix('torch.')}, not float"
    own = OWN_TENSORS | ({"gate"} if isinstance(module, GATED) else set())
    strange = sorted(tensor for tensor, _ in tensors if tensor not in own)
    if isinstance(module, CUT_LAYERS) and strange:
        return f"{name} ({kind}) holds {', '.join(strange)}, which surgery does not know"
    return ""


def _shared_storage(model: nn.Module) -> dict[str, str]:
    """Modules whose parameters lie in the memory of another module's."""
    spans = []
    for name, module in model.named_modules():
        for _, value in module.named_parameters(recurse=False):
            if value.numel():
                start = value.data_ptr()
                spans.append((start, start + value.numel() * value.element_size(), name))
    found: dict[str, str] = {}
    for (_, end, first), (start, _, second) in pairwise(sorted(spans)):
        if start < end and first != second:
            found[first] = f"{first} shares its weights with {second}"
            found[second] = f"{second} shares its weights with {first}"
    return found
