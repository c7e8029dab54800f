"""Kernel lists by the virtual engine's rules, and what is refused."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from power_models.kernels import DynamicShape, InvalidModel, UnsupportedOperator, kernel_graph
from rig.workloads.onnx_builder import NetworkBuilder

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def kinds(nodes):
    return Counter(node.spec.kind for node in nodes)


@pytest.mark.parametrize(
    ("name", "kernels", "million_macs"),
    [
        ("bvlc_alexnet", 14, 655),
        ("densenet121", 246, 2834),
        ("inception_v1", 84, 1432),
        ("inception_v2", 94, 2019),
        ("resnet50", 73, 4089),
        ("shufflenet", 91, 125),
        ("squeezenet", 39, 349),
        ("vgg19", 25, 19632),
        ("zfnet512", 14, 1482),
    ],
)
def test_light_networks(name, kernels, million_macs):
    nodes = kernel_graph(LIGHT / f"light_{name}.onnx")
    assert len(nodes) == kernels
    assert round(sum(node.spec.macs for node in nodes) / 1e6) == million_macs
    assert all(node.weight for node in nodes if node.spec.kind in ("conv", "depthwise", "fc"))
    assert all(-1 <= source < index for index, node in enumerate(nodes) for source in node.inputs)


def test_resnet50_is_quick():
    best = min(_seconds_to_read("light_resnet50.onnx") for _ in range(3))
    assert best < 0.3


def _seconds_to_read(name):
    start = time.perf_counter()
    kernel_graph(LIGHT / name)
    return time.perf_counter() - start


def test_neither_runtime_nor_torch_is_imported():
    code = (
        "import sys, power_models.kernels; print([m for m in ('torch', 'onnxruntime', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_residual_block():
    net = NetworkBuilder(0)
    x = net.input(1, 16, 8, 8)
    y = net.batch_norm(net.conv(x, (16, 16), (3, 3)), 16)
    y = net.activation("relu", y)
    y = net.batch_norm(net.conv(y, (16, 16), (3, 3)), 16)
    y = net.activation("relu", net.node("Add", y, x))
    y = net.node("Flatten", net.node("GlobalAveragePool", y))
    nodes = kernel_graph(net.model(net.fc(y, 16, 10)))
    assert [(n.spec.kind, n.spec.fused) for n in nodes] == [
        ("conv", "relu"),
        ("conv", ""),
        ("add", "relu"),
        ("global_avg_pool", ""),
        ("fc", ""),
    ]
    assert [n.inputs for n in nodes] == [(-1,), (0,), (1, -1), (2,), (3,)]
    assert [n.weight for n in nodes] == ["weight_0", "weight_6", None, None, "weight_12"]
    assert nodes[2].spec.inputs == 2


def test_a_tensor_read_twice_is_not_fused():
    net = NetworkBuilder(0)
    y = net.conv(net.input(1, 8, 8, 8), (8, 8))
    nodes = kernel_graph(net.model(net.node("Add", net.activation("relu", y), y)))
    assert [n.spec.kind for n in nodes] == ["conv", "activation", "add"]


def test_a_network_output_is_not_fused_away():
    net = NetworkBuilder(0)
    y = net.conv(net.input(1, 8, 8, 8), (8, 8))
    nodes = kernel_graph(net.model(y, net.activation("relu", y)))
    assert [n.spec.kind for n in nodes] == ["conv", "activation"]


def test_gated_activations_are_one():
    net = NetworkBuilder(0)
    y = net.activation("silu", net.conv(net.input(1, 8, 8, 8), (8, 8)))
    assert [n.spec.fused for n in kernel_graph(net.model(y))] == ["silu"]


def test_weight_behind_a_transpose_keeps_its_name():
    net = NetworkBuilder(0)
    x = net.input(1, 8)
    weight = net.weight((4, 8), 1.0, 8)
    nodes = kernel_graph(net.model(net.node("MatMul", x, net.node("Transpose", net.node("Identity", weight)))))
    assert (nodes[0].spec.kind, nodes[0].weight, nodes[0].spec.out_channels) == ("fc", weight, 4)


def test_scale_and_shift_without_a_convolution_are_one_kernel():
    net = NetworkBuilder(0)
    x = net.batch_norm(net.activation("relu", net.input(1, 8, 4, 4)), 8)
    x = net.node("Mul", x, net.constant(np.ones((8, 1, 1), np.float32)))
    x = net.node("Add", x, net.constant(np.ones((8, 1, 1), np.float32)))
    nodes = kernel_graph(net.model(net.activation("relu", x)))
    assert [(n.spec.kind, n.spec.fused) for n in nodes] == [("activation", "relu"), ("batch_norm", "relu")]


def test_channel_gate_is_not_counted_as_a_full_input():
    net = NetworkBuilder(0)
    x = net.input(1, 8, 4, 4)
    gate = net.activation("sigmoid", net.conv(net.node("GlobalAveragePool", x), (8, 8)))
    nodes = kernel_graph(net.model(net.node("Mul", x, gate)))
    assert nodes[-1].spec.kind == "mul"
    assert nodes[-1].spec.inputs == 1
    assert nodes[-1].inputs == (-1, 1)


def test_unknown_operator_is_named():
    net = NetworkBuilder(0)
    with pytest.raises(UnsupportedOperator, match=r"Einsum \(node 'Einsum_0'\)") as error:
        kernel_graph(net.model(net.node("Einsum", net.input(1, 8), equation="ij->ji")))
    assert (error.value.operator, error.value.node) == ("Einsum", "Einsum_0")


def test_quantized_graphs_are_refused_by_name():
    net = NetworkBuilder(0)
    scale, zero = net.constant(np.float32(0.1)), net.constant(np.int8(0))
    x = net.node("QuantizeLinear", net.input(1, 8, 4, 4), scale, zero)
    with pytest.raises(UnsupportedOperator, match=r"QuantizeLinear .*quantized \(QDQ\) graphs are not read yet"):
        kernel_graph(net.model(net.node("DequantizeLinear", x, scale, zero)))


def test_product_of_two_activations_is_refused():
    net = NetworkBuilder(0)
    x = net.input(4, 4)
    with pytest.raises(UnsupportedOperator, match="constant matrix"):
        kernel_graph(net.model(net.node("MatMul", x, x)))


def _dynamic_model():
    net = NetworkBuilder(0)
    model = net.model(net.conv(net.input(1, 8, 8, 8), (8, 8)))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    return model


def test_open_dimensions_are_named():
    with pytest.raises(DynamicShape, match=r"'input_0' has shape \(batch, 8, height, 8\)"):
        kernel_graph(_dynamic_model())


def test_open_dimensions_can_be_given():
    assert kernel_graph(_dynamic_model(), shape=(2, 8, 8, 8))[0].spec.batch == 2
    with pytest.raises(InvalidModel, match="does not fit"):
        kernel_graph(_dynamic_model(), shape=(2, 9, 8, 8))


@pytest.mark.parametrize(("content", "message"), [(b"", "empty"), (b"\x80\x02not onnx" * 9, "not an ONNX file")])
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match=message):
        kernel_graph(path)


def test_file_cut_short(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes((LIGHT / "light_squeezenet.onnx").read_bytes()[:9000])
    with pytest.raises(InvalidModel):
        kernel_graph(path)


def test_missing_file(tmp_path):
    with pytest.raises(InvalidModel, match="no such file"):
        kernel_graph(tmp_path / "absent.onnx")


def test_unsorted_graph_is_refused():
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["nowhere"], ["y"])], "g", [value], [out])
    with pytest.raises(InvalidModel, match="'nowhere'"):
        kernel_graph(helper.make_model(graph))


def test_unknown_rules():
    with pytest.raises(ValueError, match="known: virtual, onnxruntime, tflite, tensorrt"):
        kernel_graph(LIGHT / "light_squeezenet.onnx", rules="openvino")


def test_weights_in_a_missing_external_file_are_not_needed(tmp_path):
    net = NetworkBuilder(0)
    model = net.model(net.conv(net.input(1, 64, 8, 8), (64, 64), (3, 3)))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=1024)
    (tmp_path / "m.data").unlink()
    assert kernel_graph(tmp_path / "m.onnx")[0].spec.macs == 64 * 64 * 9 * 64


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("dynamo", [False, True])
def test_torch_exports_give_one_list(tmp_path, dynamo):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 3, 1, 1, groups=16),
        nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(16, 10),
    ).eval()  # fmt: skip
    path = tmp_path / "net.onnx"
    options = {"dynamo": dynamo, "verbose": False} if dynamo else {"dynamo": False, "opset_version": 17}
    torch.onnx.export(network, (torch.randn(1, 3, 32, 32),), str(path), **options)
    nodes = kernel_graph(path)
    assert [(n.spec.kind, n.spec.fused) for n in nodes] == [
        ("conv", "relu6"),
        ("depthwise", "hardswish"),
        ("global_avg_pool", ""),
        ("fc", ""),
    ]
    assert nodes[-1].weight == "8.weight"
