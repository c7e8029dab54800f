"""What cannot be cut is left alone and says why, or is refused before anything is trained: never a crash."""

from __future__ import annotations

import functools

import odd_networks as odd
import pytest
import torch
from odd_networks import EXAMPLE, IMAGE
from torch import nn

from power_models.kernels import kernel_graph
from rig.compression.cutting.groups import find_groups, require_prunable
from rig.compression.cutting.layouts import rows_of_parts
from rig.compression.cutting.placement import place_weights, placements
from rig.compression.cutting.rehearsal import difference, masked, scrambled
from rig.compression.cutting.resizing import resized
from rig.compression.cutting.surgery import Narrowing, narrow
from rig.compression.cutting.template import Template, make_template
from rig.compression.export import to_onnx
from rig.errors import ModelError

# network, what stays and a piece of why, what can still be cut
LEFT_ALONE = {
    "called twice": (odd.Twice, {"a": "b runs 2 times"}, {"c"}),
    "tied weights": (odd.Tied, {"a": "shares its weights", "b": "shares its weights", "d": "shares its"}, {"c"}),
    "weight norm": (odd.WeightNormed, {"a": "computed from others", "b": "computed from others"}, {"c"}),
    "group norm": (odd.Normalized, {"b": "norm is a GroupNorm"}, {"a", "c"}),
    "softmax": (odd.SoftChannels, {"b": "is another without them"}, {"a", "c"}),
    "own parameter": (odd.Scaled, {"b": "parameter factor"}, {"a", "c"}),
    "hard-coded": (odd.Fixed, {"c": "shape"}, {"a", "b"}),
    "integers": (odd.Whole, {"a": "does not run"}, {"c"}),
    "shuffle": (odd.Shuffled, {"first": ""}, {"stem", "second", "last"}),
    "split": (odd.Split, {"stem": ""}, {"last"}),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_cannot_be_cut_is_left_alone_with_its_reason(name):
    kind, fixed, prunable = LEFT_ALONE[name]
    torch.manual_seed(0)
    network = kind()
    groups = {g.name: g for g in find_groups(network, EXAMPLE)}
    assert {g.name for g in groups.values() if g.prunable} == prunable
    for group, why in fixed.items():
        assert groups[group].why_fixed
        assert why in groups[group].why_fixed
    # What is offered can really be cut, and the network is as it was.
    stage = scrambled(network)
    chosen = [g for g in groups.values() if g.prunable]
    kept = {g.name: list(range(0, g.width, 2)) for g in chosen}
    widths = {name: len(units) for name, units in kept.items()}
    small = resized(stage, chosen, widths)
    place_weights(stage, small, placements(stage, chosen, kept, widths))
    assert difference(masked(stage, chosen, kept), small, chosen, kept, widths, odd.PROBE) == ""


@functools.cache
def kernels_of(kind):
    return kernel_graph(to_onnx(kind().eval(), IMAGE), "virtual")


@pytest.mark.parametrize("kind", [odd.Shuffled, odd.Split])
def test_what_is_left_alone_still_has_a_template(kind):
    nodes = kernels_of(kind)
    template = make_template(nodes, find_groups(kind(), EXAMPLE, kind))
    assert [k.at(template.seed_widths()) for k in template.kernels] == [n.spec for n in nodes]
    narrower = {**template.seed_widths(), "last": 3}
    assert [k.at(narrower) for k in template.kernels] != [n.spec for n in nodes]


def test_a_group_that_a_kernel_does_not_follow_is_left_alone_by_the_template():
    network = odd.Split().eval()
    groups = find_groups(network, EXAMPLE)
    for group in groups:  # as if surgery could cut what is split
        group.why_fixed = group.why_fixed if group.name == "fc" else ""
    template = make_template(kernels_of(odd.Split), groups)
    stem = next(g for g in template.groups if g.name == "stem")
    assert "cost at other widths cannot be told" in stem.why_fixed
    assert {g.name for g in template.groups if g.prunable} >= {"last"}


def test_a_network_that_decides_by_its_data_is_refused_and_the_module_named():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = odd.Deciding()

        def forward(self, x):
            return self.inside(x)

    with pytest.raises(ModelError, match="inside reads the values of a tensor") as error:
        find_groups(Whole(), EXAMPLE)
    assert "control flow" in error.value.fix


def test_a_quantized_network_is_refused():
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(144, 8)), {nn.Linear})
    with pytest.raises(ModelError):
        require_prunable(find_groups(quantized, EXAMPLE))


def test_a_convolution_of_integers_is_refused():
    network = odd.Chain()
    network.b.weight = nn.Parameter(torch.ones(6, 6, 3, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="does not run"):
        find_groups(network, EXAMPLE)


def test_a_network_for_other_inputs_is_refused():
    with pytest.raises(ModelError, match="does not run on an input of shape"):
        find_groups(odd.Chain(), torch.zeros(1, 3, 12, 12))


def test_nothing_prunable_at_all_is_said():
    network = nn.Sequential(nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="nothing of the network can be compressed: its channels are the network's"):
        require_prunable(find_groups(network, EXAMPLE))
    with pytest.raises(ModelError, match="no convolution and no linear layer"):
        require_prunable(find_groups(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(1)), EXAMPLE))


def test_something_prunable_is_enough():
    require_prunable(find_groups(odd.Twice(), EXAMPLE))


def test_a_layer_that_model_widths_ignores_is_left_alone_before_any_training():
    def build(widths=None):
        return odd.Chain({name: width for name, width in (widths or {}).items() if name != "b"})

    groups = {g.name: g for g in find_groups(build(), EXAMPLE, build)}
    assert {name for name, g in groups.items() if g.prunable} == {"a", "c"}
    assert "model(widths) gives b.weight the shape" in groups["b"].why_fixed


def test_a_model_widths_that_fails_costs_the_layer_and_not_the_run():
    def build(widths=None):
        if (widths or {}).get("c", 7) < 7:
            raise KeyError("c")
        return odd.Chain(widths)

    groups = {g.name: g for g in find_groups(build(), EXAMPLE, build)}
    assert {name for name, g in groups.items() if g.prunable} == {"a", "b"}
    assert "KeyError" in groups["c"].why_fixed


def test_a_depthwise_convolution_with_a_multiplier_is_left_alone():
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    groups = {g.name: g for g in find_groups(network, EXAMPLE)}
    assert "multiplier" in groups["0"].why_fixed
    assert "multiplier" in groups["1"].why_fixed


def test_a_group_that_is_not_understood_is_no_layout():
    group = find_groups(odd.Chain(), EXAMPLE)[0]
    member = next(m for m in group.members if m.axis == "in")
    group.members[group.members.index(member)] = member._replace(root=member.root.flip(0))
    with pytest.raises(ValueError, match="not understood"):
        rows_of_parts([group])


def test_modes_of_modules_are_as_they_were():
    network = odd.Chain().train()
    network.b.eval()
    find_groups(network, EXAMPLE)
    assert network.training
    assert network.a.training
    assert not network.b.training


def test_keeping_nothing_is_refused():
    network = odd.Chain().eval()
    template = Template([], find_groups(network, EXAMPLE), [])
    with pytest.raises(ModelError, match="b: 0 of its channels"):
        narrow(network, odd.Chain, template, Narrowing({**template.seed_widths(), "b": 0}, kept={"b": []}), EXAMPLE)


def test_a_frozen_network_has_the_same_groups_and_stays_frozen():
    network = odd.Chain().requires_grad_(False)
    assert {g.name for g in find_groups(network, EXAMPLE) if g.prunable} == {"a", "b", "c"}
    assert not any(p.requires_grad for p in network.parameters())
