"""Channels worth by ratio: what that makes of scores, and the heats that tell which worth the widths follow."""

from __future__ import annotations

import math

import compression_case as case
import pytest
import torch

from rig.compression.methods import even_widths, race
from rig.compression.methods.allocate import Allocate
from rig.compression.methods.allocating import Worth, allocated_in_blocks, block_losses, scored
from rig.compression.methods.base import Choice
from rig.compression.methods.even_widths import NONE, POWERS, Entry, Heats, choices, heats, in_ratio
from rig.compression.methods.morphnet import MorphNet


@pytest.fixture(scope="module")
def worth(task, survey, network, tmp_path_factory) -> Worth:
    workplace = case.workplace_in(tmp_path_factory.mktemp("scored"), task, 8)
    found = scored(workplace, network, survey.template, [], (), 0)
    return Worth(survey.template, [], found.channels, block_losses(found.trials))


def loss_at(kept: int, seed: int, power: int) -> float:
    return math.log(seed / kept) if power == 0 else ((seed / kept) ** power - 1) / power


@pytest.mark.parametrize("power", POWERS)
def test_a_group_loses_by_the_ratio_that_is_kept_and_by_how_many_kernels_use_it(power, worth, survey) -> None:
    found = in_ratio(worth, survey, power)
    total = sum(float(values.double().sum()) for values in found.channels.values())
    before = sum(float(values.double().sum()) for values in worth.channels.values())
    assert total == pytest.approx(before, rel=1e-5)
    scales = []
    for name, values in found.channels.items():
        order = torch.argsort(worth.channels[name], descending=True, stable=True)
        ranked = values[order][: int((worth.channels[name] > 0).sum())].double()
        assert (ranked[:-1] > ranked[1:]).all()  # who stays is as before
        sides = [side for kernel in survey.tables.kernels for side in (kernel.channels_in, kernel.channels_out)]
        uses = sum(group == name for side in sides for group, _ in side.terms)
        living, seed = len(ranked), survey.template.seed_widths()[name]
        for kept in (1, 2, living - 1):
            lost = loss_at(kept, seed, power) - loss_at(living, seed, power)
            scales.append(float(ranked[kept:].sum()) / math.sqrt(uses) / lost)
    assert scales == pytest.approx([scales[0]] * len(scales), rel=1e-3)


def test_channels_without_a_score_have_none_and_groups_that_are_gone_count_for_nothing(worth, survey) -> None:
    name = next(iter(worth.channels))
    dead = {**worth.channels, name: worth.channels[name].clone().index_fill_(0, torch.tensor([0, 3]), 0.0)}
    found = in_ratio(worth._replace(channels=dead), survey, 1).channels[name]
    assert (found == 0).nonzero().flatten().tolist() == [0, 3]
    block = next(b for b in survey.template.blocks if b.inner)
    without = in_ratio(worth._replace(removed=[block.name]), survey, 1)
    assert all(float(without.channels[group].sum()) == 0.0 for group in block.inner)


def budget_of(survey):
    return case.budget_of(survey, "latency", "30%")


def entries_of(network, worth, survey) -> list[Entry]:
    """Widths of each power that differ: of group i all but one channel."""
    names = [g.name for g in survey.template.groups if g.prunable]
    seed = survey.template.seed_widths()
    return [Entry(power, network, worth, Choice({**seed, names[i]: 1}, [])) for i, power in enumerate((None, *POWERS))]


@pytest.mark.parametrize(
    ("losses", "power"),
    [
        ([1.0, 0.9, 0.8, 0.95], 1),
        ([0.9, 1.0, 1.0, 1.0], None),
        ([1.0, 1.0, 1.0, 1.0], None),
        ([float("nan"), 1.0, 1.0, 2.0], 0),
        ([float("nan")] * 4, None),
    ],
)
def test_the_least_loss_wins_and_of_equals_the_first(
    losses, power, worth, survey, task, network, tmp_path, monkeypatch
) -> None:
    told = iter(losses)
    monkeypatch.setattr(race, "mean_loss", lambda *args: next(told))
    drawn = torch.get_rng_state()
    workplace = case.workplace_in(tmp_path, task, 20)
    found = heats(workplace, entries_of(network, worth, survey))
    assert found.power == power
    assert [entry for entry, _ in found.losses] == [None, *POWERS]
    assert found.epochs == 4 * 4 / 4  # a fifth of twenty passes of four batches for all four
    assert found.epochs <= even_widths.epochs_of(workplace)
    assert Heats.from_json(found._asdict()) == found
    assert torch.equal(torch.get_rng_state(), drawn)


def test_little_training_or_equal_widths_need_no_heats(worth, survey, task, network, tmp_path) -> None:
    entries = entries_of(network, worth, survey)
    assert heats(case.workplace_in(tmp_path, task, 3), entries) == NONE
    assert even_widths.epochs_of(case.workplace_in(tmp_path, task, 3)) == 0.0
    assert NONE.power is None
    same = [entry._replace(choice=entries[0].choice) for entry in entries]
    assert heats(case.workplace_in(tmp_path, task, 20), same) == NONE


def test_a_worth_that_no_choice_is_found_for_takes_no_part(worth, survey, network) -> None:
    asked = []

    def choose(own: Worth) -> Choice:
        asked.append(own)
        if len(asked) == 2:
            raise even_widths.NoAllocationError("undecided")
        return Choice(survey.template.seed_widths(), [])

    assert [entry.power for entry in choices(network, worth, survey, choose)] == [None, *POWERS[1:]]


@pytest.mark.parametrize("power", [None, 1])
def test_allocate_goes_by_the_worth_that_won(power, survey, task, network, tmp_path, monkeypatch) -> None:
    chosen = Heats([(None, 1.0), (1, 2.0 if power is None else 0.5)], 1.0)
    asked = []
    monkeypatch.setattr("rig.compression.methods.allocate.heats", lambda *args: (asked.append(args), chosen)[1])
    budget = budget_of(survey)
    workplace = case.workplace_in(tmp_path, task, 3)
    found = Allocate().search(workplace, network, survey, budget)
    (step,) = (stage for stage in workplace.stages if stage["name"].startswith("allocate 1"))
    assert step["heats"] == chosen._asdict()
    assert len(asked) == 1  # once in a run
    last = Worth(found.template, found.removed, found.importance, {})
    rebuilt = in_ratio(last, survey, 1)
    assert (power == 1) is all(
        torch.allclose(values, rebuilt.channels[name], rtol=1e-4) for name, values in found.importance.items()
    )
    plain = allocated_in_blocks(last, survey, budget)
    assert Allocate().choose(found, survey, budget).widths == plain.widths


@pytest.mark.parametrize("power", [None, 2])
def test_morphnet_takes_what_won_from_the_network_before_or_after_shrinking(
    power, survey, task, network, tmp_path, monkeypatch
) -> None:
    asked = []

    def told(workplace, entries) -> Heats:
        asked.append(entries)
        return Heats([(None, 1.0), (2, 2.0 if power is None else 0.5)], 0.0)

    monkeypatch.setattr("rig.compression.methods.morphnet.heats", told)
    budget = budget_of(survey)
    found = MorphNet().search(case.workplace_in(tmp_path, task, 20), network, survey, budget)
    ((shrunk, *even),) = asked
    assert [entry.power for entry in even] == list(POWERS)
    assert shrunk.network is not even[0].network
    assert all(entry.network is even[0].network for entry in even)
    assert found.network is (shrunk if power is None else even[0]).network
    winner = shrunk if power is None else even[POWERS.index(power)]
    assert MorphNet().choose(found, survey, budget) == winner.choice
    before = dict(network.state_dict())
    if power is not None and not found.removed:
        assert all(torch.equal(values, before[key]) for key, values in found.network.state_dict().items())


@pytest.mark.parametrize("spent", [0.0, 1.0])
def test_what_the_heats_took_is_taken_from_the_first_step(spent, survey, task, network, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("rig.compression.methods.allocate.heats", lambda *args: Heats([], spent))
    workplace = case.workplace_in(tmp_path, task, 8)
    asked: list[float] = []
    train = workplace.train
    monkeypatch.setattr(workplace, "train", lambda *args: (asked.append(args[2].epochs), train(*args))[1])
    Allocate().search(workplace, network, survey, budget_of(survey))
    first, *later = asked
    assert later
    assert later[0] - first == pytest.approx(spent)


@pytest.mark.parametrize(("method", "decisions"), [(Allocate, "allocate"), (MorphNet, None)])
def test_heats_are_not_run_again_after_a_stop(method, decisions, survey, task, network, tmp_path, monkeypatch) -> None:
    budget = budget_of(survey)
    workplace = case.workplace_in(tmp_path, task, 20)
    found = method().search(workplace, network, survey, budget)
    kept = workplace.state[decisions] if decisions else workplace.state
    assert kept["heats"]["losses"]
    monkeypatch.setattr(even_widths, "Judge", None)
    resumed = case.workplace_in(tmp_path, task, 20)
    resumed.state.update(workplace.state)
    again = method().search(resumed, network, survey, budget)
    assert method().choose(again, survey, budget) == method().choose(found, survey, budget)
    assert any(stage["name"] == "heats" for stage in resumed.stages)
