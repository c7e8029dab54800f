import copy

import pytest
import torch
from stairs import INPUT, build

from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.surgery import (
    Narrowing,
    bare_network,
    function_difference,
    keep_channels,
    narrow,
    reestimate_norms,
)
from rig.compression.tasks import Task
from rig.errors import ModelError

EXAMPLE = torch.zeros(1, *INPUT)
PROBE = torch.randn(8, *INPUT, generator=torch.Generator().manual_seed(1))


def with_dead_channels(network, template, dead):
    net = copy.deepcopy(network)
    groups = find_groups(net, EXAMPLE)
    with torch.no_grad():
        for group in groups:
            for scale in group.scales if group.name in dead else []:
                rows = [
                    i for i, r in zip(scale.index.tolist(), scale.root.tolist(), strict=True) if r in dead[group.name]
                ]
                scale.weight[rows] = 0.0
                scale.bias[rows] = 0.0
    return net, template._replace(groups=groups)


def test_removing_dead_channels_does_not_change_the_function(network, template):
    dead = {"conv1": {0, 5, 9}, "layer1.0.conv1": {1, 2, 3}, "layer2.0.conv2": {7}}
    net, cut = with_dead_channels(network, template, dead)
    kept = {g.name: [i for i in range(g.width) if i not in dead.get(g.name, set())] for g in cut.groups if g.prunable}
    widths = {**cut.seed_widths(), **{name: len(indices) for name, indices in kept.items()}}
    small = narrow(net, build, cut, Narrowing(widths, kept=kept), EXAMPLE)
    assert small.conv1.out_channels == 13
    assert small.layer2[0].shortcut[0].weight.shape[:2] == (31, 13)
    assert function_difference(net, small, PROBE) < 1e-5


def test_growing_does_not_change_the_function(network, template):
    widths = {**template.seed_widths(), "layer1.0.conv1": 24, "conv1": 20}
    wide = narrow(network, build, template, Narrowing(widths), EXAMPLE)
    assert wide.layer1[0].conv1.out_channels == 24
    assert function_difference(network, wide, PROBE) < 1e-5


def test_a_removed_block_equals_a_silent_branch(network, template):
    net = copy.deepcopy(network)
    with torch.no_grad():
        net.layer1[1].bn2.weight.zero_()
        net.layer1[1].bn2.bias.zero_()
    small = narrow(net, build, template, Narrowing(template.seed_widths(), ["layer1.1"]), EXAMPLE)
    assert small.layer1[1].removed
    assert function_difference(net, small, PROBE) < 1e-5


def test_a_model_that_ignores_widths_is_named(network, template):
    kept = {"layer1.0.conv1": list(range(8))}
    widths = {**template.seed_widths(), "layer1.0.conv1": 8}
    with pytest.raises(ModelError, match="gives layer1") as error:
        narrow(network, lambda table: build({"layer1.0.conv1": 4}), template, Narrowing(widths, kept=kept), EXAMPLE)
    assert "apply the widths" in error.value.fix


def test_the_network_itself_is_left_alone(network, template):
    before = copy.deepcopy(network.state_dict())
    narrow(
        network, build, template, Narrowing({**template.seed_widths(), "conv1": 3}, kept={"conv1": [0, 1, 2]}), EXAMPLE
    )
    assert all(torch.equal(a, b) for a, b in zip(before.values(), network.state_dict().values(), strict=True))


def test_the_most_important_channels_are_kept_in_order(template):
    group = next(g for g in template.groups if g.name == "layer1.0.conv1")
    importance = torch.arange(16.0)
    assert keep_channels(group, importance, 3) == [13, 14, 15]
    assert keep_channels(group, torch.ones(16), 2) == [0, 1]


def test_batch_norm_statistics_are_those_of_the_batches_given(network):
    net = copy.deepcopy(network)
    batches = [torch.randn(32, *INPUT, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    reestimate_norms(net, batches)
    with torch.no_grad():
        expected = torch.stack([net.conv1(b).mean((0, 2, 3)) for b in batches]).mean(0)
    assert torch.allclose(net.bn1.running_mean, expected, atol=1e-5)
    assert net.bn1.momentum == 0.1
    assert not net.training


def test_bare_network_is_the_shrunk_function(network, template):
    net, cut = with_dead_channels(network, template, {"conv1": {0, 1}, "layer2.1.conv1": {3, 4, 5}})
    task = Task("tiny", "tiny", build, None, None, None, INPUT, 0)
    bare, widths = bare_network(net, task, cut, [])
    assert widths["conv1"] == 14
    assert widths["layer2.1.conv1"] == 29
    assert function_difference(net, bare, PROBE) < 1e-5
