"""Which blocks go first: exact choices that differ in their blocks, trained for a little, the least loss wins."""

from __future__ import annotations

import compression_case as case
import pytest
import torch

from rig.compression.methods import blocks_first
from rig.compression.methods.allocating import Scored, Worth, block_losses, scored
from rig.compression.methods.base import Choice
from rig.compression.survey import Ablation

STRIDED = {"layer2.0"}


@pytest.fixture(scope="module")
def worth(task, survey, network, tmp_path_factory) -> Worth:
    workplace = case.workplace_in(tmp_path_factory.mktemp("scored"), task, 8)
    found = scored(workplace, network, survey.template, [], (), 0)
    return Worth(survey.template, [], found.channels, block_losses(found.trials))


def test_choices_differ_in_their_blocks_and_hold_the_budget(worth, survey) -> None:
    budget = case.budget_of(survey, "latency", "20%")
    choices = blocks_first._choices(worth, survey, budget)
    assert len(choices) > 1
    assert len({tuple(choice.removed) for choice in choices}) == len(choices)
    for choice in choices:
        totals = survey.tables.totals(choice.widths, survey.template.removed_kernels(choice.removed))
        assert blocks_first.WELL_USED <= budget.usage(totals) <= 1.0
    assert any(STRIDED.isdisjoint(choice.removed) for choice in choices)


def test_blocks_with_a_stride_are_left_out_of_the_second_half(worth) -> None:
    assert set(worth.blocks) - set(blocks_first._keeping_resolution(worth)) == STRIDED


def test_the_nearest_choice_is_left_where_none_holds_the_budget(worth, survey) -> None:
    budget = case.budget_of(survey, "latency", "0.5%")
    (choice,) = blocks_first._choices(worth, survey, budget)
    totals = survey.tables.totals(choice.widths, survey.template.removed_kernels(choice.removed))
    assert budget.usage(totals) > 1.0


@pytest.mark.parametrize(
    ("losses", "best"),
    [([1.0, 2.0], 0), ([2.0, 1.0], 1), ([float("nan"), 2.0], 1)],  # what is not finite never wins
)
def test_the_choice_with_the_least_loss_wins(losses, best, worth, task, survey, network, tmp_path, monkeypatch) -> None:
    choices = [Choice(survey.template.seed_widths(), removed) for removed in ([], ["layer1.0"])]
    monkeypatch.setattr(blocks_first, "_choices", lambda *args: choices)
    told = iter(losses)
    monkeypatch.setattr(blocks_first, "mean_loss", lambda *args: next(told))
    workplace = case.workplace_in(tmp_path, task, 8)
    begun = blocks_first.without_blocks_first(workplace, network, survey, case.budget_of(survey, "latency"))
    assert begun.removed == choices[best].removed
    race = workplace.state[blocks_first.KEY]["race"]
    assert [entry["removed"] for entry in race] == [choice.removed for choice in choices]
    # Eight epochs of four batches: a tenth and a half for the trials, three tenths for the race of two.
    tried = 1 + 3 * 6 + 4
    assert begun.epochs == pytest.approx((min(5, int(0.15 * 32 / tried)) * tried + 2 * int(0.3 * 32 / 2)) / 4)


def test_the_race_is_annealed_and_a_choice_that_training_throws_off_has_no_loss(
    worth, task, survey, network, tmp_path, monkeypatch
) -> None:
    asked = []

    class Thrown(blocks_first.Recovery):
        def __init__(self, *args: object, **kwargs: object) -> None:
            asked.append(kwargs)
            super().__init__(*args, **kwargs)

        def __call__(self, trial: torch.nn.Module) -> bool:
            super().__call__(trial)
            return False

    monkeypatch.setattr(blocks_first, "Recovery", Thrown)
    choices = [Choice(survey.template.seed_widths(), removed) for removed in ([], ["layer1.0"])]
    race, _ = blocks_first._race(case.workplace_in(tmp_path, task, 8), network, worth, choices)
    assert asked == [{"annealed": True}]
    assert [entry["loss"] for entry in race] == [None, None]


def test_one_choice_needs_no_race(worth, task, network, tmp_path) -> None:
    race, epochs = blocks_first._race(case.workplace_in(tmp_path, task), network, worth, [Choice({}, ["layer1.0"])])
    assert (race, epochs) == ([{"removed": ["layer1.0"], "loss": None}], 0.0)


def test_a_decision_is_kept_and_the_trained_network_stays_as_it_was(
    task, survey, network, tmp_path, monkeypatch
) -> None:
    before = {name: values.clone() for name, values in network.state_dict().items()}
    budget = case.budget_of(survey, "latency", "30%")
    workplace = case.workplace_in(tmp_path, task, 8)
    begun = blocks_first.without_blocks_first(workplace, network, survey, budget)
    assert begun.removed
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())

    def again(*args: object) -> Scored:
        raise AssertionError("decided already")

    monkeypatch.setattr(blocks_first, "scored", again)
    resumed = blocks_first.without_blocks_first(workplace, network, survey, budget)
    assert resumed.removed == begun.removed
    state = resumed.network.state_dict()
    assert all(torch.equal(values, state[name]) for name, values in begun.network.state_dict().items())


def test_blocks_stay_where_a_study_says_so(task, survey, network, tmp_path) -> None:
    workplace = case.workplace_in(tmp_path, task, 8, ablation=Ablation(remove_blocks=False))
    begun = blocks_first.without_blocks_first(workplace, network, survey, case.budget_of(survey, "latency", "30%"))
    assert begun.removed == []
    assert begun.network is network
    assert begun.epochs == 0.0
