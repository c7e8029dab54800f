"""Allocation as a method: cut and trained in steps to a budget, repeatable, resumable, refused where limits clash."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from stairs import INPUT, build

from rig.compression.budget import resolve
from rig.compression.choosing import allocation
from rig.compression.choosing.milp import NoChoiceError
from rig.compression.cutting.realize import realized
from rig.compression.methods.allocate import Allocate
from rig.compression.methods.allocating import NoAllocationError
from rig.compression.methods.base import Workplace
from rig.compression.survey import Settings, Survey
from rig.compression.tasks import Task
from rig.errors import BadInputError, InfeasibleTargetError
from rig.units import parse_limit

SILENT = SimpleNamespace(stage=lambda text: None, update=lambda text: None)


def _batches(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 32, *INPUT, generator=generator)
    return [(part, (part[:, 0, :8].mean(dim=(1, 2)) > 0).long()) for part in images]


SPLITS = {"train": _batches(0), "val": _batches(1)[:2], "test": _batches(2)[:1]}
TASK = Task("halves", "resnet", build, F.cross_entropy, SPLITS.__getitem__, lambda net, split: 0.5, INPUT, 32)


def work(folder, **changed) -> Workplace:
    settings = Settings((), None, 3, 1, 2, 1, 1, method="allocate")._replace(**changed)
    return Workplace(TASK, settings, folder, SILENT, {}, lambda state: None)


def survey_of(template, tables) -> Survey:
    totals = tables.totals(template.seed_widths())
    return Survey(None, template, tables, totals, totals, 0.5, None, None)


def budget_of(survey, *limits, fps=None):
    return resolve([parse_limit(*limit) for limit in limits], fps, survey.idle_power_w, survey.measured)


@pytest.fixture(scope="module")
def searched(network, template, tables, tmp_path_factory):
    survey = survey_of(template, tables)
    budget = budget_of(survey, ("latency", "45%"))
    workplace = work(tmp_path_factory.mktemp("allocate"), epochs_shrink=4)
    return workplace, survey, budget, Allocate().search(workplace, network, survey, budget)


def used(found, survey, budget, choice) -> float:
    return budget.usage(survey.tables.totals(choice.widths, found.template.removed_kernels(choice.removed)))


def test_the_search_ends_above_the_target_and_the_choice_within_it(searched) -> None:
    _, survey, budget, found = searched
    before = budget.usage(survey.tables.totals({**survey.template.seed_widths(), **found.alive}, _gone(found)))
    assert 1.0 < before < budget.usage(survey.predicted)
    choice = Allocate().choose(found, survey, budget)
    assert used(found, survey, budget, choice) <= 1.0
    assert set(choice.widths) == set(survey.template.seed_widths())
    assert set(found.removed) <= set(choice.removed)
    looser = budget.scaled({"latency": 1.001 * before})  # what the device says can be made up for
    wider = Allocate().choose(found, survey, looser)
    assert used(found, survey, budget, choice) < used(found, survey, budget, wider) == pytest.approx(before, rel=0.05)


def _gone(found) -> frozenset[int]:
    return found.template.removed_kernels(found.removed)


def test_the_chosen_network_is_built_from_the_trained_one(searched) -> None:
    _, survey, budget, found = searched
    choice = Allocate().choose(found, survey, budget)
    network = realized(found.network, found.template, found.importance, choice, TASK)
    wanted = found.template.layer_widths(choice.widths, choice.removed)
    convolutions = {n: m.out_channels for n, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert convolutions == {layer: width for layer, width in wanted.items() if width}
    assert network(torch.zeros(2, *INPUT)).shape == (2, 10)


def test_channels_are_gone_for_real_between_the_steps(searched) -> None:
    workplace, survey, _, found = searched
    seed = survey.template.seed_widths()
    weights = sum(p.numel() for p in found.network.parameters())
    assert weights < sum(p.numel() for p in build().parameters())
    assert all(width <= seed[name] for name, width in found.alive.items())
    assert {g.name for g in found.template.groups} <= set(seed)
    steps = [stage for stage in workplace.stages if stage["name"].startswith("allocate")]
    assert [stage["name"] for stage in steps] == ["allocate 1 of 2", "allocate 2 of 2"]
    assert steps[0]["used"] <= 1.0
    assert all(stage["bound"] <= stage["loss"] for stage in steps)


def test_a_repeat_gives_the_same_widths_and_a_stopped_run_goes_on_as_it_would_have(searched, network, tmp_path) -> None:
    workplace, survey, budget, found = searched
    again = Allocate().search(work(tmp_path, epochs_shrink=4), network, survey, budget)
    assert again.alive == found.alive
    assert again.removed == found.removed
    assert Allocate().choose(again, survey, budget) == Allocate().choose(found, survey, budget)
    resumed = Workplace(TASK, workplace.settings, workplace.folder, SILENT, workplace.state, lambda state: None)
    after = Allocate().search(resumed, network, survey, budget)
    assert all(torch.equal(a, b) for a, b in zip(after.network.parameters(), found.network.parameters(), strict=True))


def test_a_group_that_surgery_put_back_keeps_its_width(searched) -> None:
    _, survey, budget, found = searched
    budget = budget.scaled({"latency": 0.7})
    before = Allocate().choose(found, survey, budget)
    kept = next(g for g in found.template.groups if g.prunable and before.widths[g.name] < g.width)
    kept.put_back = "the function changed"
    try:
        choice = Allocate().choose(found, survey, budget)
    finally:
        kept.put_back = ""
    assert choice.widths[kept.name] == kept.width
    assert used(found, survey, budget, choice) <= 1.0


def test_the_baseline_is_left_as_it_was(network, template, tables, tmp_path) -> None:
    before = {name: values.clone() for name, values in network.state_dict().items()}
    survey = survey_of(template, tables)
    Allocate().search(work(tmp_path, epochs_shrink=1), network, survey, budget_of(survey, ("params", "60%")))
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())


@pytest.mark.parametrize("importance", ["bn-taylor", "magnitude"])
def test_every_importance_reaches_several_limits_at_once(network, template, tables, tmp_path, importance) -> None:
    survey = survey_of(template, tables)
    budget = budget_of(survey, ("energy", "50%"), ("params", "50%"))
    workplace = work(tmp_path, epochs_shrink=1, importance=importance)
    found = Allocate().search(workplace, network, survey, budget)
    assert used(found, survey, budget, Allocate().choose(found, survey, budget)) <= 1.0


def test_without_removal_of_blocks_every_block_stays(network, template, tables, tmp_path) -> None:
    survey = survey_of(template, tables)
    budget = budget_of(survey, ("latency", "30%"))
    workplace = work(tmp_path, epochs_shrink=1)
    workplace.settings = workplace.settings._replace(ablation=workplace.settings.ablation._replace(remove_blocks=False))
    found = Allocate().search(workplace, network, survey, budget)
    choice = Allocate().choose(found, survey, budget)
    assert found.removed == choice.removed == []
    assert used(found, survey, budget, choice) <= 1.0


def test_limits_that_clash_are_refused_before_training(network, template, tables, tmp_path) -> None:
    survey = survey_of(template, tables)
    budget = budget_of(survey, ("latency", "0.5%"), ("params", "90%"))
    workplace = work(tmp_path)
    with pytest.raises(InfeasibleTargetError, match="nearest reach latency"):
        Allocate().search(workplace, network, survey, budget)
    assert workplace.stages == []


def test_a_frame_rate_is_kept_beside_the_power(network, template, tables, tmp_path) -> None:
    survey = survey_of(template, tables)
    fps = 2.0 / float(survey.measured[0])  # a frame is half of the seed network's latency
    budget = budget_of(survey, ("power", "90%"), fps=fps)
    found = Allocate().search(work(tmp_path, epochs_shrink=1), network, survey, budget)
    choice = Allocate().choose(found, survey, budget)
    totals = survey.tables.totals(choice.widths, found.template.removed_kernels(choice.removed))
    assert fps * totals[0] <= 1.0


@pytest.mark.parametrize(("solver", "limit"), [("solve", "40%"), ("least_cost", "0.1%")])
def test_a_solver_out_of_time_is_said_and_nothing_is_cut(searched, monkeypatch, solver, limit) -> None:
    _, survey, _, found = searched

    def out_of_time(*args: object) -> None:
        raise NoChoiceError(proven=False)

    monkeypatch.setattr(allocation, solver, out_of_time)
    with pytest.raises(NoAllocationError, match="in 60 s") as error:
        Allocate().choose(found, survey, budget_of(survey, ("latency", limit)))
    assert "--method morphnet" in str(error.value.fix)


def test_an_unknown_importance_is_said(network, template, tables, tmp_path) -> None:
    survey = survey_of(template, tables)
    with pytest.raises(BadInputError, match="unknown importance 'tailor'"):
        Allocate().search(work(tmp_path, importance="tailor"), network, survey, budget_of(survey, ("latency", "50%")))
