"""Scores, folds and references of measured tables: figures by hand, nothing leaks between folds."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from tables_made_up import kernel_table, network_table

from power_models import cross_validation
from power_models.cross_validation import (
    MEASURED_LATENCY_X_POWER,
    PLACE_NOT_TOLD,
    HeldOut,
    pooled,
    reference_predictions,
)
from power_models.evaluation import (
    Predicted,
    Row,
    Scores,
    mean_scores,
    measured,
    parts_of,
    score,
    size_fifths,
    spearman,
)
from power_models.measured_tables import read_table
from power_models.network_cost import whole_energy
from power_models.references import KERNEL_REFERENCES, NETWORK_REFERENCES, ConstantPower
from power_models.table_fit import quiet_power, with_quiet_power
from power_models.table_folds import MOST_LEVELS, Fold, in_order, level_folds, levels, random_folds
from rig import evaluations


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return list(read_table(kernel_table(tmp_path_factory.mktemp("tables") / "kernels.csv", 120)).kernels)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return list(read_table(network_table(tmp_path_factory.mktemp("tables") / "networks.jsonl", 60)).networks)


def predicted(value: list[float], half: float = math.nan) -> Predicted:
    array = np.array(value)
    return Predicted(array, array * (1 - half), array * (1 + half))


def test_scores_by_hand() -> None:
    truth = np.array([1.0, 2.0, 4.0, 8.0])
    scores = score(truth, predicted([1.03, 2.0, 4.36, 7.0], half=0.05))
    assert scores.mape == pytest.approx((0.03 + 0.0 + 0.09 + 0.125) / 4)
    assert scores.median == pytest.approx(0.06)
    assert scores.worst == pytest.approx(0.125)
    assert (scores.within_5, scores.within_10) == (0.5, 0.75)
    assert scores.spearman == pytest.approx(1.0)
    assert scores.r2 == pytest.approx(1 - (0.03**2 + 0.36**2 + 1.0) / 28.75)
    assert (scores.coverage, scores.half_width) == (0.5, pytest.approx(0.05))
    assert (scores.n, scores.unpriced) == (4, 0)


def test_unpriced_and_unmeasured_rows_count_apart() -> None:
    scores = score(np.array([1.0, math.nan, 2.0]), predicted([1.0, 1.0, math.nan]))
    assert (scores.n, scores.unpriced, scores.mape, scores.coverage) == (1, 1, 0.0, None)
    nothing = score(np.array([1.0]), predicted([math.nan]))
    assert (nothing.n, nothing.unpriced, nothing.mape) == (0, 1, None)


def test_rank_correlation_takes_ties_at_their_mean() -> None:
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([5.0, 1.0, 0.0])) == pytest.approx(-1.0)
    assert spearman(np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.9486833)
    assert spearman(np.array([1.0, 2.0]), np.array([3.0, 3.0])) is None


def test_mean_over_repeats() -> None:
    one, two = (Scores(4, 0, m, *(None,) * 9) for m in (0.1, 0.3))
    mean = mean_scores([one, two])
    assert (mean.n, mean.mape, mean.median) == (4, pytest.approx(0.2), None)


def test_folds_cover_every_row_once_and_keep_equal_kernels_together(kernels: list[Row]) -> None:
    rows = [*kernels, *kernels[:40]]
    folds = random_folds(rows, 5, seed=3)
    assert sorted(i for fold in folds for i in fold.rows.tolist()) == list(range(len(rows)))
    home = {i: place for place, fold in enumerate(folds) for i in fold.rows.tolist()}
    assert all(home[i] == home[len(kernels) + i] for i in range(40))
    assert [f.rows.tolist() for f in folds] == [f.rows.tolist() for f in random_folds(rows, 5, seed=3)]
    assert [f.rows.tolist() for f in folds] != [f.rows.tolist() for f in random_folds(rows, 5, seed=4)]
    assert max(len(f.rows) for f in folds) - min(len(f.rows) for f in folds) <= 2


def test_levels_of_a_column_are_left_out_whole(kernels: list[Row], networks: list[Row]) -> None:
    folds = level_folds(kernels, "in_channels", 5, 0)
    assert [fold.label for fold in folds][:3] == ["in_channels=8", "in_channels=16", "in_channels=24"]
    for fold in folds:
        assert len({kernels[i].kernels[0].in_channels for i in fold.rows}) == 1
    assert {fold.label for fold in level_folds(networks, "family", 5, 0)} == {
        "family=net-v1", "family=net-v2", "family=other",
    }  # fmt: skip
    assert in_order(levels(kernels, "kernel_size").tolist()) == ["1x1", "3x3", "5x5"]
    assert in_order(["11x11", "3x3", "b", "a2", "a10", "0.5", "0.25"]) == [
        "0.25",
        "0.5",
        "3x3",
        "11x11",
        "a2",
        "a10",
        "b",
    ]


def test_many_levels_are_dealt_into_folds_whole(kernels: list[Row]) -> None:
    assert len(set(levels(kernels, "latency_s").tolist())) > MOST_LEVELS
    assert len(level_folds(kernels, "latency_s", 4, 0)) == 4


@pytest.mark.parametrize(
    ("column", "said"), [("colour", "no column colour"), ("stride", "one level only"), ("family", "no column family")]
)
def test_a_column_that_cannot_be_left_out_is_named(kernels: list[Row], column: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        level_folds(kernels, column, 5, 0)


def test_more_folds_than_rows_are_refused(kernels: list[Row]) -> None:
    with pytest.raises(ValueError, match="between 2 and 3"):
        random_folds(kernels[:3], 5, 0)


def test_parts_are_kinds_data_types_fifths_and_families(kernels: list[Row], networks: list[Row]) -> None:
    parts = parts_of(kernels)
    assert {"all", "kind=conv", "kind=depthwise", "size=1", "size=5"} <= set(parts)
    macs = [row.macs for row in kernels]
    assert max(macs[i] for i in parts["size=1"]) <= min(macs[i] for i in parts["size=5"])
    assert sum(len(parts[f"size={k}"]) for k in range(1, 6)) == len(kernels)
    assert set(size_fifths(kernels).tolist()) == {"1", "2", "3", "4", "5"}
    assert {"dtype=int8", "family=net-v1", "dtype=float32,family=other"} <= set(parts_of(networks))


def test_kernels_among_networks_are_parts_of_their_own(kernels: list[Row], networks: list[Row]) -> None:
    parts = parts_of([*kernels[:30], *networks[:30]])
    assert parts["what=kernel"].tolist() == list(range(30))
    assert parts["what=network"].tolist() == list(range(30, 60))
    assert {"kind=conv", "family=other"} <= set(parts)
    assert not any(name.startswith("size") for name in parts)


def test_active_energy_is_told_only_where_quiet_power_is_known(kernels: list[Row], tmp_path: Path) -> None:
    without = list(read_table(kernel_table(tmp_path / "k.csv", 10, quiet=False)).kernels)
    assert np.isnan(measured(without, "energy_active_j")).all()
    assert np.isfinite(measured(kernels, "energy_active_j")).all()
    assert quiet_power(without) is None
    both = with_quiet_power([*without, *kernels[:5]], quiet_power(kernels[:5]))
    assert [row.idle_power_w for row in both] == [pytest.approx(2.9)] * 15


def test_whole_energy_takes_the_covariance_from_the_interval_of_power() -> None:
    latency, energy = (1.0, 0.9, 1.0 / 0.9), (2.0, 1.8, 2.0 / 0.9)
    together = whole_energy(latency, energy, (2.0, 2.0, 2.0), (3.0, 3.0, 3.0))  # power is sure: they err as one
    assert together == (5.0, pytest.approx(4.5), pytest.approx(5.0 / 0.9))
    apart = whole_energy(latency, energy, (2.0, 2.0 * 0.9**2**0.5, 2.0 / 0.9**2**0.5), (3.0, 3.0, 3.0))
    assert math.log(5.0 / apart[1]) == pytest.approx(-math.log(0.9) * math.hypot(2, 3) / 5, rel=1e-6)
    assert whole_energy(latency, energy, (2.0, 2.0, 2.0), None) == energy


@pytest.mark.parametrize("name", KERNEL_REFERENCES)
def test_references_of_kernels_learn_and_leave_unknown_kinds_unpriced(name: str, kernels: list[Row]) -> None:
    conv = [row for row in kernels if row.kernels[0].kind == "conv"]
    cost = measured(conv, "latency_s")
    model = KERNEL_REFERENCES[name]().fit(conv[20:], cost[20:])
    errors = np.abs(model.predict(conv[:20]) / cost[:20] - 1)
    assert np.median(errors) < (0.8 if name == "flops_line" else 0.35)
    other = [row for row in kernels if row.kernels[0].kind == "depthwise"]
    assert np.isfinite(model.predict(other)).any() == (name == "flops_line")  # a line asks for no kind


@pytest.mark.parametrize("name", KERNEL_REFERENCES)
def test_references_bear_a_kind_with_few_rows(name: str, kernels: list[Row]) -> None:
    few = [row for row in kernels if row.kernels[0].kind == "conv"][:3]
    value = KERNEL_REFERENCES[name]().fit(few, measured(few, "latency_s")).predict(few)
    assert np.isfinite(value).all() == (name != "polynomial")


@pytest.mark.parametrize("name", NETWORK_REFERENCES)
def test_references_of_networks_learn_sums(name: str, networks: list[Row]) -> None:
    cost = measured(networks, "energy_j")
    model = NETWORK_REFERENCES[name]().fit(networks[12:], cost[12:])
    errors = np.abs(model.predict(networks[:12]) / cost[:12] - 1)
    assert np.isfinite(errors).all()
    assert np.median(errors) < (0.1 if name in ("kind_sums", "polynomial") else 0.5)


def test_sums_leave_networks_with_unknown_kinds_unpriced(networks: list[Row]) -> None:
    known = [row for row in networks if row.columns["network"].startswith("other")]
    model = NETWORK_REFERENCES["kind_sums"]().fit(known, measured(known, "latency_s"))
    others = [row for row in networks if any(spec.kind == "depthwise" for spec in row.kernels)]
    assert np.isnan(model.predict(others)).all()


def test_constant_power_is_that_of_the_training_rows_by_data_type(networks: list[Row]) -> None:
    model = ConstantPower().fit(networks, measured(networks, "energy_j"))
    power = measured(networks, "power_w")
    int8 = [i for i, row in enumerate(networks) if row.dtype == "int8"]
    assert model.power_w_["int8"] == pytest.approx(float(np.median(power[int8])))
    value = model.predict(networks, measured(networks, "latency_s"))
    assert np.abs(value / measured(networks, "energy_j") - 1).mean() < 0.1


def test_reference_predictions_hold_every_row_of_the_tables(networks: list[Row]) -> None:
    test, training = networks[:15], networks[15:]
    ours = {"latency_s": predicted(measured(test, "latency_s").tolist())}
    found = reference_predictions(training, test, ours)
    assert set(found) == {*NETWORK_REFERENCES, "latency_x_power", MEASURED_LATENCY_X_POWER}
    np.testing.assert_allclose(
        found["latency_x_power"]["energy_j"].value, found[MEASURED_LATENCY_X_POWER]["energy_j"].value
    )
    assert "latency_s" not in found["latency_x_power"]
    assert len(set(np.round(found["latency_x_power"]["power_w"].value, 9))) == 2  # a constant a data type


def test_a_stored_fold_is_read_back_and_scores_the_same(kernels: list[Row]) -> None:
    truth = measured(kernels, "latency_s")
    ours = {"latency_s": Predicted(truth * 1.05, truth * 0.9, truth * 1.2)}
    line = {"latency_s": Predicted(truth * 2, *(np.full(len(truth), np.nan),) * 2)}
    made = HeldOut("fold 1", list(range(len(kernels))), {"ours": ours, "flops_line": line}, 1.5)
    again = HeldOut.from_json(made.to_json())
    scores = pooled(kernels, [again])
    assert scores["ours"]["latency_s"]["all"].mape == pytest.approx(0.05, rel=1e-4)
    assert scores["ours"]["latency_s"]["all"].coverage == 1.0
    assert scores["flops_line"]["latency_s"]["all"].mape == pytest.approx(1.0, rel=1e-4)
    assert scores["flops_line"]["latency_s"]["all"].coverage is None


def test_a_drifting_campaign_is_scored_with_and_without_the_lines(
    kernels: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(model: object, rows: list[Row], same_campaign: bool = False) -> dict[str, Predicted]:
        truth = measured(rows, "latency_s")
        return {"latency_s": Predicted(truth * (1.0 if same_campaign else 1.2), truth, truth)}

    monkeypatch.setattr(cross_validation, "predict", told)
    fold = random_folds(kernels, 4, 0)[0]
    for drifts in ({}, {"a table": object()}):
        made = cross_validation.hold_out(
            kernels, fold, lambda rows, drifts=drifts: SimpleNamespace(drifts=drifts), references=False
        )
        scores = pooled(kernels, [made])
        assert scores["ours"]["latency_s"]["all"].mape == pytest.approx(0.0)
        assert (PLACE_NOT_TOLD in scores) == bool(drifts)
    assert scores[PLACE_NOT_TOLD]["latency_s"]["all"].mape == pytest.approx(0.2)


def test_a_quantity_never_measured_and_predicted_in_one_level_has_no_median(kernels: list[Row]) -> None:
    rows = [*kernels[:10], *(replace(row, power_w=None, energy_j=None) for row in kernels[10:20])]
    time, power = (measured(kernels[:10], quantity) for quantity in ("latency_s", "power_w"))
    ours = {"latency_s": Predicted(time, time, time)}
    first = HeldOut("source=a", list(range(10)), {"ours": ours}, 1.0)  # what is left for the fit has no power
    told = {**ours, "power_w": Predicted(power, power, power)}
    second = HeldOut("source=b", list(range(10, 20)), {"ours": told}, 1.0)
    folds = [Fold(one.label, np.array(one.rows)) for one in (first, second)]
    found = evaluations.scored(rows, evaluations.Plan([folds], True), [(0, first), (0, second)])
    assert found["methods"]["ours"]["power_w"]["all"]["n"] == 0
    assert list(found["median_level"]["ours"]) == ["latency_s"]
