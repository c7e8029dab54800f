"""Exports of published networks and of the operators that they are made of: every operator has a kernel, or a name."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from examples.image_networks import NETWORKS
from power_models.kernels import RULES, UnsupportedOperator, from_optimized, kernel_graph
from rig.workloads.grid import KINDS
from rig.workloads.onnx_builder import NetworkBuilder
from tests.power_models.test_kernels_onnxruntime import assert_same_list, block, optimized

__all__ = ["block"]  # the fixture

COMPANIONS = {"reorder_in", "reorder_out", "view"}  # never alone: measured beside others, or of no cost


def exported(network: nn.Module, path, dynamo: bool, opset: int, side: int = 64) -> onnx.ModelProto:
    """As torch writes it, by either of its exporters."""
    more = {"external_data": False} if dynamo else {}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.zeros(1, 3, side, side),), path, dynamo=dynamo, opset_version=opset, **more
        )
    return onnx.load(path)


def check(model: onnx.ModelProto, folder, block: int) -> None:
    """The rules' list is the runtime's, every kind is one that a calibration measures, and weights keep their names."""
    assert_same_list(model, folder, block)
    for rules in RULES:
        nodes = kernel_graph(model, rules)
        assert {node.spec.kind for node in nodes} <= {*KINDS, *COMPANIONS}
        assert all(node.weight for node in nodes if node.op in ("Conv", "Gemm", "MatMul"))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_as_the_torchscript_exporter_writes_them(name, tmp_path, block):
    model = exported(NETWORKS[name](10, width=0.25, depth=2), tmp_path / "net.onnx", dynamo=False, opset=17)
    check(model, tmp_path, block)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_as_the_dynamo_exporter_writes_them(name, opset, tmp_path, block):
    model = exported(NETWORKS[name](10, width=0.25, depth=2), tmp_path / "net.onnx", dynamo=True, opset=opset)
    check(model, tmp_path, block)


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_have_the_published_size(name):
    """Multiply-accumulates and parameters at 224 × 224, of the papers' tables (millions)."""
    published = {
        "mobilenet-v3-small": (56, 2.5),
        "efficientnet-b0": (390, 5.3),
        "efficientnet-lite0": (385, 4.7),
        "shufflenet-v2": (146, 2.3),
        "densenet-121": (2834, 8.0),
    }
    with torch.device("meta"):
        network = NETWORKS[name]().eval()
    macs = []

    def count(layer, given, result):
        taps = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.in_features
        macs.append(taps * result.numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    network(torch.zeros(1, 3, 224, 224, device="meta"))
    parameters = sum(p.numel() for p in network.parameters())
    assert sum(macs) / 1e6 == pytest.approx(published[name][0], rel=0.03)
    assert parameters / 1e6 == pytest.approx(published[name][1], rel=0.06)


def _sliced(net: NetworkBuilder, x: str, start: int, end: int) -> str:
    return net.node("Slice", x, *(net.constant(np.array([v], np.int64)) for v in (start, end, 1)))


@pytest.mark.parametrize("cuts", [(0, 16, 32), (0, 8, 16, 32), (0, 20, 32), (0, 16, 24)])
@pytest.mark.parametrize("other", [False, True])
def test_slices_that_share_a_tensor_out_are_one_split(cuts, other, tmp_path, block):
    net = NetworkBuilder(0)
    x = net.activation("relu", net.conv(net.input(1, 32, 8, 8), (32, 32)))
    parts = [net.activation("sigmoid", _sliced(net, x, a, b)) for a, b in itertools.pairwise(cuts)]
    model = net.model(*parts, *([net.activation("tanh", x)] if other else []))
    assert_same_list(model, tmp_path, block)
    slices = sum(node.spec.kind == "slice" for node in kernel_graph(model, "onnxruntime"))
    assert slices == (1 if cuts[-1] == 32 else 2)


GELUS = {"first": (0, True), "half-first": (1, True), "half-inside": (2, False)}


@pytest.mark.parametrize("order", GELUS)
def test_an_exported_gelu_is_one_kernel_where_the_engine_sees_it(order, tmp_path, block):
    how, seen = GELUS[order]
    net = NetworkBuilder(0)
    x = net.conv(net.input(1, 32, 8, 8), (32, 32))
    half = net.constant(np.float32(0.5))
    shifted = net.node(
        "Add", net.node("Erf", net.node("Div", x, net.constant(np.float32(2**0.5)))), net.constant(np.float32(1))
    )
    if how == 0:
        y = net.node("Mul", net.node("Mul", x, shifted), half)
    elif how == 1:
        y = net.node("Mul", net.node("Mul", x, half), shifted)
    else:  # as torch's dynamo exporter writes it: ONNX Runtime 1.31 runs five kernels
        y = net.node("Mul", x, net.node("Mul", half, shifted))
    model = net.model(net.conv(y, (32, 32)))
    assert [n.spec.fused for n in kernel_graph(model)] == ["gelu", ""]
    fused = [n.spec.fused for n in kernel_graph(model, "onnxruntime", block=block)]
    assert ("gelu" in fused, "erf" in fused) == (seen, not seen)
    assert_same_list(model, tmp_path, block)


@pytest.mark.parametrize("scale", [(2, 2), (1.5, 2), (2, 3)])
@pytest.mark.parametrize(
    "how",
    [
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        {"mode": "nearest"},
        {"mode": "linear"},
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
        {"mode": "cubic"},
    ],
)
def test_images_at_another_size(how, scale, tmp_path, block):
    net = NetworkBuilder(0)
    x = net.conv(net.input(1, 32, 8, 8), (32, 32))
    y = net.node("Resize", x, "", net.constant(np.array([1, 1, *scale], np.float32)), **how)
    model = net.model(net.conv(y, (32, 32)))
    assert_same_list(model, tmp_path, block)
    (resize,) = [n.spec for n in kernel_graph(model) if n.spec.kind == "resize"]
    assert resize.kernel_h == {"nearest": 1, "linear": 2, "cubic": 4}[how["mode"]]


OTHERS = {
    "gather": lambda net, x: net.node("Gather", x, net.constant(np.arange(16, dtype=np.int64)), axis=1),
    "reduce": lambda net, x: net.node("ReduceMean", x, axes=[1], keepdims=1),
    "transpose": lambda net, x: net.node("DepthToSpace", x, blocksize=2),
    "softmax": lambda net, x: net.node("LogSoftmax", x, axis=1),
    "global_avg_pool": lambda net, x: net.node("ReduceMean", x, axes=[2, 3], keepdims=0),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds(kind, tmp_path, block):
    net = NetworkBuilder(0)
    model = net.model(OTHERS[kind](net, net.conv(net.input(1, 32, 8, 8), (32, 32))))
    assert kind in {node.spec.kind for node in kernel_graph(model)}
    assert_same_list(model, tmp_path, block)


def test_an_operator_without_a_rule_is_named_with_its_node_in_both_lists(tmp_path):
    net = NetworkBuilder(0)
    model = net.model(net.node("Asinh", net.conv(net.input(1, 8, 8, 8), (8, 8))))
    for read in (lambda: kernel_graph(model), lambda: from_optimized(optimized(model, tmp_path), original=model)):
        with pytest.raises(UnsupportedOperator, match=r"Asinh \(node 'Asinh_\d'\).*Rewrite the network"):
            read()


def test_kinds_of_all_kernels_count_once():
    """A kernel list is the same however often it is read: merging nodes leaves the file's model alone."""
    net = NetworkBuilder(0)
    model = net.model(net.activation("silu", net.conv(net.input(1, 8, 8, 8), (8, 8))))
    first, second = (Counter(n.spec for n in kernel_graph(model)) for _ in range(2))
    assert first == second
