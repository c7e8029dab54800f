"""Where ONNX Runtime keeps activations in blocks of channels (NCHWc), and the reorder kernels that this costs.

Follows what ONNX Runtime 1.31's CPU provider does at its highest optimization level: convolutions and pools are turned
to blocked form where the channel counts allow it, additions and activations follow, and a reorder stands wherever a
kernel that knows only NCHW meets a blocked tensor. Checked against the optimized graphs that the runtime writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from power_models.kernel_builders import Kernel

AVX512_BLOCK = 16
GLOBAL_POOLS = ("GlobalAveragePool", "GlobalMaxPool")
ALIGNMENT = 4  # the reorder of an input wants the channel count to be a multiple of this

# Element-wise kernels that run on blocked tensors as they are; of these, all but the last two are taken along by a
# blocked convolution with a fused addition. A hardswish is taken along by any blocked convolution.
BLOCKED_ACTIVATIONS = {"relu", "sigmoid", "tanh", "hardsigmoid", "silu", "gelu"}
NEVER_FUSED = {"silu", "gelu"}
# What a convolution in NCHW with a fused addition takes along.
PLAIN_ACTIVATIONS = {"relu", "relu6", "clip", "leaky_relu", "sigmoid", "tanh", "hardsigmoid"}


@dataclass
class _Blocked:
    """A tensor in blocked form: who writes it, how many read it, how many of them still want NCHW."""

    writer: Kernel
    channels: int
    readers: int
    unblocked_readers: int


def onnxruntime_layout(kernels: list[Kernel], outputs: Sequence[str], block: int = AVX512_BLOCK) -> list[Kernel]:
    """The kernels with additions fused into convolutions and with reorders. ``block`` 0: without the NCHWc layout."""
    layout = _Layout(kernels, outputs, block)
    layout.assign()
    layout.fuse_plain_additions()
    return layout.kernels


class _Layout:
    def __init__(self, kernels: list[Kernel], outputs: Sequence[str], block: int) -> None:
        self.original = kernels
        self.kernels = list(kernels)
        self.block = block
        self.blocked: dict[str, _Blocked] = {}
        self.reordered: dict[str, str] = {}
        self.converted: set[int] = set()
        self.written = {name for kernel in kernels for name in kernel.writes}
        self.readers: dict[str, int] = dict.fromkeys(outputs, 1)
        for kernel in kernels:
            for name in kernel.reads:
                self.readers[name] = self.readers.get(name, 0) + 1

    def assign(self) -> None:
        """Walk the kernels in order, as the runtime's transformer does, then put back what NCHW readers need."""
        self.kernels = []
        for kernel in self.original:
            if kernel.kind == "activation" and kernel.fused == ["hardswish"]:
                self._hardswish(kernel)
            else:
                self._place(kernel)
        self._reorder_outputs()

    def _place(self, kernel: Kernel) -> None:
        if self.block and kernel.kind in ("conv", "depthwise"):
            self._convolution(kernel)
        elif self.block and kernel.kind in ("max_pool", "avg_pool"):
            self._pool(kernel)
        elif self.block and kernel.op in GLOBAL_POOLS and kernel.reads[0] not in self.written:
            self._pool(kernel)  # of a network input the runtime treats it as it does the other pools
        elif all(name in self.blocked for name in kernel.reads):
            self._follower(kernel)
        else:
            self.kernels.append(kernel)

    def _hardswish(self, kernel: Kernel) -> None:
        """A kernel only with a blocked convolution; else the runtime, which has none, multiplies by a hard sigmoid."""
        name = kernel.reads[0]
        if name in self.blocked and self._fuse_activation(kernel):
            return
        gate = replace(
            kernel, name=f"{kernel.name}/gate", writes=[f"{kernel.writes[0]}/gate"], reads=[name], fused=["hardsigmoid"]
        )
        product = replace(kernel, kind="mul", reads=[name, gate.writes[0]], fused=[], inputs=2)
        self.readers[name] += 1
        self.readers[gate.writes[0]] = 1
        if name in self.blocked:
            self.blocked[name].readers += 1
            self.blocked[name].unblocked_readers += 1
        self._place(gate)
        self._place(product)

    def _convolution(self, kernel: Kernel) -> None:
        channels, out_channels = kernel.in_shape[1], kernel.out_shape[1]
        groups = kernel.details["groups"]
        if groups > 1:
            per_group, out_per_group = channels // groups, out_channels // groups
            depthwise = per_group == 1 and out_channels == groups
            aligned = per_group % self.block == 0 and out_per_group % self.block == 0
            allowed = out_channels % ALIGNMENT == 0 and (depthwise or aligned)
        else:
            allowed = channels < self.block or channels % ALIGNMENT == 0
        if not allowed:
            self.kernels.append(kernel)
            return
        # A first layer with few channels reads NCHW as it is; only what it writes is blocked.
        if groups > 1 or channels >= self.block:
            self._read_blocked(kernel)
        self._write_blocked(kernel)

    def _pool(self, kernel: Kernel) -> None:
        if kernel.in_shape[1] % self.block:
            self.kernels.append(kernel)
            return
        self._read_blocked(kernel)
        self._write_blocked(kernel)

    def _read_blocked(self, kernel: Kernel) -> None:
        """Let the kernel read its (one) input blocked, with a reorder where it is not; shared between its readers."""
        name = kernel.reads[0]
        if name in self.blocked:
            self.blocked[name].unblocked_readers -= 1
            return
        if name not in self.reordered:
            self.reordered[name] = f"{name}/blocked"
            self.kernels.append(_reorder("reorder_in", "ReorderInput", name, self.reordered[name], kernel.in_shape))
        kernel.reads[0] = self.reordered[name]

    def _write_blocked(self, kernel: Kernel) -> None:
        self.kernels.append(kernel)
        self.converted.add(id(kernel))
        readers = self.readers.get(kernel.writes[0], 0)
        self.blocked[kernel.writes[0]] = _Blocked(kernel, kernel.out_shape[1], readers, readers)

    def _follower(self, kernel: Kernel) -> None:
        """A kernel of which all inputs are blocked: it may join them."""
        if kernel.kind == "add" and self._same_shapes(kernel):
            if not self._fuse_addition(kernel):
                self._join(kernel)
        elif kernel.kind == "activation" and kernel.fused[0] in BLOCKED_ACTIVATIONS:
            if not self._fuse_activation(kernel):
                self._join(kernel)
        elif kernel.kind == "mul" and len(kernel.reads) > 1 and self._same_shapes(kernel):
            self._join(kernel)
        elif kernel.kind == "batch_norm" or (kernel.kind == "mul" and len(kernel.reads) == 1 and kernel.blockable):
            self._as_convolution(kernel)
        elif (kernel.op in (*GLOBAL_POOLS, "Concat") and self._aligned(kernel)) or self._upsampling(kernel):
            self._join(kernel)
        else:
            self.kernels.append(kernel)

    @staticmethod
    def _upsampling(kernel: Kernel) -> bool:
        return kernel.kind == "resize" and kernel.blockable

    def _same_shapes(self, kernel: Kernel) -> bool:
        return kernel.inputs == len(kernel.reads) and len(kernel.reads) > 1

    def _aligned(self, kernel: Kernel) -> bool:
        return all(self.blocked[name].channels % self.block == 0 for name in kernel.reads)

    def _join(self, kernel: Kernel) -> None:
        for name in kernel.reads:
            self.blocked[name].unblocked_readers -= 1
        self._write_blocked(kernel)

    def _as_convolution(self, kernel: Kernel) -> None:
        """A batch normalization or a scale of blocked channels runs as a 1×1 depthwise convolution."""
        kernel.kind = "depthwise"
        kernel.details = {"groups": kernel.in_shape[1]}
        self._join(kernel)

    def _fuse_addition(self, kernel: Kernel) -> bool:
        """Let one of the convolutions before the addition accumulate onto the other operand."""
        if len(kernel.reads) != 2:
            return False
        for name, other in (kernel.reads, kernel.reads[::-1]):
            source = self.blocked[name]
            if source.readers == 1 and source.writer.kind in ("conv", "depthwise") and not source.writer.fused:
                self.blocked[other].unblocked_readers -= 1
                self._absorb(source, kernel, "add")
                source.writer.reads.append(other)
                return True
        return False

    def _fuse_activation(self, kernel: Kernel) -> bool:
        source = self.blocked[kernel.reads[0]]
        activated = set(source.writer.fused) - {"add"}
        fusable = kernel.fused[0] not in NEVER_FUSED and source.writer.kind in ("conv", "depthwise")
        if source.readers != 1 or not fusable or activated:
            return False
        self._absorb(source, kernel, kernel.fused[0])
        return True

    def _absorb(self, source: _Blocked, kernel: Kernel, what: str) -> None:
        """``source``'s writer takes over ``kernel``, and runs where that ran (its other operand must exist by then)."""
        writer = source.writer
        source.unblocked_readers -= 1
        writer.fused.append(what)
        writer.writes = kernel.writes
        _remove(self.kernels, writer)
        self._write_blocked(writer)

    def _reorder_outputs(self) -> None:
        result = []
        for kernel in self.kernels:
            result.append(kernel)
            blocked = self.blocked.get(kernel.writes[0])
            if blocked is not None and blocked.unblocked_readers > 0 and id(kernel) in self.converted:
                name = kernel.writes[0]
                inner = f"{name}/blocked"
                kernel.writes = [inner]
                self._rename_blocked_readers(name, inner)
                result.append(_reorder("reorder_out", "ReorderOutput", inner, name, kernel.out_shape))
        self.kernels = result

    def _rename_blocked_readers(self, name: str, inner: str) -> None:
        for kernel in self.kernels:
            if id(kernel) in self.converted and _reads_blocked(kernel, self.block):
                kernel.reads = [inner if read == name else read for read in kernel.reads]

    def fuse_plain_additions(self) -> None:
        """Convolutions left in NCHW take a following Add (not Sum), and an activation behind it, with them."""
        writers = {kernel.writes[0]: kernel for kernel in self.kernels}
        for kernel in list(self.kernels):
            if kernel.kind == "add" and kernel.op == "Add" and len(kernel.reads) == 2 and kernel.inputs == 2:
                self._fuse_plain(kernel, writers)

    def _fuse_plain(self, kernel: Kernel, writers: dict[str, Kernel]) -> None:
        for name, other in (kernel.reads, kernel.reads[::-1]):
            conv = writers.get(name)
            if conv is None or conv.kind not in ("conv", "depthwise") or conv.fused or self.readers[name] != 1:
                continue
            if id(conv) in self.converted:
                continue
            conv.reads.append(other)
            conv.fused.append("add")
            self._replace(kernel, conv, writers)
            self._fuse_plain_activation(conv, writers)
            return

    def _fuse_plain_activation(self, conv: Kernel, writers: dict[str, Kernel]) -> None:
        name = conv.writes[0]
        readers = [k for k in self.kernels if name in k.reads]
        if self.readers.get(name) == 1 and len(readers) == 1 and readers[0].kind == "activation":
            if readers[0].fused[0] not in PLAIN_ACTIVATIONS:
                return
            conv.fused.append(readers[0].fused[0])
            self._replace(readers[0], conv, writers)

    def _replace(self, kernel: Kernel, conv: Kernel, writers: dict[str, Kernel]) -> None:
        """``conv`` does what ``kernel`` did, in its place."""
        conv.writes = kernel.writes
        writers[conv.writes[0]] = conv
        _remove(self.kernels, conv)
        self.kernels[next(i for i, k in enumerate(self.kernels) if k is kernel)] = conv


def _reads_blocked(kernel: Kernel, block: int) -> bool:
    """Whether a converted kernel takes blocked input (a first layer with few channels takes NCHW)."""
    return kernel.kind != "conv" or kernel.details["groups"] > 1 or kernel.in_shape[1] >= block


def _remove(kernels: list[Kernel], kernel: Kernel) -> None:
    del kernels[next(i for i in range(len(kernels) - 1, -1, -1) if kernels[i] is kernel)]


def _reorder(kind: str, op: str, reads: str, writes: str, shape: tuple[int, ...]) -> Kernel:
    return Kernel(kind, f"{op}/{reads}", op, [reads], [writes], shape, shape)
