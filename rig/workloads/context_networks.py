"""Random image networks in which kernels are profiled in context: real neighbours, warm caches, real layouts.

Eight families (VGG-like, residual, bottleneck, depthwise separable with or without squeeze-and-excitation, fire
modules, densely connected, grouped bottlenecks, channel shuffles), drawn from a seed; widths are the powers of two and
multiples of eight of designed networks, or the odd ones that pruning leaves. ``context_designs`` says which of them a
calibration measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log, log2, sqrt
from typing import NamedTuple

import numpy as np
import onnx

from rig.errors import BadInputError
from rig.workloads.onnx_builder import NetworkBuilder

SIDES = (28, 32, 48, 64, 96, 128, 160, 224)
LEAST_MACS, MOST_MACS = 4e6, 7e8  # about 1 to 200 ms on one core, from a desktop to a small board
SMALL_MACS = (8e5, 4e7)  # of what is left of a small network that was narrowed
TRIAL_WIDTH = 24
WIDTHS = (4, 96)  # of the first stage; stages double it


@dataclass
class _Plan:
    """What is drawn once, so that a network can be built at several widths."""

    family: str
    channels: int
    side: int
    classes: int
    blocks: list[int]
    growth: float
    groups: int
    gated: bool
    widths: str  # "powers" of two, multiples of "eight", or "any"
    activation: str
    jitter: list[float]


class _Stack:
    """The network so far: its last tensor, that tensor's channels and side, and what was spent."""

    def __init__(self, plan: _Plan, seed: int) -> None:
        self.network = NetworkBuilder(seed)
        self.plan = plan
        self.x = self.network.input(1, plan.channels, plan.side, plan.side)
        self.channels, self.side = plan.channels, plan.side
        self.macs = 0
        self._drawn = 0

    def width(self, wanted: float) -> int:
        """A width near ``wanted``: a power of two as most published networks have, a multiple of 8, or any."""
        jitter = self.plan.jitter[self._drawn % len(self.plan.jitter)]
        self._drawn += 1
        if self.plan.widths == "any":
            return max(3, round(wanted * jitter))
        if self.plan.widths == "powers":
            return max(8, 2 ** round(log2(wanted)))
        return max(8, 8 * round(wanted / 8))

    def conv(self, out: int, kernel: int = 3, stride: int = 1, groups: int = 1, active: bool = True) -> None:
        """A convolution, with the network's activation unless told otherwise."""
        gain = 1.41 if active else 0.7
        self.x = self.network.conv(self.x, (self.channels, out), (kernel, kernel), stride, None, groups, gain)
        self.side = (self.side + 2 * (kernel // 2) - kernel) // stride + 1
        self.macs += self.side**2 * out * (self.channels // groups) * kernel**2
        self.channels = out
        if active:
            self.x = self.network.activation(self.plan.activation, self.x)

    def pool(self) -> None:
        """Halve the map, while there is one."""
        if self.side >= 2:
            self.x = self.network.max_pool(self.x, 2, 2)
            self.side //= 2

    def add(self, other: str, active: bool = True) -> None:
        """Add a tensor of the same shape."""
        self.x = self.network.node("Add", self.x, other)
        if active:
            self.x = self.network.activation("relu", self.x)

    def gate(self) -> None:
        """Squeeze-and-excitation: scale each channel by what the global average of all of them says."""
        whole, side, channels = self.x, self.side, self.channels
        self.x, self.side = self.network.node("GlobalAveragePool", self.x), 1
        self.conv(max(8, channels // 4), 1)
        self.conv(channels, 1, active=False)
        self.x = self.network.node("Mul", whole, self.network.activation("hardsigmoid", self.x))
        self.side = side

    def shuffle(self, groups: int) -> None:
        """Deal the channels of each group out to all groups."""
        shape = [1, groups, self.channels // groups, self.side, self.side]
        apart = self.network.node("Reshape", self.x, self.network.constant(np.array(shape, dtype=np.int64)))
        dealt = self.network.node("Transpose", apart, perm=[0, 2, 1, 3, 4])
        whole = self.network.constant(np.array([1, self.channels, self.side, self.side], dtype=np.int64))
        self.x = self.network.node("Reshape", dealt, whole)

    def fc(self, out: int, active: bool = False) -> None:
        """A fully connected layer on a flat tensor."""
        self.x = self.network.fc(self.x, self.channels * self.side**2, out, 1.41 if active else 1.0)
        self.macs += self.channels * self.side**2 * out
        self.channels, self.side = out, 1
        if active:
            self.x = self.network.activation("relu", self.x)

    def classifier(self) -> onnx.ModelProto:
        """Global average pool, fully connected layer, and now and then a softmax."""
        self.x = self.network.node("Flatten", self.network.node("GlobalAveragePool", self.x))
        self.side = 1
        self.fc(self.plan.classes)
        return self.finished()

    def finished(self) -> onnx.ModelProto:
        """The model, with a softmax behind every other one."""
        x = self.network.node("Softmax", self.x) if self.plan.classes % 2 else self.x
        return self.network.model(x)


def _vgg(stack: _Stack, width: float) -> onnx.ModelProto:
    for stage, blocks in enumerate(stack.plan.blocks):
        for _ in range(blocks):
            stack.conv(stack.width(width * 2 ** min(stage, 3)))
        stack.pool()
    if stack.plan.growth > 0.4:  # as VGG-16 does, down to a single pixel
        while stack.side > 1:
            stack.conv(stack.width(width * 8))
            stack.pool()
    while stack.side > 8:
        stack.pool()
    stack.x = stack.network.node("Flatten", stack.x)
    stack.fc(stack.width(8 * width), active=True)
    stack.fc(stack.plan.classes)
    return stack.finished()


def _stem(stack: _Stack, width: float) -> None:
    """A first layer for large images halves twice; for small ones it keeps the map."""
    if stack.side >= 96:
        stack.conv(stack.width(width), 7 if stack.plan.growth > 0.5 else 3, 2)
        stack.pool()
    else:
        stack.conv(stack.width(width))


def _residual(stack: _Stack, width: float) -> onnx.ModelProto:
    _stem(stack, width)
    for stage, blocks in enumerate(stack.plan.blocks):
        out = stack.width(width * 2**stage)
        for block in range(blocks):
            _residual_block(stack, out, 2 if stage and not block and stack.side >= 4 else 1, bottleneck=False)
    return stack.classifier()


def _bottleneck(stack: _Stack, width: float) -> onnx.ModelProto:
    _stem(stack, width)
    for stage, blocks in enumerate(stack.plan.blocks):
        out = stack.width(2.5 * width * 2**stage)
        for block in range(blocks):
            _residual_block(stack, out, 2 if stage and not block and stack.side >= 4 else 1, bottleneck=True)
    return stack.classifier()


def _residual_block(stack: _Stack, out: int, stride: int, bottleneck: bool) -> None:
    before, channels, side = stack.x, stack.channels, stack.side
    if bottleneck:
        inner = stack.width(out / 4)
        stack.conv(inner, 1)
        stack.conv(inner, 3, stride)
        stack.conv(out, 1, active=False)
    else:
        stack.conv(stack.width(out), 3, stride)
        stack.conv(out, 3, active=False)
    after = stack.x, stack.channels, stack.side
    if stride != 1 or channels != out:
        stack.x, stack.channels, stack.side = before, channels, side
        stack.conv(out, 1, stride, active=False)
        before = stack.x
    stack.x, stack.channels, stack.side = after
    stack.add(before)


def _mobile(stack: _Stack, width: float) -> onnx.ModelProto:
    stack.conv(stack.width(width), 3, 2 if stack.side >= 64 else 1)
    for stage, blocks in enumerate(stack.plan.blocks):
        out = stack.width(0.75 * width * 2**stage)
        for block in range(blocks):
            before, channels = stack.x, stack.channels
            stride = 2 if stage and not block and stack.side >= 4 else 1
            inner = stack.width(channels * (3 + 3 * stack.plan.growth))
            stack.conv(inner, 1)
            stack.conv(inner, 5 if stage == 2 else 3, stride, groups=inner)
            if stage and stack.plan.gated:
                stack.gate()
            stack.conv(out, 1, active=False)
            if stride == 1 and channels == out:
                stack.add(before, active=False)
    stack.conv(stack.width(6 * width), 1)
    return stack.classifier()


def _grouped(stack: _Stack, width: float) -> onnx.ModelProto:
    """Bottlenecks whose k×k convolution is grouped, as in ResNeXt; of the first stages of AlexNet, large kernels."""
    _stem(stack, width)
    groups = stack.plan.groups
    for stage, blocks in enumerate(stack.plan.blocks):
        out = groups * max(1, round(stack.width(2.0 * width * 2**stage) / groups))
        for block in range(blocks):
            before, channels = stack.x, stack.channels
            stride = 2 if stage and not block and stack.side >= 4 else 1
            inner = groups * max(1, round(stack.width(out / 2) / groups))
            stack.conv(inner, 1)
            stack.conv(inner, 5 if stack.plan.growth > 0.8 else 3, stride, groups=groups)
            stack.conv(out, 1, active=False)
            if stride == 1 and channels == out:
                stack.add(before)
    return stack.classifier()


def _shuffle(stack: _Stack, width: float) -> onnx.ModelProto:
    """Grouped 1×1 convolutions with a channel shuffle between them, as in ShuffleNet."""
    _stem(stack, width)
    groups = stack.plan.groups
    for stage, blocks in enumerate(stack.plan.blocks):
        out = 4 * groups * max(1, round(stack.width(3.0 * width * 2**stage) / (4 * groups)))
        stack.conv(out, 1)
        for block in range(blocks):
            before, channels = stack.x, stack.channels
            stride = 2 if stage and not block and stack.side >= 4 else 1
            stack.conv(out // 4, 1, groups=groups)
            stack.shuffle(groups)
            stack.conv(out // 4, 3, stride, groups=out // 4, active=False)
            stack.conv(out, 1, groups=groups, active=False)
            if stride == 1 and channels == out:
                stack.add(before)
    return stack.classifier()


def _fire(stack: _Stack, width: float) -> onnx.ModelProto:
    _stem(stack, width)
    for stage, blocks in enumerate(stack.plan.blocks):
        for _ in range(blocks):
            stack.conv(stack.width(width * (stage + 1) / 2), 1)
            squeezed, channels = stack.x, stack.channels
            stack.conv(stack.width(width * (stage + 1)), 1)
            narrow, first = stack.x, stack.channels
            stack.x, stack.channels = squeezed, channels
            stack.conv(stack.width(width * (stage + 1)), 3)
            stack.x = stack.network.node("Concat", narrow, stack.x, axis=1)
            stack.channels += first
        stack.pool()
    return stack.classifier()


def _dense(stack: _Stack, width: float) -> onnx.ModelProto:
    _stem(stack, width)
    for stage, blocks in enumerate(stack.plan.blocks):
        for _ in range(blocks):
            before, channels = stack.x, stack.channels
            stack.x = stack.network.activation("relu", stack.network.batch_norm(stack.x, channels))
            stack.conv(stack.width(width), 1)
            stack.conv(stack.width(width / 2), 3, active=False)
            stack.x = stack.network.node("Concat", before, stack.x, axis=1)
            stack.channels += channels
        if stage + 1 < len(stack.plan.blocks) and stack.side >= 4:
            stack.conv(stack.width(stack.channels / 2), 1)
            stack.x = stack.network.node("AveragePool", stack.x, kernel_shape=[2, 2], strides=[2, 2])
            stack.side //= 2
    return stack.classifier()


FAMILIES: dict[str, Callable[[_Stack, float], onnx.ModelProto]] = {
    "vgg": _vgg,
    "residual": _residual,
    "bottleneck": _bottleneck,
    "mobile": _mobile,
    "fire": _fire,
    "grouped": _grouped,
    "shuffle": _shuffle,
    "dense": _dense,
}


class ContextDesign(NamedTuple):
    """The arguments of a ``context_network``, and the name that it goes by."""

    name: str
    seed: int
    family: str
    image: tuple[int, int]
    macs: tuple[float, float]

    def model(self) -> onnx.ModelProto:
        """The network; the same each time."""
        return context_network(self.seed, self.family, self.image, self.macs)


def context_designs(count: int, seed: int) -> list[ContextDesign]:
    """``count`` varied networks, any first few of them varied too: families, image sides and channels in turn.

    Every other one is small: an image of 28 or 32 a side, and as few multiply-accumulates as narrowing leaves; half of
    those are residual networks, of which most compressed networks are made.
    """
    random = np.random.default_rng([seed, 20])
    families, sides = list(FAMILIES), list(SIDES)
    random.shuffle(families)
    random.shuffle(sides)
    designs = []
    for number in range(count):
        small, turn = number % 2 == 0, number // 2
        family = "residual" if small and turn % 2 == 0 else families[(turn // 2 if small else turn) % len(families)]
        side = (28, 32)[int(random.integers(2))] if small else sides[(turn + turn // len(families)) % len(sides)]
        channels = 1 if random.random() < (0.5 if small else 0.15) else 3
        macs = SMALL_MACS if small else (LEAST_MACS, MOST_MACS)
        name = f"context-{number:02d}-{family}-{channels}x{side}"
        designs.append(ContextDesign(name, 1000 * seed + number, family, (channels, side), macs))
    return designs


def context_network(
    seed: int,
    family: str | None = None,
    image: tuple[int, int] | None = None,
    macs: tuple[float, float] = (LEAST_MACS, MOST_MACS),
) -> onnx.ModelProto:
    """A random image network of about ``macs`` (least, most) multiply-accumulates, the same for the same arguments.

    ``family``: one of ``FAMILIES`` (drawn where None). ``image``: (channels, side) of its input, to be like a task's
    (drawn where None). Raises BadInputError for an unknown family or an image smaller than 8 a side.
    """
    if family is not None and family not in FAMILIES:
        raise BadInputError(f"drawing a network: unknown family {family!r}", f"known: {', '.join(FAMILIES)}")
    if image is not None and (image[0] < 1 or image[1] < 8):
        raise BadInputError(f"drawing a network: an image of {image} is too small", "8 pixels a side at least")
    random = np.random.default_rng(seed)
    plan = _drawn_plan(random, family, image)
    target = exp(random.uniform(log(macs[0]), log(macs[1])))
    trial = _Stack(plan, seed)
    FAMILIES[plan.family](trial, TRIAL_WIDTH)
    # Multiply-accumulates grow about with the square of the width.
    width = min(max(TRIAL_WIDTH * sqrt(target / trial.macs), WIDTHS[0]), WIDTHS[1])
    return FAMILIES[plan.family](_Stack(plan, seed), width)


def _drawn_plan(random: np.random.Generator, family: str | None, image: tuple[int, int] | None) -> _Plan:
    side = int(random.choice(SIDES))
    channels = 1 if random.random() < 0.3 else 3
    if image is not None:
        channels, side = image
    stages = 3 if side < 64 else 4
    return _Plan(
        family=family or str(random.choice(list(FAMILIES))),
        channels=channels,
        side=side,
        classes=int(random.choice((10, 10, 21, 100, 1000))),
        blocks=[int(b) for b in random.integers(1, 4, stages)],
        growth=float(random.random()),
        widths=str(random.choice(("any", "any", "any", "eight", "powers", "powers"))),
        activation=str(random.choice(("relu", "relu", "relu", "relu6", "hardswish"))),
        groups=int(random.choice((2, 3, 4, 8, 32))),
        gated=bool(random.random() < 0.4),
        jitter=[float(j) for j in random.uniform(0.75, 1.25, 64)],
    )
