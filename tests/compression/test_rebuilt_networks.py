"""Every kind of network through the whole line: groups, template, cut at random widths, export, equality."""

from __future__ import annotations

import functools

import numpy as np
import onnxruntime
import pytest
import torch
from odd_networks import EXAMPLE as SMALL
from odd_networks import Flattened, Gated, Grouped
from stairs import stairs

from power_models.kernels import kernel_graph
from power_models.tables import NetworkTables
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.plain_model import with_widths
from rig.compression.cutting.rehearsal import scrambled
from rig.compression.cutting.surgery import Narrowing, function_difference, narrow
from rig.compression.cutting.template import Template, make_template
from rig.compression.cutting.verified_surgery import unequal
from rig.compression.export import to_onnx
from rig.compression.networks import VGG, DenseNet, MobileNetV2, ResNet

IMAGE = torch.zeros(1, 1, 28, 28)
BOTTLENECKS = ((1, 8, 1, 1), (3, 16, 2, 2), (3, 24, 2, 2))
NETWORKS = {
    "resnet": (lambda widths=None: ResNet((1, 2), (8, 12), widths=widths), IMAGE),
    "vgg": (lambda widths=None: VGG((8, "M", 12, "M", 16, 16), widths=widths), IMAGE),
    "mobilenet": (lambda widths=None: MobileNetV2(widths=widths, plan=BOTTLENECKS), IMAGE),
    "densenet": (lambda widths=None: DenseNet((2, 2), 4, widths=widths), IMAGE),
    "squeeze-excite": (Gated, SMALL),
    "grouped": (Grouped, SMALL),
    "flattened": (Flattened, SMALL),
}

PLAIN = ("resnet", "mobilenet", "squeeze-excite", "grouped", "flattened")
for kind in PLAIN:  # given as they are, without widths
    model, image = NETWORKS[kind]
    NETWORKS[f"plain {kind}"] = (with_widths(lambda model=model: model(), image.shape[1:]), image)
EXPORTED = [*list(NETWORKS)[:4], "grouped", "flattened"]


@functools.cache
def prepared(name: str) -> tuple[torch.nn.Module, Template]:
    """The network with weights and statistics of its own, and its template; exported once."""
    build, example = NETWORKS[name]
    torch.manual_seed(1)
    network = scrambled(build()).eval()
    groups = find_groups(network, example, build)
    # Exporting is what takes time.
    nodes = kernel_graph(to_onnx(network, example.shape[1:]), "virtual") if name in EXPORTED else []
    return network, make_template(nodes, groups)


def drawn(template: Template, generator: torch.Generator, most: float = 1.0) -> tuple[dict, dict]:
    """Random units to keep, and widths; ``most`` above 1 lets groups grow."""
    kept, widths = {}, template.seed_widths()
    for group in template.groups:
        if group.prunable:
            width = int(torch.randint(1, round(group.width * most) + 1, (), generator=generator))
            order = torch.randperm(group.width, generator=generator)
            kept[group.name] = sorted(order[: min(width, group.width)].tolist())
            widths[group.name] = width
    return kept, widths


@pytest.mark.parametrize("name", NETWORKS)
def test_all_but_the_outputs_can_be_cut(name):
    _, template = prepared(name)
    fixed = {g.name: g.why_fixed for g in template.groups if not g.prunable}
    assert set(fixed) == {"fc"}
    assert "outputs" in fixed["fc"]


@pytest.mark.parametrize("name", NETWORKS)
def test_at_random_widths_the_narrow_network_is_the_masked_one_in_torch(name):
    network, template = prepared(name)
    build, example = NETWORKS[name]
    generator = torch.Generator().manual_seed(7)
    for _ in range(5):
        kept, widths = drawn(template, generator)
        small = narrow(network, build, template, Narrowing(widths, kept=kept), example)
        assert unequal(network, small, template, Narrowing(widths, kept=kept), example) == ""


@pytest.mark.parametrize("name", NETWORKS)
def test_growing_keeps_the_function_through_every_connection(name):
    network, template = prepared(name)
    build, example = NETWORKS[name]
    widths = {g.name: g.width + (1 + i % 3 if g.prunable else 0) for i, g in enumerate(template.groups)}
    wide = narrow(network, build, template, Narrowing(widths), example)
    probe = torch.randn(3, *example.shape[1:], generator=torch.Generator().manual_seed(2))
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in network.parameters())
    assert function_difference(network, wide, probe) < 1e-5


@pytest.mark.parametrize("name", EXPORTED[:5])
def test_the_exported_narrow_network_and_its_kernels_are_what_was_asked(name):
    network, template = prepared(name)
    build, example = NETWORKS[name]
    kept, widths = drawn(template, torch.Generator().manual_seed(11), most=1.3)
    small = narrow(network, build, template, Narrowing(widths, kept=kept), example).eval()
    exported = to_onnx(small, example.shape[1:])
    # The costs are those of the network that is built …
    nodes = kernel_graph(exported, "virtual")
    assert [k.at(widths) for k in template.kernels] == [node.spec for node in nodes]
    # … and ONNX Runtime computes what the masked wide network does.
    assert unequal(network, small, template, Narrowing(widths, kept=kept), example) == ""
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    image = torch.randn(1, *example.shape[1:], generator=torch.Generator().manual_seed(3))
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    with torch.inference_mode():
        expected = small(image).numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_grouped_convolution_lets_channels_go_one_of_each_of_its_groups():
    network, template = prepared("grouped")
    groups = {g.name: g for g in template.groups}
    assert {name: (g.quantum, g.width, g.channels) for name, g in groups.items()} == {
        "stem": (1, 8, 8),
        "reduce": (4, 4, 16),
        "middle": (4, 8, 32),
        "fc": (1, 5, 5),
    }
    reduce = next(m for m in groups["reduce"].members if m.layer == "middle")
    assert reduce.index[reduce.root == 1].tolist() == [1, 5, 9, 13]
    assert template.layer_widths({**template.seed_widths(), "reduce": 3}) == {
        "stem": 8,
        "expand": 8,
        "reduce": 12,
        "middle": 32,
    }
    small = narrow(
        network, Grouped, template, Narrowing({**template.seed_widths(), "reduce": 2}, kept={"reduce": [0, 2]}), SMALL
    )
    assert torch.equal(small.reduce.weight, network.reduce.weight[[0, 2, 4, 6, 8, 10, 12, 14]])
    assert torch.equal(small.middle.weight, network.middle.weight[:, [0, 2]])


def test_a_grouped_convolution_is_priced_at_the_channels_of_its_units():
    _, template = prepared("grouped")
    tables = NetworkTables(template.kernels, stairs, template.seed_widths())
    narrower = {**template.seed_widths(), "reduce": 3, "middle": 5}
    spec = next(k.at(narrower) for k in template.kernels if k.spec.groups == 4)
    assert (spec.in_channels, spec.out_channels, spec.groups) == (12, 20, 4)
    assert tables.totals(narrower)[0] < tables.totals(template.seed_widths())[0]


def test_a_gate_goes_with_what_it_scales_and_its_inner_width_is_a_group_of_its_own():
    _, template = prepared("squeeze-excite")
    groups = {g.name: g for g in template.groups}
    assert set(groups["expand"].writers) == {"expand", "depthwise", "excite"}
    assert groups["squeeze"].writers == ["squeeze"]


def test_a_linear_layer_behind_a_flattened_image_loses_the_whole_image_of_a_channel():
    network, template = prepared("flattened")
    small = narrow(
        network, Flattened, template, Narrowing({**template.seed_widths(), "join": 1}, kept={"join": [1]}), SMALL
    )
    assert torch.equal(small.hidden.weight, network.hidden.weight[:, 16:32])
    kernel = next(k for k in template.kernels if k.channels_in.terms == (("join", 16),))
    assert kernel.spec.kind == "fc"


def test_groups_of_a_narrower_network_are_named_and_left_alone_as_in_the_one_that_it_came_from():
    network, template = prepared("resnet")
    build, example = NETWORKS["resnet"]
    seed = find_groups(network, example, build)
    next(g for g in seed if g.name == "layer2.0.conv1").why_fixed = "somebody said so"
    small = narrow(network, build, template, Narrowing(template.seed_widths(), ["layer1.0"]), example)
    found = find_groups(small, example, like=seed)
    assert [g.name for g in found] == [g.name for g in seed if g.name != "layer1.0.conv1"]
    assert {g.name for g in found if g.why_fixed == "somebody said so"} == {"layer2.0.conv1"}
