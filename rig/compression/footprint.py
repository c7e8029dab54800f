"""Memory: what a network takes on a device, counted from its kernels, and what a stretch of training took at its peak.

    input ──► conv ──► relu ──┬──► conv ──► add ──► …        live beside a kernel that runs: what it reads, what it
                              └──────────────┘               writes, and what a later kernel will still read

An inference's peak is the largest sum of live activations over the kernels in the order they run. It is what a runtime
needs that frees a tensor after its last reader and computes nothing in place; an arena or a blocked layout takes more.
Weights are those of the kernels, batch-norm folded.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from device_agents.records import DTYPE_BYTES, KernelSpec
from rig.errors import BadInputError

if TYPE_CHECKING:
    from power_models.kernels import KernelNode

NETWORK_INPUT = -1
CLEAR_PEAK = "5"  # to /proc/self/clear_refs: VmHWM begins anew (Linux, Documentation/filesystems/proc.rst)


class Footprint(NamedTuple):
    """Of one network: multiply-accumulates of an inference, weights, their bytes, and its activations at their peak.

    ``params``: weights and biases of the kernels, so that a folded batch-norm counts as one bias a channel.
    """

    macs: int
    params: int
    weight_bytes: int
    peak_activation_bytes: int


def footprint(nodes: Sequence[KernelNode]) -> Footprint:
    """Count over the kernels of a network in execution order; a weight that several kernels share counts once."""
    held: dict[str, KernelSpec] = {}
    for index, node in enumerate(nodes):
        if node.spec.weight_bytes:
            held.setdefault(node.weight or f"kernel {index}", node.spec)
    biases = {name: spec.out_channels for name, spec in held.items()}
    weights = {name: (s.weight_bytes - 4 * biases[name]) // DTYPE_BYTES[s.dtype] for name, s in held.items()}
    return Footprint(
        sum(node.spec.macs for node in nodes),
        sum(weights.values()) + sum(biases.values()),
        sum(spec.weight_bytes for spec in held.values()),
        peak_activation_bytes(nodes),
    )


def footprint_of_file(path: Path, runtime: str) -> Footprint:
    """The same of an ONNX file as ``runtime`` would run it by the rules; BadInputError where they cannot."""
    from power_models.kernels import RULES
    from rig.workloads.network_file import read_kernels

    if runtime not in RULES:
        raise BadInputError(f"no kernel rules for runtime {runtime!r}", f"known: {', '.join(RULES)}")
    return footprint(read_kernels(path, runtime))


def memory_facts(nodes: Sequence[KernelNode]) -> dict[str, int]:
    """The bytes of a network as ``result.json`` holds them."""
    counted = footprint(nodes)
    return {"weight_bytes": counted.weight_bytes, "peak_activation_bytes": counted.peak_activation_bytes}


def peak_activation_bytes(nodes: Sequence[KernelNode]) -> int:
    """Largest sum of activations alive at once over an inference (see the module's docstring)."""
    tensor = _tensors(nodes)
    size = _sizes(nodes, tensor)
    last: dict[int, int] = {}
    for step, node in enumerate(nodes):
        for source in node.inputs:
            last[tensor[source]] = step
        last.setdefault(tensor[step], step)
    read = {tensor[source] for node in nodes for source in node.inputs}
    last.update({tensor[step]: len(nodes) for step in range(len(nodes)) if tensor[step] not in read})  # outputs stay
    alive, most = {NETWORK_INPUT} if NETWORK_INPUT in last else set(), 0
    for step in range(len(nodes)):
        alive.add(tensor[step])
        most = max(most, sum(size[one] for one in alive))
        alive = {one for one in alive if last[one] > step}
    return most


def _tensors(nodes: Sequence[KernelNode]) -> dict[int, int]:
    """Kernel → the tensor it writes; a view's is the one it reads."""
    tensor = {NETWORK_INPUT: NETWORK_INPUT}
    for step, node in enumerate(nodes):
        tensor[step] = tensor[node.inputs[0]] if node.spec.kind == "view" and node.inputs else step
    return tensor


def _sizes(nodes: Sequence[KernelNode], tensor: Mapping[int, int]) -> dict[int, int]:
    """Bytes of every tensor; the network's input as the kernels that read it see it."""
    size = {step: node.spec.output_bytes for step, node in enumerate(nodes)}
    seen = [_elements_in(n.spec) * DTYPE_BYTES[n.spec.dtype] for n in nodes if NETWORK_INPUT in n.inputs]
    return {**size, NETWORK_INPUT: min(seen, default=0)}  # a concatenation's channels are those of all its inputs


def _elements_in(spec: KernelSpec) -> int:
    return spec.batch * spec.in_channels * spec.in_height * spec.in_width


# --- peak memory of training ------------------------------------------------------------------------------------


class PeakMemory:
    """The most memory that a stretch of work took: ``with PeakMemory() as peak: …``, then ``peak.facts()``.

    On a GPU that torch uses, what torch had allocated there. Else the resident memory of this process, Python and its
    libraries included: the kernel's high-water mark, set back at the start; where that cannot be set back (no Linux,
    no rights) the mark since the process began, which ``of`` says. ``cuda``: torch's, if another than that is meant.
    """

    def __init__(self, proc: Path = Path("/proc/self"), cuda: Any = None) -> None:
        self.of = "process"
        self.peak_bytes: int | None = None
        self._proc = proc
        self._cuda = cuda
        self._reset = False

    def __enter__(self) -> PeakMemory:
        cuda = self._cuda or _cuda_in_use()
        if cuda is not None:
            cuda.reset_peak_memory_stats()
        with contextlib.suppress(OSError):  # not allowed, or no Linux: told by ``of``
            (self._proc / "clear_refs").write_text(CLEAR_PEAK)
            self._reset = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cuda = self._cuda or _cuda_in_use()
        on_gpu = int(cuda.max_memory_allocated()) if cuda is not None else 0
        if on_gpu:
            self.peak_bytes, self.of = on_gpu, "gpu"
            return
        marked = _high_water_bytes(self._proc) if self._reset else None
        self.of = "process" if marked is not None else "process since it began"
        self.peak_bytes = _most_ever_bytes() if marked is None else marked

    def facts(self) -> dict[str, Any]:
        """As a stage of ``result.json`` holds it."""
        return {"peak_memory_bytes": self.peak_bytes, "peak_memory_of": self.of}


def _cuda_in_use() -> Any:
    """``torch.cuda`` where torch is loaded and has begun to use a GPU, else None; nothing is imported or started."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def _high_water_bytes(proc: Path) -> int | None:
    try:
        lines = (proc / "status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None


def _most_ever_bytes() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
