"""The rules' list equals the list that ONNX Runtime itself makes on this machine, specs and weights included."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from power_models.kernels import InvalidModel, from_optimized, kernel_graph
from rig.workloads.context_networks import FAMILIES, context_network
from rig.workloads.onnx_builder import NetworkBuilder

ort = pytest.importorskip("onnxruntime")

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    """The block of this machine, seen in how the runtime pads 24 channels."""
    net = NetworkBuilder(0)
    model = net.model(net.conv(net.input(1, 3, 8, 8), (3, 20)))
    graph = onnx.load_model(optimized(model, tmp_path_factory.mktemp("block")), load_external_data=False).graph
    if not any(node.op_type == "ReorderOutput" for node in graph.node):
        return 0
    padded = max(w.dims[0] for w in graph.initializer if len(w.dims) == 4)
    return 16 if padded == 32 else 8


def optimized(model, folder):
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.intra_op_num_threads = 1
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return options.optimized_model_filepath


def light(name):
    """A light network whose weights differ from layer to layer (of equal ones the runtime merges equal branches)."""
    model = onnx.load_model(LIGHT / f"light_{name}.onnx")
    for index, node in enumerate(model.graph.node):
        if node.op_type == "ConstantOfShape":
            node.attribute[0].t.float_data[0] = 0.02 + 1e-5 * index
    return model


def assert_same_list(model, folder, block):
    real = from_optimized(optimized(model, folder), original=model)
    ruled = kernel_graph(model, "onnxruntime", block=block)
    assert Counter((n.spec, n.weight) for n in real) == Counter((n.spec, n.weight) for n in ruled)


@pytest.mark.parametrize(
    "name", ["resnet50", "densenet121", "inception_v1", "inception_v2", "shufflenet", "squeezenet"]
)
def test_light_networks(name, tmp_path, block):
    assert_same_list(light(name), tmp_path, block)


@pytest.mark.parametrize("name", ["inception_v1", "inception_v2", "shufflenet"])
def test_light_networks_as_they_are(name, tmp_path, block):
    """With all weights of a layer equal, as in the file: of equal branches the runtime runs one."""
    model = onnx.load_model(LIGHT / f"light_{name}.onnx")
    real = from_optimized(optimized(model, tmp_path), original=model)
    assert Counter(n.spec for n in real) == Counter(n.spec for n in kernel_graph(model, "onnxruntime", block=block))


def test_a_branch_that_is_a_network_output_is_not_merged(tmp_path, block):
    net = NetworkBuilder(0)
    x = net.input(1, 16, 8, 8)
    model = net.model(net.activation("relu", x), net.activation("relu", x))
    assert_same_list(model, tmp_path, block)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg19", "bvlc_alexnet", "zfnet512"])
def test_large_light_networks(name, tmp_path, block):
    assert_same_list(light(name), tmp_path, block)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_networks(family, seed, tmp_path, block):
    assert_same_list(context_network(seed, family, image=(3, 32)), tmp_path, block)


ACTIVATIONS = ("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "elu", "softplus")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels", [32, 30, 24])
def test_activations_behind_everything(activation, channels, tmp_path, block):
    net = NetworkBuilder(0)
    x = net.input(1, channels, 8, 8)
    a = net.activation(activation, net.conv(x, (channels, channels)))
    b = net.activation(
        activation, net.node("Add", net.conv(a, (channels, channels)), net.conv(x, (channels, channels)))
    )
    c = net.activation(activation, net.max_pool(b, 2, 2))
    d = net.activation(activation, net.fc(net.node("Flatten", c), channels * 16, 10))
    assert_same_list(net.model(d, net.conv(net.activation(activation, x), (channels, channels))), tmp_path, block)


def test_pads_are_done_by_the_convolution(tmp_path, block):
    net = NetworkBuilder(0)
    x = net.node("Pad", net.input(1, 3, 16, 16), net.constant(np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64)))
    model = net.model(net.conv(x, (3, 16), (3, 3), 2, (0, 0, 0, 0)))
    assert not any(node.spec.kind == "pad" for node in kernel_graph(model, "onnxruntime", block=block))
    assert_same_list(model, tmp_path, block)


def test_order_and_names_are_the_profile_s(tmp_path):
    model = context_network(5, "residual", image=(3, 32))
    path = optimized(model, tmp_path)
    names = [node.name for node in onnx.load_model(path).graph.node]
    profile = [{"name": name, "op_name": ""} for name in reversed(names)]
    nodes = from_optimized(Path(path).read_bytes(), profile[::-1], original=model)
    assert [node.name for node in nodes] == names
    with pytest.raises(InvalidModel, match="lacks node"):
        from_optimized(path, profile[::-1][:-1])
    with pytest.raises(InvalidModel, match="names node 'other'"):
        from_optimized(path, [*profile[::-1], {"name": "other", "op_name": "Relu"}])


def test_without_the_original_channels_come_from_the_reorders(tmp_path, block):
    net = NetworkBuilder(0)
    x = net.activation("relu", net.conv(net.input(1, 3, 8, 8), (3, 20)))
    model = net.model(net.node("GlobalAveragePool", x))
    real = from_optimized(optimized(model, tmp_path))
    assert [n.spec for n in real] == [n.spec for n in kernel_graph(model, "onnxruntime", block=block)]


def test_without_blocks_there_are_no_reorders():
    nodes = kernel_graph(light("resnet50"), "onnxruntime", block=0)
    assert not any(node.spec.kind.startswith("reorder") for node in nodes)


def test_reorders_named_otherwise_in_the_profile_are_matched_by_position(tmp_path):
    """ONNX Runtime gives the reorders that it inserts other names in each session, and may swap them."""
    net = NetworkBuilder(0)
    x = net.input(1, 17, 12, 12)
    for channels in ((17, 16), (16, 17)) * 3:
        x = net.conv(x, channels)
    model = net.model(x)
    path = Path(optimized(model, tmp_path))
    entries = [{"name": node.name, "op_name": node.op_type} for node in onnx.load_model(path).graph.node]
    plain = [node.spec for node in from_optimized(path, original=model)]
    reorders = [i for i, entry in enumerate(entries) if entry["op_name"] == "ReorderOutput"]
    assert len(reorders) >= 2
    names = [entries[i]["name"] for i in reorders]
    for i, name in zip(reorders, names[1:] + names[:1], strict=True):
        entries[i]["name"] = name
    nodes = from_optimized(path, entries, model)
    assert [node.spec for node in nodes] == plain
    assert [node.name for node in nodes] == [entry["name"] for entry in entries]
    assert all(index < i for i, node in enumerate(nodes) for index in node.inputs)
    with pytest.raises(InvalidModel, match="ReorderOutput"):
        from_optimized(path, [*entries, {"name": "more", "op_name": "ReorderOutput"}], model)
