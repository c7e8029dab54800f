"""What every method of ``METHODS`` owes the loop: one suite for all of them."""

from __future__ import annotations

import copy

import compression_case as case
import pytest
import torch

from rig.compression.choosing.floors import floors_of
from rig.compression.cutting.realize import realized
from rig.compression.methods import METHODS, make_method, require_served
from rig.compression.methods.base import RESOURCES
from rig.errors import BadInputError

VARIANTS = {**{name: (name, {}) for name in sorted(METHODS)}, "morphnet-pruning": ("morphnet", {"prune_every": 1})}
CASES = [
    (variant, limit)
    for variant, (name, settings) in VARIANTS.items()
    for limit in (case.LIMITS if not settings else ["latency"])
    if case.LIMITS[limit][0] in make_method(name).serves
]


pytestmark = pytest.mark.usefixtures("one_precision")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_serves_what_the_rig_knows_and_says_its_name(name):
    method = make_method(name)
    assert method.name == name
    assert method.serves
    assert method.serves <= RESOURCES


@pytest.mark.parametrize(("variant", "limit"), CASES)
def test_what_it_chooses_can_be_built_and_holds_the_budget(variant, limit, task, survey, network, tmp_path):
    budget = case.budget_of(survey, limit)
    name, settings = VARIANTS[variant]
    before = copy.deepcopy(network.state_dict())
    method = make_method(name)
    found = method.search(case.workplace_in(tmp_path, task, **settings), network, survey, budget)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), network.state_dict().values(), strict=True))
    groups = {g.name: g for g in found.template.groups}
    blocks = {b.name: b for b in found.template.blocks}
    choice = method.choose(found, survey, budget)
    assert set(choice.removed) <= set(blocks)
    gone = {group for name in choice.removed for group in blocks[name].inner}
    assert set(choice.widths) == set(groups)
    for name, group in groups.items():
        if not group.prunable:
            assert choice.widths[name] == group.width
            continue
        assert found.importance[name].shape == (group.width,)
        if name not in gone:
            assert 1 <= choice.widths[name] <= survey.tables.largest[name]
    used = budget.usage(survey.tables.totals(choice.widths, found.template.removed_kernels(choice.removed)))
    assert used <= 1.0
    if used < 0.85:  # a step of the stem is a third of this little network's budget: then nothing wider may fit
        assert method.name == "allocate"
        without = found.template.removed_kernels(choice.removed)
        for name, group in groups.items():
            if name not in gone and choice.widths[name] < group.width:
                wider = {**choice.widths, name: choice.widths[name] + 1}
                assert budget.usage(survey.tables.totals(wider, without)) > 1.0
    built = realized(found.network, found.template, found.importance, choice, task)
    assert torch.isfinite(built(torch.randn(2, *task.input_shape))).all()
    rebuilt = task.model(found.template.layer_widths(choice.widths, choice.removed))
    assert [p.shape for p in rebuilt.parameters()] == [p.shape for p in built.parameters()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_everything_passes_through_keeps_its_floor(variant, task, survey, network, tmp_path):
    budget = case.budget_of(survey, "latency")
    name, settings = VARIANTS[variant]
    method = make_method(name)
    found = method.search(case.workplace_in(tmp_path, task, **settings), network, survey, budget)
    choice = method.choose(found, survey, budget)
    floors = floors_of(survey.template, survey.tables, budget, choice.removed)
    assert set(floors) == survey.template.bottlenecks
    assert min(floors.values()) > 1
    assert all(choice.widths[name] >= least for name, least in floors.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_repeat_gives_the_same_widths_and_a_resumed_search_too(variant, task, survey, network, tmp_path):
    budget = case.budget_of(survey, "latency")
    name, settings = VARIANTS[variant]
    choices, states = [], []
    for folder in ("one", "other", "one"):  # the third takes up the checkpoints of the first
        workplace = case.workplace_in(tmp_path / folder, task, **settings)
        if folder == "one" and states:
            workplace.state.update(states[0])
        method = make_method(name)
        found = method.search(workplace, network, survey, budget)
        choices.append([method.choose(found, survey, budget), method.choose(found, survey, budget)])
        states.append(workplace.state)
    assert choices[0] == choices[1] == choices[2]
    assert choices[0][0] == choices[0][1]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_tighter_budget_gets_a_cheaper_choice(name, task, survey, network, tmp_path):
    budget = case.budget_of(survey, "energy")
    tighter = budget.scaled({"energy": 0.8})
    method = make_method(name)
    found = method.search(case.workplace_in(tmp_path, task, 2), network, survey, budget)
    choices = [method.choose(found, survey, one) for one in (budget, tighter)]
    usages = [budget.usage(survey.tables.totals(c.widths, found.template.removed_kernels(c.removed))) for c in choices]
    assert usages[1] <= 0.8 < usages[0] <= 1.0


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(BadInputError, match="unknown method") as error:
        make_method("morfnet")
    assert "did you mean morphnet" in error.value.fix


def test_a_limit_that_a_method_does_not_serve_is_refused_with_one_that_does():
    class Narrow:
        name, serves = "narrow", frozenset({"flops"})

    require_served(Narrow(), ["flops"])
    with pytest.raises(BadInputError, match="narrow cannot compress to a limit of power; it serves flops") as error:
        require_served(Narrow(), ["flops", "power"])
    assert error.value.fix.startswith("give --method ")
