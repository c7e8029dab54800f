"""Networks that know no widths: which those are, what a table does to them, and what it may not ask for."""

from __future__ import annotations

import pytest
import torch
from odd_networks import EXAMPLE, IMAGE, PROBE, Gated, Grouped, Shuffled, Widths
from torch import nn

from examples.image_networks import NETWORKS
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.plain_model import builder, with_widths
from rig.compression.cutting.rebuild import layer_table
from rig.compression.cutting.rehearsal import scrambled
from rig.compression.cutting.surgery import Narrowing, narrow
from rig.compression.cutting.template import make_template
from rig.compression.cutting.verified_surgery import unequal
from rig.compression.tasks import load_task
from rig.errors import BadInputError

TASK = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy as loss

def model():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 3))

def loaders(split):
    return [(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))]

def evaluate(network, split):
    return 0.5
"""


def sized(classes: int = 5, depth: int = 1) -> nn.Module:
    return Gated()


@pytest.mark.parametrize("model", [lambda: Gated(), sized, lambda **options: Gated(**options)])
def test_a_model_without_a_parameter_for_widths_is_resized(model):
    build = builder(model, IMAGE)
    assert build()(PROBE).shape == (4, 5)
    assert build({"squeeze": 3}).squeeze.out_channels == 3


@pytest.mark.parametrize(
    "model",
    [
        Gated,
        lambda table=None: Gated(table),
        lambda size=1, widths=None: Gated(widths),
        lambda *, widths=None: Gated(widths),
    ],
)
def test_a_model_that_takes_widths_is_given_them(model):
    build = builder(model, IMAGE)
    assert build()(PROBE).shape == (4, 5)
    assert not hasattr(build({"expand": 0}), "squeeze")  # what resizing cannot do


def test_of_a_model_that_is_not_written_in_python_nothing_is_changed():
    assert builder(zip, IMAGE) is zip


def test_a_table_resizes_layers_and_what_reads_them():
    build = with_widths(Gated, IMAGE)
    assert {n: m.weight.shape for n, m in build().named_modules() if hasattr(m, "weight")} == {
        n: m.weight.shape for n, m in Gated().named_modules() if hasattr(m, "weight")
    }
    table = {"expand": 7, "depthwise": 7, "excite": 7, "squeeze": 9}
    small, like = build(table), Gated({"expand": 7, "squeeze": 9})
    assert [(n, v.shape) for n, v in small.state_dict().items()] == [(n, v.shape) for n, v in like.state_dict().items()]
    assert small.depthwise.groups == 7
    assert small(PROBE).shape == (4, 5)
    assert layer_table(small, build) == {"expand": 7, "depthwise": 7, "excite": 7, "squeeze": 9}


def test_values_follow_the_network_s_own_initialization():
    def model(widths: Widths = None) -> nn.Module:
        network = nn.Sequential(nn.Conv2d(1, 400, 1), nn.BatchNorm2d(400), nn.ReLU(), nn.Conv2d(400, 50, 1))
        for layer in (network[0], network[3]):
            nn.init.constant_(layer.bias, 0.25)
        nn.init.normal_(network[3].weight, std=0.5)
        return network

    torch.manual_seed(0)
    small = with_widths(lambda: model(), (1, 4, 4))({"0": 100})
    assert small[1].num_features == 100
    assert torch.equal(small[1].running_var, torch.ones(100))
    assert torch.equal(small[0].bias, torch.full((100,), 0.25))
    assert small[3].weight.shape == (50, 100, 1, 1)
    assert float(small[3].weight.detach().std()) == pytest.approx(1.0, rel=0.05)  # for a quarter of the inputs


@pytest.mark.parametrize(
    ("kind", "table", "said"),
    [
        (Gated, {"nothing": 3}, "name nothing, which is no layer of the network"),
        (Gated, {"expand": 7, "depthwise": 8}, "expand and depthwise, which change together, different widths"),
        (Gated, {"expand": 0}, "give expand 0 channels; it may have 1 or more"),
        (Grouped, {"reduce": 6}, "give reduce 6 channels; it may have 4 or more, in steps of 4"),
        (Gated, {"fc": 3}, "give fc 3 channels, but its channels are the network's outputs"),
        (Shuffled, {"first": 4}, "give first 4 channels, but"),
    ],
)
def test_a_table_that_the_network_cannot_have_is_refused(kind, table, said):
    with pytest.raises(BadInputError, match=said):
        with_widths(lambda: kind(), EXAMPLE.shape[1:])(table)


def test_a_task_file_may_give_a_network_as_it_is(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text(TASK)
    model = load_task(str(path)).model
    assert model({"0": 3})[3].weight.shape == (3, 12)
    assert model()[0].weight.shape == (8, 1, 3, 3)


def test_a_shuffled_network_is_cut_where_no_shuffle_passes():
    """ShuffleNetV2 as it is: what its units widen inside goes, what is dealt out anew stays and says why."""
    shape = (3, 32, 32)
    build = with_widths(lambda: NETWORKS["shufflenet-v2"](classes=4, depth=1), shape)
    torch.manual_seed(0)
    network, example = scrambled(build()).eval(), torch.zeros(1, *shape)
    groups = find_groups(network, example, build)
    fixed = {g.name: g.why_fixed for g in groups if not g.prunable}
    assert {"2.body.0.0", "3.body.0.0", "4.body.0.0"} <= {g.name for g in groups} - set(fixed)
    assert set(fixed) == {f"{unit}.{last}" for unit in (2, 3, 4) for last in ("beside.1.0", "body.2.0")} | {"8"}
    assert all(fixed.values())
    template = make_template([], groups)
    kept = {g.name: list(range(0, g.width, 3)) for g in groups if g.prunable}
    to = Narrowing({**template.seed_widths(), **{name: len(units) for name, units in kept.items()}}, kept=kept)
    small = narrow(network, build, template, to, example)
    assert unequal(network, small, template, to, example) == ""
