"""Which blocks go first: exact choices that differ in their blocks, trained for a little, the least loss wins."""

from __future__ import annotations

import compression_case as case
import pytest
import torch

from rig.compression.methods import blocks_first, race
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
    choices = blocks_first.BlockChoices(worth, survey, budget).first()
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
    (choice,) = blocks_first.BlockChoices(worth, survey, budget).first()
    totals = survey.tables.totals(choice.widths, survey.template.removed_kernels(choice.removed))
    assert budget.usage(totals) > 1.0


def kept_in(choice: Choice, stages: list[list[str]]) -> list[list[str]]:
    return [[name for name in stage if name not in choice.removed] for stage in stages]


def test_the_first_blocks_of_a_stage_stay_in_half_of_the_choices_and_in_all_around_one(worth, survey) -> None:
    choices = blocks_first.BlockChoices(worth, survey, case.budget_of(survey, "latency", "20%"))
    assert sum(map(len, choices.stages)) == len(worth.blocks)
    for choice in choices.first():
        fronted = choices._first_stay(choice.removed)
        counts = [len(kept) for kept in kept_in(choice, choices.stages)]
        assert counts == [len(kept) for kept in kept_in(Choice({}, list(fronted)), choices.stages)]
        for near in choices.around(choice):
            left = kept_in(near, choices.stages)
            assert left == [stage[: len(kept)] for stage, kept in zip(choices.stages, left, strict=True)]
            assert sum(abs(len(kept) - count) for kept, count in zip(left, counts, strict=True)) == 1


def test_of_two_blocks_that_overlap_one_is_chosen_from(worth, survey) -> None:
    small = next(b for b in worth.template.blocks if b.name == "layer1.0")
    around = small._replace(name="around", kernels=small.kernels | {max(small.kernels) + 1})
    both = worth._replace(
        template=worth.template._replace(blocks=[*worth.template.blocks, around]),
        blocks={**worth.blocks, "around": 0.1},
    )
    choices = blocks_first.BlockChoices(both, survey, case.budget_of(survey, "latency", "20%"))
    assert sorted(name for stage in choices.stages for name in stage) == sorted(worth.blocks)


@pytest.fixture
def pair(survey) -> list[Choice]:
    return [Choice(survey.template.seed_widths(), removed) for removed in ([], ["layer1.0"])]


def none_around(choice: Choice) -> list[Choice]:
    return []


@pytest.mark.parametrize(
    ("losses", "best", "left"),
    [
        # Two heats; then both train on, and what they end at counts.
        ([1.0, 2.0, 0.5, 0.6], 0, [0.5, 0.6]),
        ([1.0, 2.0, 0.5, 0.4], 1, [0.5, 0.4]),
        ([2.0, 1.0, 0.5, 0.6], 1, [0.5, 0.6]),
        ([float("nan"), 2.0], 1, [2.0, None]),  # what is not finite never wins, and one alone needs no final
        ([float("nan"), float("nan")], 0, [None, None]),
    ],
)
def test_the_least_loss_wins(losses, best, left, pair, worth, task, network, tmp_path, monkeypatch) -> None:
    told = iter(losses)
    monkeypatch.setattr(race, "mean_loss", lambda *args: next(told))
    found = race.raced(case.workplace_in(tmp_path, task, 8), network, worth, pair, none_around, 12)
    assert found.best == pair[best].removed
    assert [entry["loss"] for entry in found.record] == left
    assert next(told, None) is None
    # Two heats of two batches each; the eight that are left are for a final of two.
    assert found.batches == sum(entry["batches"] for entry in found.record) == (12 if None not in left else 4)


def test_what_is_around_the_best_is_tried_too(pair, worth, task, survey, network, tmp_path, monkeypatch) -> None:
    asked = []
    third = Choice(survey.template.seed_widths(), ["layer2.0"])

    def around(choice: Choice) -> list[Choice]:
        asked.append(list(choice.removed))
        return [third, pair[0]]  # one new, one known

    told = iter([2.0, 1.0, 0.5, 0.3, 0.4])
    monkeypatch.setattr(race, "mean_loss", lambda *args: next(told))
    found = race.raced(case.workplace_in(tmp_path, task, 8), network, worth, pair, around, 12)
    assert asked == [pair[1].removed, third.removed]
    assert found.best == third.removed
    assert [entry["removed"] for entry in found.record] == [third.removed, pair[1].removed, pair[0].removed]


def test_a_race_stays_within_its_batches(pair, worth, task, survey, network, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(race, "mean_loss", lambda *args: 1.0)
    for room in (6, 7, 12):
        workplace = case.workplace_in(tmp_path, task, 8)
        found = race.raced(workplace, network, worth, pair, lambda choice: pair, room)
        assert 0 < found.batches <= room


def test_a_choice_that_training_throws_off_has_no_loss(pair, worth, task, network, tmp_path, monkeypatch) -> None:
    asked = []

    class Thrown(race.Recovery):
        def __init__(self, *args: object, **kwargs: object) -> None:
            asked.append(kwargs)
            super().__init__(*args, **kwargs)

        def __call__(self, trial: torch.nn.Module) -> bool:
            super().__call__(trial)
            return False

    monkeypatch.setattr(race, "Recovery", Thrown)
    found = race.raced(case.workplace_in(tmp_path, task, 8), network, worth, pair, none_around, 9)
    assert asked == [{"annealed": True, "parts": 4, "faster": 2.5}]
    assert [entry["loss"] for entry in found.record] == [None, None]


@pytest.mark.parametrize(("count", "room"), [(1, 100), (2, 5)])
def test_one_choice_or_little_training_needs_no_race(count, room, pair, worth, task, network, tmp_path) -> None:
    workplace = case.workplace_in(tmp_path, task)
    found = race.raced(workplace, network, worth, pair[:count], none_around, room)
    assert found == race.Raced([], [{"removed": [], "loss": None, "batches": 0}], 0)


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
