"""What the study measures and predicts: networks that no row comes from, and a stand-in for the calibration grid."""

from __future__ import annotations

import io
import random
from pathlib import Path

import onnx

from device_agents.records import KernelSpec
from power_models.kernels import kernel_graph

SMALL = ("resnet20", "vgg16", "mobilenetv2")
LIGHT = ("resnet50", "squeezenet", "vgg19", "bvlc_alexnet", "zfnet512", "densenet121", "shufflenet")


def evaluation_networks() -> dict[str, list[KernelSpec]]:
    """Kernel lists by name: three networks for 28×28 images, seven of the onnx wheel."""
    lists = {name: small_network(name) for name in SMALL}
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for name in LIGHT:
        nodes = kernel_graph(folder / f"light_{name}.onnx", "virtual")
        lists[f"light_{name}"] = [node.spec for node in nodes]
    return lists


def small_network(name: str) -> list[KernelSpec]:
    """The kernels of a network for one-channel 28×28 images."""
    import torch

    from rig.compression.networks import build

    buffer = io.BytesIO()
    torch.onnx.export(build(name).eval(), (torch.zeros(1, 1, 28, 28),), buffer, dynamo=False, opset_version=17)
    model = onnx.load_from_string(buffer.getvalue())
    return [node.spec for node in kernel_graph(model, "virtual")]


def stand_in_design(count: int, seed: int) -> list[KernelSpec]:
    """Random kernels over the ranges of common CNNs; used until, and to compare with, ``rig.workloads.grid.design``."""
    rng = random.Random(f"stand-in-{seed}")
    kinds = ["conv1"] * 22 + ["convk"] * 27 + ["grouped"] * 5 + ["depthwise"] * 13 + ["fc"] * 9
    kinds += ["add", "max_pool", "avg_pool", "global_avg_pool", "concat", "batch_norm", "lrn", "softmax"] * 3
    kinds += ["transpose", "activation"] * 2
    found: list[KernelSpec] = []
    while len(found) < count:
        spec = _kernel(rng, kinds[len(found) % len(kinds)])
        if spec.macs <= 4e9 and spec.input_bytes + spec.output_bytes + spec.weight_bytes <= 2e8:
            found.append(spec)
    return found


def _between(rng: random.Random, low: float, high: float) -> int:
    return max(1, round(low * (high / low) ** rng.random()))


def _channels(rng: random.Random, size: int) -> int:
    most = max(64, min(2048, 14000 // size))
    value = _between(rng, 3, most)
    return max(4, value // 8 * 8) if rng.random() < 0.4 else value


def _kernel(rng: random.Random, kind: str) -> KernelSpec:
    size = rng.choice([4, 7, 8, 12, 14, 16, 28, 28, 32, 56, 56, 112, 224])
    c_in, c_out = _channels(rng, size), _channels(rng, size)
    if kind == "fc":
        return KernelSpec("fc", 1, _between(rng, 32, 26000), 1, 1, _between(rng, 8, 4096), 1, 1, fused=_relu(rng))
    if kind == "conv1":
        return _conv("conv", c_in, c_out, size, 1, rng.choice([1, 1, 1, 2]), 1, _relu(rng))
    if kind == "convk":
        if rng.random() < 0.12:
            c_in = rng.choice([1, 3])
        return _conv("conv", c_in, c_out, size, rng.choice([3, 3, 3, 5, 7, 11]), rng.choice([1, 1, 2]), 1, _relu(rng))
    if kind == "grouped":
        groups = rng.choice([2, 3, 4, 8])
        c_in, c_out = (max(1, c // groups) * groups for c in (c_in, c_out))
        return _conv("conv", c_in, c_out, size, rng.choice([1, 3, 3, 5]), 1, groups, _relu(rng))
    if kind == "depthwise":
        return _conv("depthwise", c_in, c_in, size, rng.choice([3, 3, 5, 7]), rng.choice([1, 2]), c_in, _relu(rng))
    return _memory(rng, kind, c_in, size)


def _relu(rng: random.Random) -> str:
    return rng.choice(["relu", "relu", ""])


def _conv(kind: str, c_in: int, c_out: int, size: int, kernel: int, stride: int, groups: int, fused: str) -> KernelSpec:
    pad = kernel // 2
    out = (size + 2 * pad - kernel) // stride + 1
    return KernelSpec(kind, 1, c_in, size, size, c_out, out, out, kernel, kernel, stride, pad, 1, groups, fused=fused)


def _memory(rng: random.Random, kind: str, channels: int, size: int) -> KernelSpec:
    plain = KernelSpec(kind, 1, channels, size, size, channels, size, size)
    if kind in ("max_pool", "avg_pool"):
        kernel = min(size, rng.choice([2, 3, 7]))
        stride = rng.choice([1, 2])
        out = (size - kernel) // stride + 1
        pool = plain._replace(kernel_h=kernel, kernel_w=kernel, stride=stride, groups=channels)
        return pool._replace(out_height=out, out_width=out)
    if kind == "global_avg_pool":
        return plain._replace(out_height=1, out_width=1, groups=channels)
    if kind == "softmax":
        classes = _between(rng, 10, 1000)
        return KernelSpec(kind, 1, classes, 1, 1, classes, 1, 1)
    if kind in ("add", "concat"):
        return plain._replace(inputs=2, fused=_relu(rng) if kind == "add" else "")
    return plain._replace(fused="relu" if kind == "activation" else ("relu" if kind == "batch_norm" else ""))
