"""Small ONNX networks written node by node, with seeded weights: no torch, no exporter."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # what opset 17 came with; older runtimes on boards read it


class NetworkBuilder:
    """Grows one ONNX graph; tensors are named by the strings that its methods return.

    Weights are normal with variance ``gain``²/fan-in (He et al. 2015: a gain of √2 keeps the variance through a ReLU),
    so that activations neither vanish nor explode, and differ from copy to copy, so that nothing is merged or folded.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._weights: list[onnx.TensorProto] = []

    def input(self, *shape: int) -> str:
        """A float32 network input."""
        name = f"input_{len(self._inputs)}"
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def constant(self, values: np.ndarray) -> str:
        """An initializer."""
        name = f"weight_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, shape: tuple[int, ...], gain: float, fan_in: int) -> str:
        """A normal float32 weight of variance gain²/fan_in."""
        values = self._random.standard_normal(shape, dtype=np.float32)
        return self.constant(values * np.float32(gain / np.sqrt(fan_in)))

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        """One operator with one output."""
        name = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def conv(
        self,
        x: str,
        channels: tuple[int, int],
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        pads: tuple[int, int, int, int] | None = None,
        groups: int = 1,
        gain: float = 1.0,
        dilation: int = 1,
    ) -> str:
        """A convolution from channels[0] to channels[1], with bias; "same" padding unless ``pads`` are given."""
        fan_in = channels[0] // groups * kernel[0] * kernel[1]
        weight = self.weight((channels[1], channels[0] // groups, *kernel), gain, fan_in)
        bias = self.weight((channels[1],), 0.1, 1)
        if pads is None:
            pads = (kernel[0] // 2, kernel[1] // 2, kernel[0] // 2, kernel[1] // 2)
        return self.node(
            "Conv", x, weight, bias, kernel_shape=list(kernel), strides=[stride] * 2, pads=list(pads), group=groups,
            dilations=[dilation] * 2,
        )  # fmt: skip

    def fc(self, x: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        """A fully connected layer with bias."""
        return self.node(
            "Gemm", x, self.weight((outputs, inputs), gain, inputs), self.weight((outputs,), 0.1, 1), transB=1
        )

    def batch_norm(self, x: str, channels: int) -> str:
        """A batch normalization with moments as training leaves them (scale about one, variance about one)."""
        scale, variance = (self._random.uniform(0.8, 1.2, channels).astype(np.float32) for _ in range(2))
        bias, mean = (self._random.normal(0.0, 0.1, channels).astype(np.float32) for _ in range(2))
        return self.node("BatchNormalization", x, *(self.constant(v) for v in (scale, bias, mean, variance)))

    def activation(self, name: str, x: str) -> str:
        """An activation by its short name; ValueError for one that is not known here."""
        if name in ("relu6", "clip"):
            top = 6.0 if name == "relu6" else 4.0
            return self.node("Clip", x, self.constant(np.float32(0.0)), self.constant(np.float32(top)))
        if name == "silu":
            return self.node("Mul", x, self.node("Sigmoid", x))
        if name == "gelu":  # opset 17 has no operator for it: as torch's exporter writes it
            scaled = self.node("Div", x, self.constant(np.float32(np.sqrt(2.0))))
            shifted = self.node("Add", self.node("Erf", scaled), self.constant(np.float32(1.0)))
            return self.node("Mul", self.node("Mul", x, shifted), self.constant(np.float32(0.5)))
        if name not in _OPERATORS:
            known = sorted([*_OPERATORS, "relu6", "clip", "silu", "gelu"])
            raise ValueError(f"no ONNX operator for the activation {name!r}; known: {', '.join(known)}")
        operator, attributes = _OPERATORS[name]
        return self.node(operator, x, **attributes)

    def max_pool(self, x: str, kernel: int, stride: int, padding: int = 0) -> str:
        """A square max pool."""
        return self.node("MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The finished model."""
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self._nodes, "network", self._inputs, results, self._weights)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="rig")


# Leaky slopes are drawn steep: a chain of 0.01s would take its negative half to denormal numbers, which are slow.
_OPERATORS: dict[str, tuple[str, dict[str, float]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.9}),
    "sigmoid": ("Sigmoid", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 1.0 / 6.0, "beta": 0.5}),
    "hardswish": ("HardSwish", {}),
    "tanh": ("Tanh", {}),
    "elu": ("Elu", {}),
    "selu": ("Selu", {}),
    "softplus": ("Softplus", {}),
    "erf": ("Erf", {}),
}
