"""Constants, gates, blocks and the check of every surgery."""

from __future__ import annotations

import copy
import functools

import odd_networks as odd
import pytest
import torch
from odd_networks import EXAMPLE, IMAGE, PROBE
from torch import nn

from power_models.kernels import kernel_graph
from power_models.regularizer import pulls
from rig.compression.cutting.bypass import bypassed
from rig.compression.cutting.folding import fold_constants
from rig.compression.cutting.gates import GatedConv2d, fold_gates, with_gates
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.rehearsal import observed, scrambled
from rig.compression.cutting.surgery import Narrowing, bare_network, expresses, function_difference, narrow
from rig.compression.cutting.template import Template, make_template
from rig.compression.cutting.verified_surgery import rehearsed, verified_narrow
from rig.compression.export import to_onnx
from rig.compression.networks import BasicBlock, ResNet
from rig.compression.tasks import Task
from rig.errors import ModelError


class Padded(nn.Module):
    """Batch-norms between convolutions; ``padding`` of the second, which has a bias, a norm behind it, or neither."""

    def __init__(self, padding=0, bias=True, norm=True, mode="zeros"):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, padding=padding, bias=bias, padding_mode=mode)
        self.behind = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = torch.nn.functional.hardswish(self.norm(self.first(x)))
        return self.fc(torch.relu(self.behind(self.second(x))).mean((2, 3)))


DEAD = [1, 4, 5]


def with_dead(network, norm="norm", channels=DEAD):
    """Random weights; scales of 0 and shifts of 0.7 on some channels: they give a constant that is not zero."""
    torch.manual_seed(3)
    network = scrambled(network).eval()
    with torch.no_grad():
        network.get_submodule(norm).weight[channels] = 0.0
        network.get_submodule(norm).bias[channels] = 0.7
    return network


def folded(network, group="first", channels=DEAD, inputs=PROBE):
    made = copy.deepcopy(network)
    groups = [g for g in find_groups(made, EXAMPLE) if g.prunable]
    return made, fold_constants(made, groups, {group: channels}, inputs)


@pytest.mark.parametrize(
    ("bias", "norm", "into"), [(True, True, "bias"), (True, False, "bias"), (False, True, "running mean")]
)
def test_the_constant_of_a_dead_channel_moves_into_the_layer_that_reads_it(bias, norm, into):
    network = with_dead(Padded(bias=bias, norm=norm))
    made, record = folded(network)
    assert [(r.layer, r.channels, r.into, r.border) for r in record] == [("second", 3, into, False)]
    assert record[0].spread < 1e-6
    assert not made.second.weight[:, DEAD].any()
    assert function_difference(network, made, PROBE) < 1e-5
    # Without it the function is another one.
    cut = copy.deepcopy(network)
    with torch.no_grad():
        cut.second.weight[:, DEAD] = 0.0
    assert function_difference(network, cut, PROBE) > 1e-2


def test_a_padded_convolution_differs_at_its_border_only():
    network = with_dead(Padded(padding=1))
    made, record = folded(network)
    assert record[0].border
    before = observed(network, {"second"}, PROBE)[0]["second"]
    after = observed(made, {"second"}, PROBE)[0]["second"]
    off = (before - after).abs().amax((0, 1))
    assert float(off[1:-1, 1:-1].max()) < 1e-5
    assert float(off.max()) > 1e-2
    assert torch.equal(off > 1e-4, ~torch.nn.functional.pad(torch.ones_like(off[1:-1, 1:-1]), [1] * 4).bool())


def test_where_the_padding_repeats_the_constant_the_border_is_exact_too():
    network = with_dead(Padded(padding=1, mode="replicate"))
    made, record = folded(network)
    assert not record[0].border
    assert function_difference(network, made, PROBE) < 1e-5


def test_where_there_is_no_place_for_the_constant_it_is_said():
    _, record = folded(with_dead(Padded(bias=False, norm=False)))
    assert record[0].into == ""


def test_a_channel_that_is_not_constant_leaves_its_mean_and_says_how_far_off_it_was():
    torch.manual_seed(3)
    network = scrambled(Padded(padding=0)).eval()
    made, record = folded(network)
    assert record[0].spread > 0.1
    cut = copy.deepcopy(network)
    with torch.no_grad():
        cut.second.weight[:, DEAD] = 0.0
    before, mended, bare = (observed(n, {"second"}, PROBE)[0]["second"].mean((0, 2, 3)) for n in (network, made, cut))
    # Not exact: the nine weights of a channel see other parts of its image than the whole, whose mean is folded.
    assert float((before - mended).abs().max()) < 0.2 * float((before - bare).abs().max())


def test_the_constants_of_grouped_flattened_and_gated_channels():
    network = with_dead(odd.Grouped(), "norm1", [1, 5, 9, 13])
    made, record = folded(network, "reduce", [1])
    assert [(r.layer, r.channels) for r in record] == [("middle", 4)]
    before, after = (observed(n, {"middle"}, PROBE)[0]["middle"] for n in (network, made))
    assert torch.allclose(before[..., 1:-1, 1:-1], after[..., 1:-1, 1:-1] + _shift_of(network, made), atol=1e-4)
    torch.manual_seed(3)
    flat = scrambled(odd.Flattened()).eval()
    with torch.no_grad():
        flat.join.weight[2] = 0.0
    made, record = folded(flat, "join", [2])
    assert [(r.layer, r.channels, r.into) for r in record] == [("hidden", 16, "bias")]
    assert function_difference(flat, made, PROBE) < 1e-5


def _shift_of(network, made):
    """What the running mean behind ``middle`` was lowered by."""
    return (network.norm2.running_mean - made.norm2.running_mean).view(1, -1, 1, 1)


@functools.cache
def templated(kind):
    torch.manual_seed(1)
    network = scrambled(kind()).eval()
    nodes = kernel_graph(to_onnx(network, IMAGE), "virtual") if kind is odd.Plain else []
    return network, make_template(nodes, find_groups(network, EXAMPLE))


def test_narrow_folds_the_constants_where_it_is_given_a_batch():
    network = with_dead(Padded())
    template = Template([], find_groups(network, EXAMPLE), [])

    def build(widths):
        made = Padded()
        made.first, made.norm = nn.Conv2d(1, widths["first"], 3), nn.BatchNorm2d(widths["first"])
        made.second = nn.Conv2d(widths["first"], widths["second"], 3)
        return made

    kept = {"first": [i for i in range(8) if i not in DEAD]}
    widths = {**template.seed_widths(), "first": 5}
    to = Narrowing(widths, kept=kept)
    small = narrow(network, build, template, to, EXAMPLE, constants=PROBE)
    assert function_difference(network, small, PROBE) < 1e-5
    assert function_difference(network, narrow(network, build, template, to, EXAMPLE), PROBE) > 1e-2


# --- gates ----------------------------------------------------------------------------------------------------------


def test_gates_are_put_in_only_where_there_is_no_batch_norm_and_change_nothing():
    network, template = templated(odd.Flattened)
    gated = with_gates(network, template.groups)
    assert {n for n, m in gated.named_modules() if hasattr(m, "gate")} == {"left", "right", "join", "hidden"}
    assert function_difference(network, gated, PROBE) == 0.0
    assert {g.name: g.on(gated).scaled_by for g in template.groups}["join"] == "gates"
    assert {g.scaled_by for g in template.groups} == {"filters"}
    found = find_groups(gated, EXAMPLE, like=template.groups)
    assert {g.name: g.scaled_by for g in found} == {g.name: g.on(gated).scaled_by for g in template.groups}
    normed, of_normed = templated(odd.Grouped)
    gated = with_gates(normed, of_normed.groups)
    assert not hasattr(gated.reduce, "gate")
    assert {g.name: g.scaled_by for g in of_normed.groups}["reduce"] == "batch-norm"


def test_gates_learn_fold_exactly_and_take_their_channel_out_when_closed():
    network, template = templated(odd.Flattened)
    gated = with_gates(network, template.groups)
    groups = {g.name: g.on(gated) for g in template.groups}
    gated(PROBE).square().sum().backward()
    assert all(bool(p.any()) for p in pulls(groups["join"]))
    with torch.no_grad():
        for layer in ("left", "right", "join", "hidden"):
            gated.get_submodule(layer).gate.uniform_(0.5, 1.5)
        gated.join.gate[[0, 3]] = 0.0
    assert groups["join"].norms()[[0, 3]].tolist() == [0.0, 0.0]
    plain = fold_gates(copy.deepcopy(gated))
    assert not any(isinstance(m, GatedConv2d) for m in plain.modules())
    assert function_difference(gated, plain, PROBE) == 0.0
    task = Task("tiny", "tiny", odd.Flattened, None, None, None, IMAGE, 0)
    bare, widths = bare_network(gated, task, template._replace(groups=list(groups.values())), [])
    assert widths["join"] == 6
    assert type(bare.join) is nn.Conv2d
    assert function_difference(gated, bare, PROBE) < 1e-5  # tanh(0) is 0: nothing is left behind


# --- residual blocks ------------------------------------------------------------------------------------------------


def test_a_block_that_model_widths_cannot_leave_out_is_bypassed_and_exports():
    network, template = templated(odd.Plain)
    blocks = {b.layers: b.name for b in template.blocks}
    assert set(blocks) == {("one", "one_b"), ("two", "two_b")} or set(blocks) == {("one", "one_b")}
    name = blocks["one", "one_b"]
    assert not expresses(odd.Plain, template, name)
    kept = {"stem": [0, 2, 3]}
    widths = {**template.seed_widths(), "stem": 3}
    found = verified_narrow(network, odd.Plain, template, Narrowing(widths, [name], kept), EXAMPLE)
    assert found.removed == [name]
    assert found.refused == {}
    there = {n for n, _ in found.network.named_parameters()}
    assert "stem.weight" in there
    assert not any(n.startswith(("one.", "one_b.", "norm1")) for n in there)


@pytest.mark.parametrize(("layers", "gone"), [(("one", "one_b"), "one"), (("two", "two_b"), "two")])
def test_a_bypassed_branch_is_a_branch_of_zeros(layers, gone):
    network, _ = templated(odd.Plain)
    without = bypassed(network, layers, EXAMPLE)
    silent = copy.deepcopy(network)
    end = {"one": silent.norm1_b, "two": silent.norm2_b}[gone]
    with torch.no_grad():
        end.weight.zero_()
        end.bias.zero_()
    assert function_difference(silent, without, PROBE) < 1e-5
    assert function_difference(network, without, PROBE) > 1e-3
    assert not hasattr(without, gone)
    assert without.training == network.training


def test_what_is_no_residual_branch_is_not_taken_out():
    network, _ = templated(odd.Plain)
    with pytest.raises(ModelError, match="no addition ends a branch"):
        bypassed(network, ("stem", "one"), EXAMPLE)
    with pytest.raises(ModelError, match="cannot be traced"):
        bypassed(odd.Deciding(), ("b",), EXAMPLE)


def test_a_block_that_cannot_go_is_found_before_training():
    class Inplace(odd.Plain):
        """A branch whose first act changes what the shortcut carries."""

        def forward(self, x):
            x = self.norm(self.stem(x))
            x = self.norm1_b(self.one_b(torch.relu(self.norm1(self.one(torch.relu_(x)))))) + x
            branch = self.norm2_b(self.two_b(torch.relu(self.norm2(self.two(x)))))
            return self.fc(torch.relu(branch + self.norm_s(self.short(x))).mean((2, 3)))

    network, plain = templated(odd.Plain)
    block = next(b for b in plain.blocks if b.entry == "one")
    template = plain._replace(blocks=[block])
    assert rehearsed(network, odd.Plain, template, EXAMPLE).blocks == [block]
    torch.manual_seed(0)
    after = rehearsed(scrambled(Inplace()), Inplace, template, EXAMPLE)
    assert after.blocks == []
    assert dict(after.refused)[block.name].startswith("the residual branch of one, one_b cannot be taken out")


class Deciding(ResNet):
    """It decides by a shape, which torch.fx cannot follow; its model(widths) leaves blocks out."""

    def forward(self, x):
        if x.shape[-1] < 4:
            raise ValueError("too small")
        return super().forward(x)


class HalfBlock(BasicBlock):
    """A block whose branch is one half where its last batch-norm gives nothing."""

    def forward(self, x):
        if self.removed:
            return torch.relu(self.shortcut(x))
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(torch.sigmoid(self.bn2(self.conv2(out))) + self.shortcut(x))


def halved(widths=None):
    network = deciding(widths)
    for stage in (network.layer1, network.layer2):
        stage[0].__class__ = HalfBlock
    return network


def deciding(widths=None):
    return Deciding((1, 1), (8, 8), widths=widths)


@pytest.mark.parametrize(("build", "offered"), [(deciding, True), (halved, False)])
def test_blocks_of_a_network_that_cannot_be_traced_are_tried_by_a_hook(build, offered):
    torch.manual_seed(0)
    network = build().eval()
    nodes = kernel_graph(to_onnx(network, (1, 16, 16)), "virtual")
    example = torch.zeros(1, 1, 16, 16)
    template = make_template(nodes, find_groups(network, example, build))
    names = {b.name for b in template.blocks}
    assert names == {"layer1.0", "layer2.0"}
    with pytest.raises(ModelError, match="cannot be traced"):
        bypassed(network, template.blocks[0].layers, example)
    after = rehearsed(network, build, template, example)
    assert {b.name for b in after.blocks} == (names if offered else set())
    assert set(dict(after.refused)) == (set() if offered else names)
    if offered:
        removed = sorted(names)
        found = verified_narrow(
            scrambled(network), build, after, Narrowing(after.seed_widths(), removed), example, onnx=False
        )
        assert (found.removed, found.refused) == (removed, {})


# --- the check of every surgery -------------------------------------------------------------------------------------


def test_a_surgery_that_changes_the_function_is_undone_and_its_group_named():
    network, template = templated(odd.Chain)
    template = template._replace(groups=[g.on(network) for g in template.groups])

    class Careless(odd.Chain):
        """Narrow, it forgets an activation."""

        def features(self, x):
            x = torch.relu(self.a(x))
            x = torch.relu(self.b(x)) if self.b.out_channels == 6 else self.b(x)
            return torch.relu(self.c(x))

    kept = {"a": [0, 2], "b": [1, 3, 5], "c": [0, 1]}
    widths = {**template.seed_widths(), "a": 2, "b": 3, "c": 2}
    found = verified_narrow(network, Careless, template, Narrowing(widths, kept=kept), EXAMPLE, onnx=False)
    assert found.widths == {**widths, "b": 6}
    assert list(found.refused) == ["b"]
    assert "what c gives is another" in found.refused["b"]
    assert {g.name: g.put_back for g in template.groups if g.put_back} == found.refused
    assert found.network.a.out_channels == 2
    # It is not tried again, and stays in the table that rebuilds the network.
    again = verified_narrow(network, Careless, template, Narrowing(widths, kept=kept), EXAMPLE, onnx=False)
    assert again.refused == {}
    assert template.layer_widths(again.widths) == {"a": 2, "b": 6, "c": 2}


def test_a_good_surgery_is_let_through_with_its_export_checked():
    network, template = templated(odd.Chain)
    kept = {"a": [0, 2], "c": [0, 1]}
    widths = {**template.seed_widths(), "a": 2, "c": 2}
    found = verified_narrow(network, odd.Chain, template, Narrowing(widths, kept=kept), EXAMPLE)
    assert found.refused == {}
    assert found.widths == widths


def test_a_network_that_cannot_be_rebuilt_at_all_is_refused():
    network, template = templated(odd.Chain)
    template = template._replace(groups=[g.on(network) for g in template.groups])

    class Other(odd.Chain):
        def forward(self, x):
            return self.fc(self.features(2 * x).mean((2, 3)))

    widths = {**template.seed_widths(), "a": 2}
    with pytest.raises(ModelError, match="cannot be rebuilt as it is"):
        verified_narrow(network, Other, template, Narrowing(widths, kept={"a": [0, 2]}), EXAMPLE, onnx=False)


def test_a_network_without_a_block_is_narrowed_on():
    network, template = templated(odd.Plain)
    name = next(b.name for b in template.blocks if b.entry == "one")
    seed = template.seed_widths()
    first = verified_narrow(network, odd.Plain, template, Narrowing(seed, [name]), EXAMPLE, onnx=False).network
    stage = template._replace(groups=find_groups(first, EXAMPLE, like=template.groups))
    kept, widths = {"stem": [1, 2]}, {**seed, "stem": 2}
    found = verified_narrow(first, odd.Plain, stage, Narrowing(widths, [name], kept), EXAMPLE, onnx=False)
    assert found.refused == {}
    assert found.network.stem.out_channels == 2
    assert not hasattr(found.network, "one")
