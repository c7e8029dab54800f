"""The families of kernels that a design draws from: each maps a point of the unit cube to a kernel, or rejects it.

Ranges are those of published image networks: maps of 2 to 224 pixels a side, 1 to 2048 channels, wide where the map is
small and narrow where it is large (an activation holds at most as many elements as the first block of a VGG).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log
from typing import NamedTuple

from device_agents.records import KernelSpec

DIMENSIONS = 8  # coordinates of a point: size, input channels, output channels, alignment, and four choices

MAX_CHANNELS = 2048
MAX_ELEMENTS = 3_300_000  # 64 channels of 224 x 224 and a little more
MAX_MACS = 2_000_000_000  # the largest layer of a VGG at 224 x 224 has 1.85 billion
MAX_WEIGHT_BYTES = 420_000_000  # its first fully connected layer: 25088 x 4096 floats
MIN_ELEMENTS = 64
MAX_SIDE = 224
TYPICAL_SIZES = (1, 2, 3, 4, 7, 8, 14, 16, 28, 32, 56, 64, 112, 128, 224)

Point = Sequence[float]
Draw = Callable[[Point, str], KernelSpec | None]


class Family(NamedTuple):
    """``share`` is relative to the other families of a design; ``draw`` maps (point, dtype) to a kernel or None.

    ``short``: its kernels are wanted however little time they take.
    """

    name: str
    kind: str
    share: float
    draw: Draw
    short: bool = False


def rough_seconds(spec: KernelSpec) -> float:
    """What a kernel takes on a small four-core board, within a factor of about two: to choose by, never to report."""
    return 3e-6 + spec.macs / 9e9 + (spec.input_bytes + spec.output_bytes + spec.weight_bytes) / 4e9


def log_between(u: float, low: float, high: float) -> int:
    """An integer in [low, high], uniform in its logarithm."""
    return max(1, round(exp(log(low) + u * (log(max(high, low)) - log(low)))))


def choose(u: float, options: Sequence[tuple[float, object]]) -> object:
    """The option on which ``u`` in [0, 1) falls, each as wide as its weight (weights sum to one)."""
    for weight, option in options:
        if u < weight:
            return option
        u -= weight
    return options[-1][1]


def _size(u: float) -> int:
    """A side of a map: half of the points on sizes that networks have, half anywhere between."""
    if u < 0.5:
        return TYPICAL_SIZES[int(2 * u * len(TYPICAL_SIZES))]
    return log_between(2 * u - 1, 2, 224)


def _aligned(channels: int, u: float) -> int:
    """Channels as designed networks have them (multiples of 16 or 8) or as pruning leaves them (any)."""
    multiple = 16 if u < 0.35 else 8 if u < 0.6 else 1
    return channels if channels < 1.5 * multiple else round(channels / multiple) * multiple


def _channels(u: float, side: int, alignment: float) -> int:
    most = min(MAX_CHANNELS, MAX_ELEMENTS // (side * side))
    # Leans to the wide end: that is where networks spend their time, and where a few more channels cost most.
    return min(_aligned(log_between(u**0.7, 2, most), alignment), MAX_CHANNELS)


def out_size(side: int, kernel: int, stride: int, padding: int) -> int:
    """Output size of a window."""
    return (side + 2 * padding - kernel) // stride + 1


def convolution(
    side: int,
    channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    padding: int | None = None,
) -> KernelSpec:
    """A square convolution with "same" padding unless given; depthwise where each channel is a group."""
    pad = kernel // 2 if padding is None else padding
    size = out_size(side, kernel, stride, pad)
    kind = "depthwise" if groups > 1 and groups == channels else "conv"
    return KernelSpec(
        kind, 1, channels, side, side, out_channels, size, size, kernel, kernel, stride, pad, groups=groups
    )


def _within(spec: KernelSpec) -> KernelSpec | None:
    """None where the kernel is outside what a small board runs in a network."""
    if min(spec.out_height, spec.out_width) < 1 or spec.macs > MAX_MACS or spec.weight_bytes > MAX_WEIGHT_BYTES:
        return None
    inside = max(
        spec.in_channels * spec.in_height * spec.in_width, spec.out_channels * spec.out_height * spec.out_width
    )
    if inside > MAX_ELEMENTS or inside < MIN_ELEMENTS:
        return None
    return spec


def _with_activation(spec: KernelSpec, u: float, dtype: str) -> KernelSpec | None:
    fused = str(choose(u, ((0.6, "relu"), (0.3, ""), (0.1, "relu6"))))
    return _within(spec._replace(fused=fused, dtype=dtype))


def _conv(options: Sequence[tuple[float, object]]) -> Draw:
    """Convolutions with a (kernel, stride) out of ``options``; channels within a factor of 16 of each other."""

    def draw(u: Point, dtype: str) -> KernelSpec | None:
        side = _size(u[0])
        kernel, stride = choose(u[4], options)  # type: ignore[misc]
        channels = _channels(u[1], side, u[3])
        inner = _channels(u[2], max(side // stride, 1), u[3] * 1.7 % 1.0)
        if max(channels, inner) > 16 * min(channels, inner) or kernel > 2 * side + 1:
            return None
        return _with_activation(convolution(side, channels, inner, kernel, stride), u[5], dtype)

    return draw


# The first stage of a designed network: side of its map, its widths there; each further stage halves and doubles.
_SMALL_WIDTHS, _LARGE_WIDTHS = (16, 32, 8, 64, 24, 12, 48), (64, 32, 128, 256, 24, 96)
_STAGES = ((0.2, (28, _SMALL_WIDTHS)), (0.2, (32, _SMALL_WIDTHS)), (0.6, (56, _LARGE_WIDTHS)))
_LAYERS = (  # (kernel, stride, input channels over the stage's width, output channels over it)
    (0.30, (3, 1, 1.0, 1.0)),
    (0.10, (3, 2, 0.5, 1.0)),
    (0.05, (1, 2, 0.5, 1.0)),
    (0.12, (1, 1, 1.0, 4.0)),
    (0.12, (1, 1, 4.0, 1.0)),
    (0.08, (1, 1, 1.0, 6.0)),
    (0.08, (1, 1, 6.0, 1.0)),
    (0.05, (1, 1, 1.0, 0.25)),
    (0.05, (3, 1, 0.25, 1.0)),
    (0.05, (3, 1, 1.0, 0.25)),
)


def _stage(u: Point) -> tuple[int, int]:
    """The side of a map and the width that a designed network has there."""
    side, widths = choose(u[0], _STAGES)  # type: ignore[misc]
    halvings = int(u[6] * 4)
    return max(side >> halvings, 4), widths[int(u[1] * len(widths))] << halvings


def _designed(u: Point, dtype: str) -> KernelSpec | None:
    """Convolutions of residual, bottleneck, inverted and fire blocks, and of densely connected ones, as published.

    Few widths and maps make up most networks; what is peculiar to them must be met as often as it is there.
    """
    side, width = _stage(u)
    if u[7] < 0.2:  # a densely connected block: any multiple of the growth rate comes in
        channels = width + 32 * int(u[3] * 16)
        return _with_activation(convolution(side, channels, 128, 1), u[5], dtype)
    kernel, stride, before, after = choose(u[4], _LAYERS)  # type: ignore[misc]
    channels, inner = round(width * before), round(width * after)
    if max(channels, inner) > MAX_CHANNELS:
        return None
    return _with_activation(convolution(side * stride, channels, inner, kernel, stride), u[5], dtype)


def _narrow(u: Point, dtype: str) -> KernelSpec | None:
    """What pruning leaves of a small network: a few channels, any number of them, on small maps."""
    side = int(choose(u[0], ((0.3, 28), (0.25, 14), (0.2, 7), (0.15, 32), (0.1, 16))))  # type: ignore[call-overload]
    kernel, stride = choose(u[4], ((0.55, (3, 1)), (0.1, (3, 2)), (0.25, (1, 1)), (0.1, (1, 2))))  # type: ignore[misc]
    channels, inner = (log_between(v**0.7, 1, 64) for v in u[1:3])
    spec = convolution(side * stride, channels, inner, kernel, stride)
    return spec._replace(fused="relu" if u[5] < 0.7 else "", dtype=dtype)


def _designed_depthwise(u: Point, dtype: str) -> KernelSpec | None:
    side, width = _stage(u)
    channels = width * int(choose(u[4], ((0.4, 1), (0.1, 3), (0.5, 6))))  # type: ignore[call-overload]
    if channels > MAX_CHANNELS:
        return None
    kernel, stride = choose(u[2], ((0.7, (3, 1)), (0.3, (3, 2))))  # type: ignore[misc]
    return _with_activation(convolution(side * stride, channels, channels, kernel, stride, channels), u[5], dtype)


def _stem(u: Point, dtype: str) -> KernelSpec | None:
    """First layers: one or three channels of a whole image."""
    side = int(choose(u[0], ((0.25, 28), (0.25, 32), (0.1, 64), (0.1, 96), (0.1, 128), (0.2, 224))))  # type: ignore[call-overload]
    kernel, stride, pad = choose(  # type: ignore[misc]
        u[4],
        (
            (0.35, (3, 1, 1)),
            (0.25, (3, 2, 1)),
            (0.1, (5, 1, 2)),
            (0.15, (7, 2, 3)),
            (0.05, (7, 2, 1)),
            (0.1, (11, 4, 0)),
        ),
    )
    if kernel == 11 and side < 96:
        return None
    out_channels = _aligned(log_between(u[2], 2, 128), u[3])
    return _with_activation(
        convolution(side, 1 if u[1] < 0.4 else 3, out_channels, kernel, stride, padding=pad), u[5], dtype
    )


def _grouped(u: Point, dtype: str) -> KernelSpec | None:
    side = _size(u[0])
    groups = int(choose(u[6], ((0.3, 2), (0.3, 4), (0.2, 8), (0.1, 3), (0.1, 32))))  # type: ignore[call-overload]
    kernel, stride = choose(u[4], ((0.5, (1, 1)), (0.35, (3, 1)), (0.1, (3, 2)), (0.05, (5, 1))))  # type: ignore[misc]
    channels = round(_channels(u[1], side, u[3]) / groups) * groups
    inner = round(_channels(u[2], side, u[3]) / groups) * groups
    if min(channels, inner) < 2 * groups or max(channels, inner) > 8 * min(channels, inner) or kernel > 2 * side:
        return None
    return _with_activation(convolution(side, channels, inner, kernel, stride, groups), u[5], dtype)


def _depthwise(u: Point, dtype: str) -> KernelSpec | None:
    side = _size(u[0])
    kernel, stride = choose(u[4], ((0.5, (3, 1)), (0.25, (3, 2)), (0.15, (5, 1)), (0.06, (5, 2)), (0.04, (7, 1))))  # type: ignore[misc]
    channels = _channels(u[1], side, u[3])
    if channels < 2 or kernel > 2 * side + 1:
        return None
    return _with_activation(convolution(side, channels, channels, kernel, stride, channels), u[5], dtype)


def _fc(u: Point, dtype: str) -> KernelSpec | None:
    inputs, outputs = _aligned(log_between(u[1], 8, 25088), u[3]), log_between(u[2], 2, 4096)
    return _with_activation(KernelSpec("fc", 1, inputs, 1, 1, outputs, 1, 1), u[5], dtype)


def _plain(kind: str, side: int, channels: int, dtype: str, **fields: object) -> KernelSpec | None:
    """A kernel that leaves the shape as it is."""
    spec = KernelSpec(kind, 1, channels, side, side, channels, side, side, dtype=dtype)
    return _within(spec._replace(**fields))  # type: ignore[arg-type]


def _elementwise(kind: str, fused: Sequence[tuple[float, object]] = ((1.0, ""),), inputs: int = 1) -> Draw:
    def draw(u: Point, dtype: str) -> KernelSpec | None:
        side = _size(u[0])
        channels = _channels(u[1], side, u[3])
        return _plain(kind, side, channels, dtype, fused=choose(u[4], fused), inputs=inputs)

    return draw


def _lrn(u: Point, dtype: str) -> KernelSpec | None:
    side = _size(u[0])
    return _plain("lrn", side, _channels(u[1], side, u[3]), dtype, kernel_h=5)


def _concat(u: Point, dtype: str) -> KernelSpec | None:
    side = _size(u[0])
    inputs = int(choose(u[4], ((0.6, 2), (0.15, 3), (0.25, 4))))  # type: ignore[call-overload]
    return _plain("concat", side, inputs * _channels(u[1], side, u[3]), dtype, inputs=inputs)


def _pool(kind: str) -> Draw:
    shapes = ((0.4, (2, 2, 0)), (0.3, (3, 2, 1)), (0.15, (3, 1, 1)), (0.15, (3, 2, 0)))
    whole = 0.35 if kind == "avg_pool" else 0.0

    def draw(u: Point, dtype: str) -> KernelSpec | None:
        side = _size(u[0])
        channels = _channels(u[1], side, u[3])
        if u[5] < whole:
            kernel, stride, pad = side, 1, 0
        else:
            kernel, stride, pad = choose(u[4], shapes)  # type: ignore[misc]
        if side > 56 and kernel == side:
            return None
        spec = convolution(side, channels, channels, kernel, stride, padding=pad)
        return _within(spec._replace(kind=kind, groups=channels, dtype=dtype))

    return draw


def _global_pool(u: Point, dtype: str) -> KernelSpec | None:
    side = log_between(u[0], 2, 64)
    channels = _channels(u[1], side, u[3])
    spec = KernelSpec(
        "global_avg_pool", 1, channels, side, side, channels, 1, 1, side, side, groups=channels, dtype=dtype
    )
    return _within(spec)


def _softmax(u: Point, dtype: str) -> KernelSpec | None:
    classes = log_between(u[1], 2, 10000)
    return KernelSpec("softmax", 1, classes, 1, 1, classes, 1, 1, dtype=dtype)


def _slice(u: Point, dtype: str) -> KernelSpec | None:
    side = _size(u[0])
    channels = _channels(u[1], side, u[3])
    spec = _plain("slice", side, channels, dtype)
    return None if spec is None or channels < 2 else spec._replace(out_channels=channels // 2)


def _pad(u: Point, dtype: str) -> KernelSpec | None:
    side = _size(u[0])
    border = int(choose(u[4], ((0.7, 1), (0.2, 2), (0.1, 3))))  # type: ignore[call-overload]
    grown = side + (border if u[5] < 0.4 else 2 * border)  # half-open padding is what stride-2 networks use
    return _plain("pad", side, _channels(u[1], side, u[3]), dtype, out_height=grown, out_width=grown)


def _gather(u: Point, dtype: str) -> KernelSpec | None:
    """Some of the channels, chosen by indices: as many, a half or a quarter."""
    side = _size(u[0])
    channels = _channels(u[1], side, u[3])
    share = int(choose(u[4], ((0.4, 1), (0.4, 2), (0.2, 4))))  # type: ignore[call-overload]
    spec = _plain("gather", side, channels, dtype)
    return None if spec is None or channels < 4 else spec._replace(out_channels=channels // share)


def _reduce(u: Point, dtype: str) -> KernelSpec | None:
    """The mean over the channels of an image."""
    side = _size(u[0])
    spec = _plain("reduce", side, _channels(u[1], side, u[3]), dtype)
    return None if spec is None else spec._replace(out_channels=1)


def _resize(u: Point, dtype: str) -> KernelSpec | None:
    """Upsampling by 2 or 4, by the nearest pixel or between two a side."""
    side = min(_size(u[0]), MAX_SIDE // 2)
    factor = int(choose(u[4], ((0.8, 2), (0.2, 4))))  # type: ignore[call-overload]
    taps = 1 if u[5] < 0.5 else 2
    most = max(2, MAX_ELEMENTS // (side * factor) ** 2)
    channels = min(_channels(u[1], side, u[3]), most)
    fields = {"out_height": side * factor, "out_width": side * factor, "kernel_h": taps, "kernel_w": taps}
    return _plain("resize", side, channels, dtype, **fields)


_LARGE = ((0.45, (5, 1)), (0.2, (5, 2)), (0.2, (7, 1)), (0.1, (7, 2)), (0.05, (11, 1)))
_RELU_OR_NOT = ((0.65, "relu"), (0.35, ""))
_ACTIVATION = (
    (0.28, "relu"), (0.12, "relu6"), (0.14, "hardswish"), (0.12, "sigmoid"), (0.1, "hardsigmoid"), (0.12, "silu"),
    (0.05, "gelu"), (0.03, "tanh"), (0.02, "leaky_relu"), (0.02, "erf"),
)  # fmt: skip

DESIGN_VERSION = 2  # 1: no gather, reduce and resize, and five activations
_FIRST_ACTIVATIONS = ((0.4, "relu"), (0.15, "relu6"), (0.2, "hardswish"), (0.1, "sigmoid"), (0.15, "hardsigmoid"))

FAMILIES = (
    Family("conv_designed", "conv", 0.14, _designed),
    Family("conv_narrow", "conv", 0.09, _narrow, short=True),
    Family("conv_3x3", "conv", 0.08, _conv(((0.75, (3, 1)), (0.25, (3, 2))))),
    Family("conv_1x1", "conv", 0.07, _conv(((0.85, (1, 1)), (0.15, (1, 2))))),
    Family("conv_large", "conv", 0.04, _conv(_LARGE)),
    Family("conv_stem", "conv", 0.05, _stem),
    Family("conv_grouped", "conv", 0.05, _grouped),
    Family("depthwise", "depthwise", 0.08, _depthwise),
    Family("depthwise_designed", "depthwise", 0.04, _designed_depthwise),
    Family("fc", "fc", 0.08, _fc),
    Family("add", "add", 0.05, _elementwise("add", _RELU_OR_NOT, 2)),
    Family("max_pool", "max_pool", 0.04, _pool("max_pool")),
    Family("avg_pool", "avg_pool", 0.03, _pool("avg_pool")),
    Family("global_avg_pool", "global_avg_pool", 0.03, _global_pool),
    Family("concat", "concat", 0.03, _concat),
    Family("activation", "activation", 0.03, _elementwise("activation", _ACTIVATION)),
    Family("batch_norm", "batch_norm", 0.025, _elementwise("batch_norm", _RELU_OR_NOT)),
    Family("mul", "mul", 0.015, _elementwise("mul", inputs=2)),
    Family("lrn", "lrn", 0.015, _lrn),
    Family("transpose", "transpose", 0.02, _elementwise("transpose")),
    Family("softmax", "softmax", 0.015, _softmax),
    Family("slice", "slice", 0.01, _slice),
    Family("pad", "pad", 0.01, _pad),
    Family("gather", "gather", 0.006, _gather),
    Family("reduce", "reduce", 0.006, _reduce),
    Family("resize", "resize", 0.01, _resize),
)  # fmt: skip


def families_of(version: int) -> tuple[Family, ...]:
    """The families of a version of the design: an older run is replayed with the kernels that it chose from."""
    if version >= DESIGN_VERSION:
        return FAMILIES
    first = [family for family in FAMILIES if family.kind not in ("gather", "reduce", "resize")]
    draw = _elementwise("activation", _FIRST_ACTIVATIONS)
    return tuple(family._replace(draw=draw) if family.kind == "activation" else family for family in first)
