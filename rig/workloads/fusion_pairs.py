"""Networks that tell whether a runtime runs two operators as one kernel (power_models/fusion_rules.py has the picture).

Small tensors, so that dispatching a kernel, which fusing saves, is most of what it costs; larger ones where a runtime
dispatches so cheaply that a call's own jitter hides it (``collect.fusion`` picks the side), for fusing then saves the
passing over memory. Between the units stands a
kernel that no engine known fuses with what is around it: a max pool, or a softmax where pools or flat tensors are
looked at. Operators with a second operand all read one, which is a network output too, so that it costs alike in every
network.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx

from power_models.kernel_builders import ACTIVATIONS
from rig.errors import BadInputError
from rig.workloads.onnx_builder import NetworkBuilder

SIDES, CHANNELS, UNITS = (4, 8, 16, 32, 64), 32, 32  # channels: whole blocks of every layout known
CHEAPEST = "relu"  # the least that a kernel of its own can cost

Pair = tuple[str, str]
PAIRS: tuple[Pair, ...] = (
    ("conv", "batch_norm"),
    ("conv", "relu"),
    ("conv+batch_norm", "relu"),
    ("conv", "relu6"),
    ("conv", "leaky_relu"),
    ("conv", "sigmoid"),
    ("conv", "hardsigmoid"),
    ("conv", "hardswish"),
    ("conv", "silu"),
    ("conv", "add"),
    ("conv+add", "relu"),
    ("depthwise", "batch_norm"),
    ("depthwise", "relu"),
    ("depthwise", "relu6"),
    ("depthwise", "hardswish"),
    ("add", "relu"),
    ("batch_norm", "relu"),
    ("max_pool", "relu"),
    ("avg_pool", "relu"),
    ("fc", "relu"),
    ("sigmoid", "mul"),
)


class Surroundings(NamedTuple):
    """What stands around the operators of a pair: the kernel between the units, flat or image, a second operand.

    ``side``: height and width of the images; a flat tensor has as many more rows as an image has more pixels.
    """

    between: str
    flat: bool
    second_operand: bool
    side: int = SIDES[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every tensor: (rows, channels) or (1, channels, height, width)."""
        return ((self.side // SIDES[0]) ** 2, CHANNELS) if self.flat else (1, CHANNELS, self.side, self.side)


def surroundings(pair: Pair, side: int = SIDES[0]) -> Surroundings:
    """Where a pair is looked at; BadInputError for an operator that is not known here."""
    operators = [*pair[0].split("+"), *pair[1].split("+")]
    known = {"conv", "depthwise", "fc", "batch_norm", "add", "mul", "max_pool", "avg_pool", "relu6", "clip"}
    unknown = [name for name in operators if name not in known | set(ACTIVATIONS.values())]
    if unknown:
        raise BadInputError(f"fusion of {pair[0]} and {pair[1]}: unknown operator {unknown[0]!r}", "see PAIRS")
    flat = "fc" in operators
    between = "softmax" if flat or {"max_pool", "avg_pool"} & set(operators) else "max_pool"
    return Surroundings(between, flat, bool({"add", "mul"} & set(operators)), side)


def pair_networks(pair: Pair, side: int = SIDES[0]) -> dict[str, tuple[Surroundings, tuple[str, ...]]]:
    """The networks of a pair by role (base, first, second, both, least): their surroundings and operators."""
    around = surroundings(pair, side)
    first, second = tuple(pair[0].split("+")), tuple(pair[1].split("+"))
    roles = {"base": (), "first": first, "second": second, "both": (*first, *second), "least": (CHEAPEST,)}
    return {role: (around, operators) for role, operators in roles.items()}


def network(around: Surroundings, operators: tuple[str, ...], units: int = UNITS) -> onnx.ModelProto:
    """``units`` times the operators and the kernel between; the same file for the same arguments."""
    builder = NetworkBuilder(0)
    x = _between(builder, around, builder.input(*around.shape))
    other = _between(builder, around, builder.input(*around.shape)) if around.second_operand else None
    for _ in range(units):
        before = x
        for name in operators:
            x = _operator(builder, name, x, before, other, operators)
        x = _between(builder, around, x)
    return builder.model(x, *([other] if other is not None else []))


def _between(builder: NetworkBuilder, around: Surroundings, x: str) -> str:
    if around.between == "softmax":
        return builder.node("Softmax", x, axis=1)
    return builder.max_pool(x, 3, 1, 1)


def _operator(
    builder: NetworkBuilder, name: str, x: str, before: str, other: str | None, operators: tuple[str, ...]
) -> str:
    """One operator on ``x``; a gate's product takes what the gate read (``before``), other pairs ``other``."""
    if name == "conv":
        return builder.conv(x, (CHANNELS, CHANNELS), gain=0.5)
    if name == "depthwise":
        return builder.conv(x, (CHANNELS, CHANNELS), (3, 3), groups=CHANNELS)
    if name == "fc":
        return builder.fc(x, CHANNELS, CHANNELS)
    if name == "batch_norm":
        return builder.batch_norm(x, CHANNELS)
    if name == "max_pool":
        return builder.max_pool(x, 3, 1, 1)
    if name == "avg_pool":
        return builder.node("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    if name == "mul" and "sigmoid" in operators:
        return builder.node("Mul", before, x)
    if name in ("add", "mul") and other is not None:
        return builder.node("Add" if name == "add" else "Mul", x, other)
    return builder.activation(name, x)
