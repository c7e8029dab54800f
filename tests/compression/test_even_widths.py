"""Channels worth the same in ratio: what that makes of scores, and the heats that tell whether it is better."""

from __future__ import annotations

import math

import compression_case as case
import pytest
import torch

from rig.compression.methods import even_widths, race
from rig.compression.methods.allocate import Allocate
from rig.compression.methods.allocating import Worth, allocated_in_blocks, block_losses, scored
from rig.compression.methods.even_widths import NONE, Heats, heats, in_ratio


@pytest.fixture(scope="module")
def worth(task, survey, network, tmp_path_factory) -> Worth:
    workplace = case.workplace_in(tmp_path_factory.mktemp("scored"), task, 8)
    found = scored(workplace, network, survey.template, [], (), 0)
    return Worth(survey.template, [], found.channels, block_losses(found.trials))


def test_a_channel_is_worth_by_its_rank_and_by_how_many_kernels_use_its_group(worth, survey) -> None:
    found = in_ratio(worth, survey)
    total = {name: float(values.double().sum()) for name, values in found.channels.items()}
    before = sum(float(values.double().sum()) for values in worth.channels.values())
    assert sum(total.values()) == pytest.approx(before, rel=1e-5)
    scales = []
    for name, values in found.channels.items():
        order = torch.argsort(worth.channels[name], descending=True, stable=True)
        ranked = values[order][: int((worth.channels[name] > 0).sum())].double()
        assert (ranked[:-1] >= ranked[1:]).all()  # who stays is as before
        sides = [side for kernel in survey.tables.kernels for side in (kernel.channels_in, kernel.channels_out)]
        uses = sum(group == name for side in sides for group, _ in side.terms)
        for k in (2, 3, len(ranked)):
            scales.append(float(ranked[k - 1]) / (math.log(k / (k - 1)) * math.sqrt(uses)))
    assert scales == pytest.approx([scales[0]] * len(scales), rel=1e-4)


def test_channels_without_a_score_have_none_and_groups_that_are_gone_count_for_nothing(worth, survey) -> None:
    name = next(iter(worth.channels))
    dead = {**worth.channels, name: worth.channels[name].clone().index_fill_(0, torch.tensor([0, 3]), 0.0)}
    found = in_ratio(worth._replace(channels=dead), survey).channels[name]
    assert (found == 0).nonzero().flatten().tolist() == [0, 3]
    block = next(b for b in survey.template.blocks if b.inner)
    without = in_ratio(worth._replace(removed=[block.name]), survey)
    assert all(float(without.channels[group].sum()) == 0.0 for group in block.inner)


def budget_of(survey):
    return case.budget_of(survey, "latency", "30%")


@pytest.mark.parametrize(
    ("losses", "even"),
    [([1.0, 0.9], True), ([0.9, 1.0], False), ([1.0, 1.0], False), ([float("nan"), 1.0], True)],
)
def test_the_less_loss_wins_and_of_equals_what_was_measured(
    losses, even, worth, survey, task, network, tmp_path, monkeypatch
) -> None:
    told = iter(losses)
    monkeypatch.setattr(race, "mean_loss", lambda *args: next(told))
    drawn = torch.get_rng_state()
    found = heats(case.workplace_in(tmp_path, task, 20), network, worth, survey, budget_of(survey))
    assert found.even is even
    assert found.epochs == 2 * 8 / 4  # a tenth of twenty passes of four batches, each
    assert torch.equal(torch.get_rng_state(), drawn)


def test_little_training_or_equal_widths_need_no_heats(worth, survey, task, network, tmp_path, monkeypatch) -> None:
    workplace = case.workplace_in(tmp_path, task, 3)
    assert heats(workplace, network, worth, survey, budget_of(survey)) == NONE
    assert not NONE.even
    workplace = case.workplace_in(tmp_path, task, 20)
    assert heats(workplace, network, in_ratio(worth, survey), survey, budget_of(survey)) == NONE


@pytest.mark.parametrize("even", [True, False])
def test_the_method_goes_by_the_worth_that_won(even, survey, task, network, tmp_path, monkeypatch) -> None:
    chosen = Heats(1.0, 0.5 if even else 2.0, 1.0)
    asked = []

    def raced(*args):
        asked.append(args)
        return chosen

    monkeypatch.setattr("rig.compression.methods.allocate.heats", raced)
    budget = budget_of(survey)
    workplace = case.workplace_in(tmp_path, task, 3)
    found = Allocate().search(workplace, network, survey, budget)
    (step,) = (stage for stage in workplace.stages if stage["name"].startswith("allocate 1"))
    assert step["heats"] == chosen._asdict()
    assert len(asked) == 1  # once in a run
    last = Worth(found.template, found.removed, found.importance, {})
    rebuilt = in_ratio(last, survey)
    assert even is all(
        torch.allclose(values, rebuilt.channels[name], rtol=1e-4) for name, values in found.importance.items()
    )
    plain = allocated_in_blocks(last, survey, budget)
    assert Allocate().choose(found, survey, budget).widths == plain.widths


@pytest.mark.parametrize("spent", [0.0, 1.0])
def test_what_the_heats_took_is_taken_from_the_first_step(spent, survey, task, network, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("rig.compression.methods.allocate.heats", lambda *args: Heats(1.0, 2.0, spent))
    workplace = case.workplace_in(tmp_path, task, 8)
    asked: list[float] = []
    train = workplace.train
    monkeypatch.setattr(workplace, "train", lambda *args: (asked.append(args[2].epochs), train(*args))[1])
    Allocate().search(workplace, network, survey, budget_of(survey))
    first, *later = asked
    assert later
    assert later[0] - first == pytest.approx(spent)


def test_heats_are_not_run_again_after_a_stop(survey, task, network, tmp_path, monkeypatch) -> None:
    budget = budget_of(survey)
    workplace = case.workplace_in(tmp_path, task, 20)
    Allocate().search(workplace, network, survey, budget)
    assert workplace.state["allocate"]["heats"]["in_ratio"] is not None
    monkeypatch.setattr(even_widths, "Judge", None)
    resumed = case.workplace_in(tmp_path, task, 20)
    resumed.state.update(workplace.state)
    again = Allocate().search(resumed, network, survey, budget)
    assert Allocate().choose(again, survey, budget).widths
    assert any(stage["name"] == "heats" for stage in resumed.stages)
