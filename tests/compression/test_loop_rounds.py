"""What the loop keeps of its rounds: choices across a stop, blocks that were put back, the training from scratch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import compression_case as case
import odd_networks as odd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from power_models.kernels import kernel_graph
from rig.compression import loop as loops
from rig.compression import outcome
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.realize import Realized
from rig.compression.cutting.rehearsal import scrambled
from rig.compression.cutting.template import make_template
from rig.compression.export import to_onnx
from rig.compression.methods.base import Choice, Found
from rig.compression.survey import Settings
from rig.compression.tasks import Task, accuracy
from rig.compression.training import DivergedError, TrainingPlan, precision
from rig.errors import BadInputError
from rig.profiles import load_profile
from rig.store.store import Store

BATCH = (torch.randn(8, *odd.IMAGE), torch.arange(8) % 5)


def odd_task():
    """A task whose model(widths) cannot leave blocks out."""
    return Task("odd", "plain", odd.Plain, F.cross_entropy, lambda split: [BATCH], accuracy_of, odd.IMAGE, 8, True)


def accuracy_of(network, split):
    return accuracy(network, [BATCH])


def found_in(network, example, image):
    template = make_template(kernel_graph(to_onnx(network, image), "virtual"), find_groups(network, example))
    equal = {g.name: torch.arange(g.width, dtype=torch.float32) for g in template.groups if g.prunable}
    return Found(network, template, equal, template.seed_widths(), [], [], [])


@pytest.fixture(scope="module")
def odd_found():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    return found_in(scrambled(odd.Plain()).eval(), odd.EXAMPLE, odd.IMAGE)


@pytest.fixture(autouse=True)
def one_precision(monkeypatch):
    monkeypatch.setattr(precision, "choose", lambda times_s: "float32")


def loop_in(folder: Path, task, run=None, **settings):
    run = run or Store(folder).new_run("optimize", "virtual-pi4")
    asked = Settings((), None, 0, 1, 1, 1, rounds=3, **settings)
    return loops.Loop(run, load_profile("virtual-pi4"), task, None, asked, case.Quiet(), folder / "baselines")


def candidate_of(found, **widths):
    one_block = next(b.name for b in found.template.blocks if "one" in b.layers)
    choice = Choice({**found.template.seed_widths(), **widths}, [one_block])
    return SimpleNamespace(round=1, choice=choice)


# --- from scratch ---------------------------------------------------------------------------------------------------


def test_a_block_that_model_widths_cannot_leave_out_is_gone_from_scratch_too(odd_found, tmp_path):
    loop = loop_in(tmp_path, odd_task())
    network = loop.from_scratch(candidate_of(odd_found, stem=4), odd_found)
    names = {name for name, _ in network.named_modules()}
    assert "two" in names
    assert "one" not in names
    assert network.get_submodule("stem").out_channels == 4


@pytest.mark.parametrize("error", [DivergedError("the loss is inf", "lower it"), RuntimeError("sizes differ")])
def test_a_failing_retraining_leaves_the_result_and_says_why(error, odd_found, tmp_path, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(loops.Loop, "from_scratch", fails)
    network, why = loop_in(tmp_path, odd_task(), retrain=True).retrained(candidate_of(odd_found), odd_found)
    assert network is None
    (entry,) = outcome.not_retrained(SimpleNamespace(not_retrained=why))
    assert entry["code"] == "not-retrained"
    assert str(error).splitlines()[0].split(";")[0] in entry["message"]
    assert loop_in(tmp_path, odd_task()).retrained(candidate_of(odd_found), odd_found) == (None, "")
    assert outcome.not_retrained(SimpleNamespace(not_retrained="")) == []


# --- rounds across a stop -------------------------------------------------------------------------------------------


class Chooses:
    """A method that gives one width after the other, and keeps what it was given."""

    def __init__(self, *widths):
        self.widths = list(widths)
        self.given = []

    def choose(self, found, survey, budget):
        self.given.append(found)
        return Choice({**found.template.seed_widths(), "layer1.0.conv1": self.widths.pop(0)}, list(found.removed))


@pytest.fixture(scope="module")
def small():
    torch.set_num_threads(1)
    return case.small_task(2)


@pytest.fixture
def found(network, template):
    equal = {g.name: torch.arange(g.width, dtype=torch.float32) for g in template.groups if g.prunable}
    return Found(network, template, equal, template.seed_widths(), [], [], [])


def test_a_resumed_round_is_the_one_that_was_measured(small, found, template, tmp_path):
    survey = case.survey_of(template)
    budget = case.budget_of(survey, "latency")
    first = loop_in(tmp_path, small)
    first.method = Chooses(9, 7)
    factors = {"latency": 0.9}
    before = first._realized(1, found, survey, budget, factors)
    factors["latency"] = 0.8
    first._realized(2, found, survey, budget, factors)

    torch.manual_seed(77)  # another place of the generator: what was trained before the stop is not trained again
    resumed = loop_in(tmp_path, small, run=first.run)
    resumed.method = Chooses(5)
    factors = {"latency": 0.5}
    after = resumed._realized(1, found, survey, budget, factors)
    assert after.choice == before.choice
    assert after.choice.widths["layer1.0.conv1"] == 9
    assert factors == {"latency": 0.9}
    for a, b in zip(before.network.state_dict().values(), after.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert resumed._realized(2, found, survey, budget, factors).choice.widths["layer1.0.conv1"] == 7
    assert factors == {"latency": 0.8}
    assert resumed._realized(3, found, survey, budget, factors).choice.widths["layer1.0.conv1"] == 5
    assert resumed.run.read_json("state.json")["rounds"]["3"]["factors"] == {"latency": 0.8}


def test_a_round_whose_choice_was_not_kept_is_not_chosen_anew(small, found, template, tmp_path):
    survey = case.survey_of(template)
    loop = loop_in(tmp_path, small)
    loop.method = Chooses(9)
    candidate = loop.run.path / "artifacts" / "candidate-1.onnx"
    candidate.parent.mkdir(parents=True, exist_ok=True)
    candidate.touch()  # as a version left it that kept no choices
    with pytest.raises(BadInputError, match="measured round 1 with an earlier version"):
        loop._realized(1, found, survey, case.budget_of(survey, "latency"), {})


def test_a_block_that_was_put_back_is_left_out_of_later_rounds(small, found, template, tmp_path, monkeypatch):
    survey = case.survey_of(template)
    budget = case.budget_of(survey, "latency")
    trials = [{"block": name, "removed": True} for name in ("layer1.1", "layer2.1")]
    found = found._replace(removed=["layer1.1", "layer2.1"], trials=trials)

    def refuses(network, template, importance, choice, task):
        gone = [name for name in choice.removed if name != "layer1.1"]
        refused = {name: "another function" for name in choice.removed if name not in gone}
        return Realized(network, Choice(choice.widths, gone), refused)

    monkeypatch.setattr(loops, "realized_checked", refuses)
    loop = loop_in(tmp_path, small)
    loop.method = Chooses(9, 8)
    loop._realized(1, found, survey, budget, {})
    made = loop._realized(2, found, survey, budget, {})
    assert loop.method.given[0].removed == ["layer1.1", "layer2.1"]
    assert loop.method.given[1].removed == ["layer2.1"]
    assert "layer1.1" not in {b.name for b in loop.method.given[1].template.blocks}
    assert outcome.blocks(loop, found, made.choice) == {
        "removed": ["layer2.1"],
        "trials": [{"block": "layer1.1", "removed": False}, {"block": "layer2.1", "removed": True}],
        "refused": {**dict(template.refused), "layer1.1": "another function"},
    }


# --- what is not confirmed ------------------------------------------------------------------------------------------


def confirmed(loop, found, template, verdicts):
    """The factors of each round, of a loop whose confirmations say these verdicts, the first about round 2 of 3."""
    budget = case.budget_of(case.survey_of(template), "latency")
    asked = []

    def candidates(found, survey, budget, factors):
        for number in range(len(loop.rounds) + 1, max(loop.settings.rounds, len(loop.rounds) + 1) + 1):
            asked.append(dict(factors))
            loop.rounds.append(SimpleNamespace(round=number))
            loop.state.setdefault("rounds", {})[str(number)] = {"factors": dict(factors)}
            factors["latency"] -= 0.01
        return loop.rounds[1] if len(loop.rounds) == loop.settings.rounds else loop.rounds[-1]

    def confirm(survey, budget, candidate, paths):
        return SimpleNamespace(verdict=verdicts.pop(0), usages={"latency": SimpleNamespace(hi=1.02)})

    loop.candidates, loop.confirm = candidates, confirm
    loop.finetune = lambda candidate, found, baseline: (candidate, Path("result.onnx"))
    first = (None, Path("baseline.onnx"))
    candidate, paths, trial = loop.confirmed(found, None, budget, {"latency": 0.9}, first)
    assert paths == (Path("baseline.onnx"), Path("result.onnx"))
    return candidate.round, trial.verdict, [factors["latency"] for factors in asked]


def test_what_is_not_confirmed_is_corrected_by_its_own_round_though_none_is_left(small, found, template, tmp_path):
    number, verdict, factors = confirmed(loop_in(tmp_path, small), found, template, ["undecided", "met"])
    assert (number, verdict) == (4, "met")
    assert factors == pytest.approx([0.9, 0.89, 0.88, 0.89 * (1 - loops.FIRST_MARGIN) / 1.02])


def test_a_second_confirmation_is_the_last(small, found, template, tmp_path):
    number, verdict, factors = confirmed(loop_in(tmp_path, small), found, template, ["undecided", "missed"])
    assert (number, verdict, len(factors)) == (4, "missed", 4)


def test_what_is_confirmed_costs_no_round_more(small, found, template, tmp_path):
    number, verdict, factors = confirmed(loop_in(tmp_path, small), found, template, ["met"])
    assert (number, verdict, len(factors)) == (2, "met", 3)


def test_widths_that_were_given_are_not_corrected(small, found, template, tmp_path):
    loop = loop_in(tmp_path, small, widths={"stem": 4})
    assert loop._most_rounds == 1
    loop.candidates = lambda *_: loop.rounds.append(SimpleNamespace(round=1)) or loop.rounds[0]
    loop.finetune = lambda candidate, *_: (candidate, Path("result.onnx"))
    loop.confirm = lambda *_: SimpleNamespace(verdict="missed", usages={})
    budget = case.budget_of(case.survey_of(template), "latency")
    candidate, _, trial = loop.confirmed(found, None, budget, {}, (None, Path("baseline.onnx")))
    assert (candidate.round, trial.verdict, len(loop.rounds)) == (1, "missed", 1)


# --- the record of stages -------------------------------------------------------------------------------------------


def test_what_the_baseline_took_survives_a_stop(tmp_path):
    first = loop_in(tmp_path, odd_task())
    first.baseline()
    (stage,) = first.workplace.stages
    assert stage["precision"] == "float32"
    resumed = loop_in(tmp_path, odd_task(), run=first.run)
    resumed.baseline()
    assert resumed.workplace.stages == [stage]
    other = loop_in(tmp_path, odd_task())  # takes the network, but did not train it
    other.baseline()
    assert other.workplace.stages == []


def test_a_second_fine_tune_has_its_own_record(tmp_path):
    place = loop_in(tmp_path, odd_task()).workplace
    plan = TrainingPlan(1, precision="float32")
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(odd.EXAMPLE.numel(), 5)) for _ in range(2)]
    for number, network in enumerate(networks, start=1):
        place.train("fine-tune", network, plan, place.checkpoint(f"finetune-{number}"))
        place.note("fine-tune", network, onnx_difference=float(number))
    assert [stage["onnx_difference"] for stage in place.stages] == [1.0, 2.0]
    spent = outcome.timings(place.stages)
    assert spent == {"fine-tune": pytest.approx(sum(stage["seconds"] for stage in place.stages))}


def test_fine_tuning_counts_the_steps_of_its_epochs(tmp_path, monkeypatch):
    loop = loop_in(tmp_path, odd_task())
    asked = []
    monkeypatch.setattr(loops, "finetune_rate", lambda network, steps: asked.append(steps) or 0.01)
    monkeypatch.setattr(loops.export, "save_checked", lambda *args: 0.0)
    network = odd_task().model()
    candidate = SimpleNamespace(network=network, round=1)
    loop.finetune(candidate, None, network)
    assert asked == [loop.settings.epochs_finetune * loop.workplace.per_epoch]
    assert loop.workplace.per_epoch == len(list(odd_task().loaders("train")))


def test_fine_tuning_is_gentle_without_batch_norm_and_where_it_is_short():
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    normed = nn.Sequential(plain, nn.BatchNorm2d(4))
    assert loops.finetune_rate(plain, 10 * loops.LONG_STEPS) == loops.PLAIN_FINETUNE_RATE < loops.FINETUNE_RATE
    assert loops.finetune_rate(normed, loops.LONG_STEPS - 1) == loops.FINETUNE_RATE
    assert loops.finetune_rate(normed, loops.LONG_STEPS) == loops.LONG_RATE == TrainingPlan(1.0).learning_rate
