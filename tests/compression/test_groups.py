import torch
from torch import nn

from rig.compression.cutting.groups import find_groups
from rig.compression.networks import build


def groups_of(net, shape=(1, 1, 28, 28)):
    return {g.name: g for g in find_groups(net, torch.zeros(shape))}


def test_a_residual_stage_is_one_group():
    groups = groups_of(build("resnet20"))
    assert set(groups["conv1"].writers) == {"conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"}
    assert groups["conv1"].width == 16
    assert groups["layer1.0.conv1"].writers == ["layer1.0.conv1"]
    assert len(groups["conv1"].scales) == 4


def test_the_output_layer_stays_and_says_why():
    groups = groups_of(build("resnet20"))
    assert not groups["fc"].prunable
    assert "outputs" in groups["fc"].why_fixed


def test_a_depthwise_convolution_goes_with_what_feeds_it():
    groups = groups_of(build("mobilenetv2"))
    assert set(groups["blocks.1.expand"].writers) == {"blocks.1.expand", "blocks.1.depthwise"}


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.c = nn.Conv2d(10, 8, 1)

    def forward(self, x):
        return self.c(torch.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1)))).mean((2, 3))


def test_a_concatenation_offsets_its_parts():
    groups = groups_of(Concatenated(), (1, 1, 8, 8))
    norm = next(m for m in groups["b"].members if m.layer == "norm")
    assert norm.index.tolist() == [4, 5, 6, 7, 8, 9]
    assert norm.root.tolist() == [0, 1, 2, 3, 4, 5]


def test_norms_are_zero_only_where_every_tied_scale_and_shift_is(network):
    import copy

    net = copy.deepcopy(network)
    group = {g.name: g for g in find_groups(net, torch.zeros(1, 1, 16, 16))}["conv1"]
    for scale in group.scales[1:]:
        with torch.no_grad():
            scale.weight[3] = 0.0
            scale.bias[3] = 0.0
    assert group.norms()[3] > 0
    with torch.no_grad():
        group.scales[0].weight[3] = 0.0
        group.scales[0].bias[3] = 0.0
    assert group.norms()[3] == 0
    group.norms().sum().backward()
    assert all(torch.isfinite(s.weight.grad).all() for s in group.scales)


def test_without_batch_norm_the_filters_are_the_scales():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    groups = find_groups(net, torch.zeros(1, 1, 8, 8))
    assert groups[0].scales[0].weight is net[0].weight
    assert torch.allclose(groups[0].norms() ** 2, (net[0].weight.flatten(1) ** 2).sum(1) + net[0].bias ** 2, rtol=1e-5)
