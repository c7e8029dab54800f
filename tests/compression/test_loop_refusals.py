"""What the loop refuses before it trains: tasks that cannot be judged, widths that do not fit, older runs."""

from __future__ import annotations

from types import SimpleNamespace

import compression_case as case
import pytest

from rig.commands.optimize import _widths
from rig.compression.loop import STATE_VERSION, _require_prunable, _state_of
from rig.compression.methods.base import check_task, scored
from rig.compression.methods.given import Given, groups_of
from rig.errors import BadInputError, ModelError
from rig.store.store import Store


@pytest.fixture(scope="module")
def task():
    return case.small_task(1)


def test_a_score_that_is_no_number_is_refused(task, network):
    check_task(task, network)
    broken = task._replace(evaluate=lambda net, split: float("nan"))
    with pytest.raises(ModelError, match=r"evaluate\(model, 'val'\) of the task digits gave nan"):
        check_task(broken, network)
    with pytest.raises(ModelError, match=r"'test'.*gave inf"):
        scored(task._replace(evaluate=lambda net, split: float("inf")), network, "test")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_refused(split, task, network):
    empty = task._replace(loaders=lambda name: [] if name == split else task.loaders(name))
    with pytest.raises(ModelError, match=f"loaders\\('{split}'\\) of the task digits yields no batch") as error:
        check_task(empty, network)
    assert error.value.exit_code == 2


def test_a_network_of_which_nothing_may_go_is_refused_with_the_reasons(task, template):
    _require_prunable(task, SimpleNamespace(template=template))
    fixed = template._replace(groups=[g for g in template.groups if not g.prunable])
    with pytest.raises(ModelError, match=r"nothing of small can be pruned \(fc: its channels are"):
        _require_prunable(task, SimpleNamespace(template=fixed))


def test_a_run_of_an_earlier_version_is_not_resumed(tmp_path):
    run = Store(tmp_path).new_run("optimize", "virtual-pi4")
    assert _state_of(run) == {"version": STATE_VERSION}
    run.write_json("state.json", {"version": STATE_VERSION, "removed": ["layer1.0"]})
    assert _state_of(run)["removed"] == ["layer1.0"]
    run.write_json("state.json", {"removed": []})
    with pytest.raises(BadInputError, match="begun by an earlier version") as error:
        _state_of(run)
    assert "leave --resume out" in error.value.fix
    older = Store(tmp_path).new_run("optimize", "virtual-pi4")
    (older.path / "stages").mkdir()
    with pytest.raises(BadInputError, match="begun by an earlier version"):
        _state_of(older)


# --- widths from a file ---------------------------------------------------------------------------------------------


def test_a_table_of_widths_comes_back_as_the_choice_that_wrote_it(template, tables):
    widths = {**template.seed_widths(), "conv1": 20, "layer1.0.conv1": 5, "layer2.1.conv1": 9}
    table = template.layer_widths(widths, ["layer1.1"])
    found, removed = groups_of(table, template, tables.largest)
    assert removed == ["layer1.1"]
    assert template.layer_widths(found, removed) == table
    assert {g: w for g, w in found.items() if g != "layer1.1.conv1"} == {
        g: w for g, w in widths.items() if g != "layer1.1.conv1"
    }


def test_layers_that_a_table_leaves_out_keep_their_width(template, tables):
    found, removed = groups_of({"layer1.0.conv1": 7}, template, tables.largest)
    assert removed == []
    assert found == {**template.seed_widths(), "layer1.0.conv1": 7}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"layer9.conv1": 3}, "layer9.conv1, which is no layer"),
        ({"fc": 7}, "its channels are the network's outputs"),
        ({"layer1.0.conv1": 999}, "it may have 1 to 24"),
        ({"conv1": 0}, "it may have 1 to 24"),
        ({"conv1": 12, "layer1.0.conv2": 13}, "conv1 and layer1.0.conv2, which change together"),
    ],
    ids=["unknown", "fixed", "wide", "none", "tied"],
)
def test_widths_that_do_not_fit_are_refused(table, said, template, tables):
    with pytest.raises(BadInputError, match=said):
        groups_of(table, template, tables.largest)


def test_given_widths_are_the_choice_at_any_budget(task, template, network, tmp_path):
    survey = case.survey_of(template)
    table = {"layer1.0.conv1": 7, "layer2.1.conv1": 0}
    budget = case.budget_of(survey, "latency")
    given = Given()
    found = given.search(case.workplace_in(tmp_path, task, widths=table), network, survey, budget)
    choice = given.choose(found, survey, budget)
    assert choice.removed == ["layer2.1"]
    assert choice.widths["layer1.0.conv1"] == 7
    assert given.choose(found, survey, budget.scaled({"latency": 0.1})) == choice


def test_a_widths_file_that_changed_since_the_run_began_is_refused(task, template, network, tmp_path):
    survey = case.survey_of(template)
    budget = case.budget_of(survey, "latency")
    begun = case.workplace_in(tmp_path, task, widths={"layer1.0.conv1": 7})
    Given().search(begun, network, survey, budget)
    resumed = case.workplace_in(tmp_path, task, widths={"layer1.0.conv1": 8})
    resumed.state.update(begun.state)
    with pytest.raises(BadInputError, match="other widths"):
        Given().search(resumed, network, survey, budget)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "reading"),
        ("{", "reading"),
        ("[1, 2]", "is no table of widths"),
        ("{}", "is no table of widths"),
        ('{"conv1": "eight"}', "is no table of widths"),
        ('{"conv1": true}', "is no table of widths"),
        ('{"conv1": -3}', "is no table of widths"),
    ],
    ids=["missing", "cut", "list", "empty", "word", "bool", "negative"],
)
def test_files_that_are_no_widths_are_refused(text, said, tmp_path):
    path = tmp_path / "widths.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=said):
        _widths(path)


def test_a_widths_file_is_read(tmp_path):
    path = tmp_path / "widths.json"
    path.write_text('{"conv1": 12, "layer1.0.conv1": 0}', encoding="utf-8")
    assert _widths(path) == {"conv1": 12, "layer1.0.conv1": 0}
