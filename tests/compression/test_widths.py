import math

import numpy as np
import pytest
import torch
from stairs import BLOCK, stairs

from power_models.tables import NetworkTables
from rig.compression.budget import Budget, resolve
from rig.compression.choosing.widths import WidthChooser
from rig.units import parse_limit


def chooser_of(template, tables):
    seed = template.seed_widths()
    generator = torch.Generator().manual_seed(3)
    importance = {g.name: torch.rand(g.width, generator=generator) for g in template.groups if g.prunable}
    budget: Budget = resolve([parse_limit("latency", "50%")], None, 0.0, tables.totals(seed))
    return WidthChooser(tables, budget, importance, seed)


@pytest.fixture
def chooser(template, tables):
    return chooser_of(template, tables)


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


def humps(specs):
    """Stairs on which five channels more than a multiple of eight cost the double: no monotone device."""
    seconds, joules = stairs(specs)
    factor = np.array([2.0 if spec.out_channels % BLOCK == 5 else 1.0 for spec in specs])
    return seconds * factor, joules * factor


@pytest.mark.parametrize("price", [stairs, humps])
def test_expansion_is_the_largest_factor_that_holds(price, template):
    largest = {g.name: round(g.width * 1.5) if g.prunable else g.width for g in template.groups}
    chooser = chooser_of(template, NetworkTables(template.kernels, price, largest))
    alive = {**template.seed_widths(), **{g: 5 + i for i, g in enumerate(chooser.free_groups)}}

    def at(omega):
        widths = dict(alive)
        for group in chooser.free_groups:
            widths[group] = min(largest[group], math.floor(alive[group] * omega + 0.5))
        return widths

    omegas = [1.0 + 0.002 * i for i in range(4000)]
    holding = [omega for omega in omegas if chooser.usage(at(omega)) <= 1.0]
    assert holding
    assert chooser.expanded(alive) == chooser.rounded(at(holding[-1]))


def test_a_wider_layer_that_is_free_is_found_behind_a_dear_one(template):
    chooser = chooser_of(template, NetworkTables(template.kernels, humps, {g.name: g.width for g in template.groups}))
    widths = {**template.seed_widths(), "layer1.0.conv1": 12}
    assert chooser.usage({**widths, "layer1.0.conv1": 13}) > chooser.usage(widths)
    assert chooser.rounded(widths)["layer1.0.conv1"] == 16


def test_without_expansion_nothing_grows(chooser, template):
    alive = {name: max(1, width // 2) for name, width in template.seed_widths().items()}
    widths = chooser.choose(alive, expand=False)
    assert all(widths[g] <= alive[g] for g in chooser.free_groups)
    assert chooser.usage(widths) < 0.93
