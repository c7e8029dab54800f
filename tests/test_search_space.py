"""A network at other widths and with fewer blocks: what is tied stays tied, what is drawn can be written as ONNX."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from power_models.kernels import KernelNode, kernel_graph
from rig.collect.node_onnx import network_model
from rig.collect.search_space import SearchSpace
from rig.errors import BadInputError
from rig.workloads.onnx_builder import NetworkBuilder


def residual() -> onnx.ModelProto:
    """A stem, two residual blocks (the second with a projection), a depthwise convolution, a classifier."""
    net = NetworkBuilder(1)
    x = net.activation("relu", net.conv(net.input(1, 3, 16, 16), (3, 16), (3, 3)))
    inner = net.activation("relu", net.conv(x, (16, 24), (3, 3)))
    x = net.activation("relu", net.node("Add", net.conv(inner, (24, 16), (3, 3)), x))
    inner = net.activation("relu", net.conv(x, (16, 32), (3, 3), stride=2))
    x = net.node("Add", net.conv(inner, (32, 32), (3, 3)), net.conv(x, (16, 32), stride=2))
    x = net.activation("relu6", net.conv(x, (32, 32), (3, 3), groups=32))
    x = net.node("Flatten", net.max_pool(x, 2, 2), axis=1)
    return net.model(net.fc(x, 32 * 16, 10))


def gated_and_joined() -> onnx.ModelProto:
    """Squeeze-and-excitation, and a concatenation of two branches."""
    net = NetworkBuilder(2)
    x = net.activation("relu", net.conv(net.input(1, 1, 12, 12), (1, 16), (3, 3)))
    gate = net.activation("relu", net.conv(net.node("GlobalAveragePool", x), (16, 8)))
    x = net.node("Mul", x, net.activation("sigmoid", net.conv(gate, (8, 16))))
    left, right = (net.activation("relu", net.conv(x, (16, width), (3, 3))) for width in (8, 24))
    x = net.activation("relu", net.conv(net.node("Concat", left, right, axis=1), (32, 20)))
    return net.model(net.fc(net.node("Flatten", net.node("GlobalAveragePool", x), axis=1), 20, 5))


def space(model: onnx.ModelProto) -> SearchSpace:
    return SearchSpace.of(kernel_graph(model, "virtual"))


def specs(nodes: list[KernelNode]) -> list:
    return [node.spec for node in nodes]


@pytest.mark.parametrize("model", [residual(), gated_and_joined()], ids=["residual", "gated"])
def test_at_the_seed_widths_it_is_the_network_itself(model: onnx.ModelProto) -> None:
    found = space(model)
    assert found.free
    assert specs(found.at(found.seed)) == specs(found.nodes)


@pytest.mark.parametrize("model", [residual(), gated_and_joined()], ids=["residual", "gated"])
def test_a_drawn_network_is_one_that_a_runtime_can_run(model: onnx.ModelProto) -> None:
    """Written as ONNX and read back, shapes inferred anew: the same kernels."""
    for nodes in space(model).draw(12, 3):
        assert specs(kernel_graph(network_model(nodes), "virtual")) == specs(nodes)


def test_draws_vary_and_repeat() -> None:
    found = space(residual())
    first, again, other = found.draw(20, 1), found.draw(20, 1), found.draw(20, 2)
    assert [specs(n) for n in first] == [specs(n) for n in again]
    assert [specs(n) for n in first] != [specs(n) for n in other]
    assert len({tuple(specs(n)) for n in first}) == 20
    macs = [sum(node.spec.macs for node in n) for n in first]
    assert max(macs) > 4 * min(macs)


def test_classifier_and_image_keep_their_channels() -> None:
    for nodes in space(residual()).draw(10, 4):
        assert (nodes[0].spec.in_channels, nodes[-1].spec.out_channels) == (3, 10)


def test_only_the_block_without_a_projection_can_go() -> None:
    found = space(residual())
    (block,) = found.blocks
    nodes = found.at(found.seed, block)
    assert len(nodes) == len(found.nodes) - len(block)
    assert [n.spec.kind for n in nodes].count("add") == 1
    assert specs(kernel_graph(network_model(nodes), "virtual")) == specs(nodes)


def test_what_cannot_be_followed_is_not_varied() -> None:
    net = NetworkBuilder(3)
    x = net.conv(net.input(1, 8, 6, 6), (8, 16))
    x = net.node("Reshape", x, net.constant(np.array([1, 4, 4, 6, 6], np.int64)))
    x = net.node("Reshape", net.node("Transpose", x, perm=[0, 2, 1, 3, 4]), net.constant(np.array([1, 16, 6, 6])))
    found = space(net.model(net.conv(x, (16, 12))))
    assert found.free == []
    with pytest.raises(BadInputError, match="no counterpart"):
        network_model(found.nodes)


def test_grouped_convolutions_stay_divisible() -> None:
    net = NetworkBuilder(4)
    x = net.activation("relu", net.conv(net.input(1, 3, 8, 8), (3, 32)))
    x = net.activation("relu", net.conv(x, (32, 64), (3, 3), groups=8))
    for nodes in space(net.model(net.conv(x, (64, 7)))).draw(15, 5):
        grouped = nodes[1].spec
        assert grouped.groups == 8
        assert grouped.in_channels % 8 == grouped.out_channels % 8 == 0
