import pytest
import torch
from stairs import BLOCK

from rig.compression.budget import Budget, resolve
from rig.compression.controller import StrengthController
from rig.compression.widths import WidthChooser
from rig.units import parse_limit


@pytest.fixture
def chooser(template, tables):
    seed = template.seed_widths()
    generator = torch.Generator().manual_seed(3)
    importance = {g.name: torch.rand(g.width, generator=generator) for g in template.groups if g.prunable}
    budget: Budget = resolve([parse_limit("latency", "50%")], None, 0.0, tables.totals(seed))
    return WidthChooser(tables, budget, importance, seed)


@pytest.mark.parametrize("share", [1.0, 0.6, 0.3])
def test_widths_hold_the_budget_and_use_it(chooser, template, share):
    alive = {name: max(1, round(width * share)) for name, width in template.seed_widths().items()}
    widths = chooser.choose(alive)
    assert 0.93 <= chooser.usage(widths) <= 1.0


def test_widths_end_at_the_edges_of_plateaus(chooser, template):
    widths = chooser.choose(template.seed_widths())
    inner = [w for name, w in widths.items() if name in chooser.free_groups]
    assert all(w % BLOCK == 0 for w in inner)


def test_the_last_layer_is_left_alone(chooser, template):
    assert chooser.choose(template.seed_widths())["fc"] == 10


def test_the_controller_brings_a_lagging_plant_to_its_target():
    # Channels die late and all at once for a while: cost falls by strength, with a dead time of a quarter of the run.
    controller, cost, history = StrengthController(2.0, 1.0), 2.0, []
    for step in range(150):
        strength = controller.update(cost, step / 150)
        history.append(cost)
        cost -= 0.004 * strength if step > 35 else 0.0
    assert cost == pytest.approx(1.0, abs=0.05)
    assert min(history) > 0.9


def test_at_the_target_the_controller_lets_go():
    assert StrengthController(2.0, 1.0).update(0.99, 0.9) == 0.0
