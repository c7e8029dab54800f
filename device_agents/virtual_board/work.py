"""What a kernel makes the board do: blocks of multiply-accumulates, passes over tensors, bytes moved.

``work_of`` turns a :class:`KernelSpec` into counts; it knows block sizes but no seconds and no joules. The physics
(:mod:`.physics`) prices the counts. Kernels run on feature maps stored height × width × channels.
"""

from typing import Dict, NamedTuple

from device_agents.records import DTYPE_BYTES, KernelSpec

# Arithmetic passes per element of the single-threaded kinds; an exponential or a power costs about a dozen.
PASSES = {
    "add": 1.0,
    "mul": 1.0,
    "activation": 1.0,
    "max_pool": 1.0,
    "avg_pool": 1.0,
    "global_avg_pool": 1.0,
    "reduce": 1.0,
    "concat": 1.0,
    "slice": 1.0,
    "gather": 1.0,
    "resize": 1.0,
    "pad": 1.0,
    "batch_norm": 2.0,
    "reorder_in": 1.5,
    "reorder_out": 1.5,
    "transpose": 3.0,
    "softmax": 14.0,
    "lrn": 18.0,
    "view": 0.0,
}

# Arithmetic passes of an activation function, per element; clamps ride along with the store of a kernel with weights.
ACTIVATION_PASSES = {
    "": 0.0,
    "none": 0.0,
    "relu": 0.0,
    "relu6": 0.0,
    "clip": 0.0,
    "add": 1.0,
    "leakyrelu": 1.0,
    "prelu": 1.0,
    "hardsigmoid": 1.5,
    "hardswish": 2.0,
    "sigmoid": 12.0,
    "tanh": 12.0,
    "swish": 13.0,
    "silu": 13.0,
    "elu": 12.0,
    "selu": 12.0,
    "erf": 12.0,
    "softplus": 13.0,
    "gelu": 16.0,
    "mish": 20.0,
}

KINDS = tuple(["conv", "depthwise", "fc"] + sorted(PASSES))


class Work(NamedTuple):
    """Counts of one kernel (per execution, batch included)."""

    launches: float  # dispatches of the kernel
    group_calls: float  # further dispatches of a grouped convolution, one a group
    gemm_macs: float  # multiply-accumulates of matrix products, channel and row blocks filled up
    depthwise_macs: float  # the same of depthwise convolutions, taps up to 3 × 3
    large_depthwise_macs: float  # taps beyond 3 × 3: a slower path
    gemv_macs: float  # of fully connected layers with few rows
    gemm_outputs: float  # output elements of matrix products: requantised or clamped and stored
    packed_elements: float  # input elements laid out for the product
    patch_gathers: float  # contiguous runs copied into patches first (im2col), on one core
    patch_elements: float  # elements of those patches
    patch_bytes: float  # the patch buffer: beyond the L2 it is written to DRAM and read back
    passes: float  # element passes on one core
    activation_bytes: float  # feature maps read and written
    weight_bytes: float  # weights and biases read
    map_bytes: float  # feature maps alive at once: what competes for the L2
    panel_bytes: float  # what the inner loop wants to keep in the L1


class BlockSizes(NamedTuple):
    """Sizes in which the board's kernels run; a remainder costs a whole block."""

    out_channels: int  # output channels of a matrix product
    rows: int  # output positions of a matrix product
    depth: int  # reduced elements of a matrix product
    depthwise_channels: int
    cores: int  # tiles are dealt out to so many cores


def _up(value: int, block: int) -> int:
    return -(-value // block) * block


def normal_activation(name: str) -> str:
    """The spelling of an activation as the tables have it (``hard_swish`` and ``HardSwish`` are ``hardswish``)."""
    return name.replace("_", "").replace("-", "").lower()


def fused_passes(fused: str) -> float:
    """Element passes of what a kernel absorbed; raises ValueError for an activation that nobody priced."""
    total = 0.0
    for name in fused.split("+"):
        key = normal_activation(name.strip())
        if key not in ACTIVATION_PASSES:
            raise ValueError(
                "virtual board: no cost for the fused activation %r; known: %s"
                % (name, ", ".join(sorted(k for k in ACTIVATION_PASSES if k)))
            )
        total += ACTIVATION_PASSES[key]
    return total


def check_spec(spec: KernelSpec) -> None:
    """Raise ValueError for an unknown kind or dtype, or a dimension that is not positive."""
    if spec.kind not in KINDS:
        raise ValueError("virtual board: no cost for kernel kind %r; known: %s" % (spec.kind, ", ".join(KINDS)))
    sizes = {
        name: getattr(spec, name)
        for name in ("batch", "in_channels", "in_height", "in_width", "out_channels", "out_height", "out_width")
    }
    for name in ("kernel_h", "kernel_w", "stride", "dilation", "groups", "inputs"):
        sizes[name] = getattr(spec, name)
    for name, value in sizes.items():
        if value < 1:
            raise ValueError("virtual board: %s of %s is %r; it must be at least 1" % (name, spec.label, value))
    if spec.kind == "conv" and (spec.in_channels % spec.groups or spec.out_channels % spec.groups):
        raise ValueError(
            "virtual board: %s has %d groups, which do not divide %d and %d channels"
            % (spec.label, spec.groups, spec.in_channels, spec.out_channels)
        )


def _base(spec: KernelSpec) -> Dict[str, float]:
    counts: Dict[str, float] = dict.fromkeys(Work._fields, 0.0)
    moved = float(spec.input_bytes + spec.output_bytes)
    counts.update(
        launches=1.0,
        activation_bytes=moved,
        map_bytes=moved,
        weight_bytes=float(spec.weight_bytes),
        panel_bytes=1.0,
        patch_bytes=1.0,
    )
    return counts


def _matrix(spec: KernelSpec, blocks: BlockSizes, counts: Dict[str, float]) -> None:
    groups = spec.groups if spec.kind == "conv" else 1
    rows = spec.batch * spec.out_height * spec.out_width
    depth = spec.kernel_h * spec.kernel_w * spec.in_channels // groups
    columns = _up(spec.out_channels // groups, blocks.out_channels)
    element_bytes = DTYPE_BYTES[spec.dtype]
    outputs = float(rows * spec.out_channels)
    if rows == 1:
        # One row: a matrix-vector product, streamed from the weights.
        counts["gemv_macs"] = float(groups * columns * _up(depth, blocks.depth))
    else:
        tiles = _up(-(-rows // blocks.rows) * (columns // blocks.out_channels), blocks.cores)
        per_tile = blocks.rows * blocks.out_channels * _up(depth, blocks.depth)
        counts["gemm_macs"] = float(groups * tiles * per_tile)
    counts["gemm_outputs"] = outputs
    counts["packed_elements"] = float(spec.batch * spec.in_channels * spec.in_height * spec.in_width)
    if spec.kernel_h * spec.kernel_w > 1 or spec.stride > 1:
        # A row of taps is one contiguous run, unless dilation pulls its taps apart.
        runs = spec.kernel_h * (spec.kernel_w if spec.dilation > 1 else 1)
        counts["patch_gathers"] = float(groups * rows * runs)
        counts["patch_elements"] = float(groups * rows * depth)
        counts["patch_bytes"] = float(groups * rows * depth * element_bytes)
    counts["group_calls"] = float(groups - 1)
    counts["panel_bytes"] = float(depth * (blocks.out_channels + blocks.rows) * element_bytes)
    counts["passes"] = outputs * fused_passes(spec.fused)


def _depthwise(spec: KernelSpec, blocks: BlockSizes, counts: Dict[str, float]) -> None:
    taps = spec.kernel_h * spec.kernel_w
    channels = _up(spec.out_channels, blocks.depthwise_channels)
    macs = float(spec.batch * spec.out_height * spec.out_width * channels * taps)
    macs *= 1.5 if spec.dilation > 1 else 1.0
    counts["depthwise_macs" if taps <= 9 else "large_depthwise_macs"] = macs
    row = spec.in_width * channels * DTYPE_BYTES[spec.dtype]
    counts["panel_bytes"] = float(spec.kernel_h * row)
    counts["passes"] = float(spec.batch * spec.out_height * spec.out_width * spec.out_channels) * fused_passes(
        spec.fused
    )


def _elementwise(spec: KernelSpec, counts: Dict[str, float]) -> None:
    outputs = spec.batch * spec.out_channels * spec.out_height * spec.out_width
    inputs = spec.batch * spec.in_channels * spec.in_height * spec.in_width
    if spec.kind == "view":
        counts.update(activation_bytes=0.0, map_bytes=1.0)
        return
    elements = float(outputs)
    if spec.kind in ("max_pool", "avg_pool", "resize"):
        elements = float(outputs * spec.kernel_h * spec.kernel_w)
    elif spec.kind in ("global_avg_pool", "reduce"):
        elements = float(inputs)
    elif spec.kind in ("add", "mul"):
        elements = float(outputs * max(spec.inputs - 1, 1))
    elif spec.kind == "activation":
        elements = outputs * max(fused_passes(spec.fused), 1.0)
    after = fused_passes(spec.fused) if spec.kind != "activation" else 0.0
    counts["passes"] = elements * PASSES[spec.kind] + outputs * after


def work_of(spec: KernelSpec, blocks: BlockSizes) -> Work:
    """Count what one kernel does on a board with these block sizes; raises ValueError for what it does not know."""
    check_spec(spec)
    counts = _base(spec)
    if spec.kind in ("conv", "fc"):
        _matrix(spec, blocks, counts)
    elif spec.kind == "depthwise":
        _depthwise(spec, blocks, counts)
    else:
        _elementwise(spec, counts)
    return Work(**counts)
