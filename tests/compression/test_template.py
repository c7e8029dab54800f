import functools

import pytest
import torch

from power_models.kernels import kernel_graph
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.template import make_template
from rig.compression.export import to_onnx
from rig.compression.networks import build


@functools.cache
def resnet20():
    """Exported once: that takes seconds."""
    return to_onnx(build("resnet20").eval(), (1, 28, 28))


# ONNX Runtime adds and drops layout reorders off its blocks of 16; at aligned widths the list holds.
@pytest.mark.parametrize(("rules", "stem"), [("virtual", 8), ("onnxruntime", 32)])
def test_the_template_at_other_widths_is_the_kernel_list_of_the_rebuilt_network(rules, stem):
    net = build("resnet20").eval()
    template = make_template(kernel_graph(resnet20(), rules), find_groups(net, torch.zeros(1, 1, 28, 28)))
    widths = {**template.seed_widths(), "conv1": stem, "layer2.1.conv1": 16, "layer3.0.conv2": 48}
    rebuilt = build("resnet20", widths=template.layer_widths(widths)).eval()
    expected = kernel_graph(to_onnx(rebuilt, (1, 28, 28)), rules)
    assert [k.at(widths) for k in template.kernels] == [n.spec for n in expected]


def test_blocks_are_found_and_their_kernels_vanish_with_them():
    net = build("resnet20").eval()
    template = make_template(kernel_graph(resnet20()), find_groups(net, torch.zeros(1, 1, 28, 28)))
    assert [b.name for b in template.blocks] == [f"layer{s}.{i}" for s in (1, 2, 3) for i in (0, 1, 2)]
    removed = ["layer1.1", "layer3.2"]
    table = template.layer_widths(template.seed_widths(), removed)
    assert table["layer1.1.conv1"] == 0
    assert "layer1.1.conv2" not in table
    rebuilt = kernel_graph(to_onnx(build("resnet20", widths=table).eval(), (1, 28, 28)))
    assert len(rebuilt) == len(template.kernels) - len(template.removed_kernels(removed))


def test_inverted_residual_blocks_are_found():
    net = build("mobilenetv2-0.5").eval()
    template = make_template(kernel_graph(to_onnx(net, (1, 28, 28))), find_groups(net, torch.zeros(1, 1, 28, 28)))
    assert len(template.blocks) == 10
    assert template.blocks[0].entry == "blocks.2.expand"
