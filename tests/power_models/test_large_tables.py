"""Tables of hundreds of rows and more: the process, the trees, their weights, the drift of a campaign, the whole."""

from __future__ import annotations

import itertools
import json
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from power_models import drift as drifting_campaigns
from power_models import process, reach, references
from power_models.drift import NONE, Drift, as_measured, find_drift, without, without_drifts
from power_models.features import KernelColumns, shape_features
from power_models.fitting import _kind_factors
from power_models.kernel_cost import KernelCostModel, KernelRow
from power_models.large_family import LARGE_FAMILY_ROWS, level_groups, stack_weights
from power_models.measured_tables import TableKernel
from power_models.process import Process, _negative_posterior
from power_models.reach import Reach
from power_models.references import KernelLookup
from power_models.stacked import Levels, Stack
from power_models.trees import HistogramTrees

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_device import CONFIGURATION, conv, cost, rows

LATTICE = list(itertools.product((4, 12, 24, 40, 64, 96, 160), (8, 20, 36, 60, 96, 128), (7, 10, 14, 20, 28), (3, 5)))


def lattice_rows(noise: float = 0.01) -> list[KernelRow]:
    """Rows of a lattice of sizes; short kernels are noisier, as on real sensors."""
    rng = np.random.default_rng(5)
    found = []
    for number, (c_in, c_out, size, kernel) in enumerate(LATTICE):
        spec = conv(c_in, c_out, size, kernel)
        seconds, joules = cost(spec)
        wide = noise * (1 + 4e-5 / seconds)
        seconds *= float(np.exp(rng.normal(0, wide)))
        joules *= float(np.exp(rng.normal(0, wide)))
        found.append(KernelRow(spec, seconds, 0.0, joules, 0.0, "table", str(number), place=float(number)))
    return found


@pytest.fixture(scope="module")
def split() -> tuple[list[KernelRow], list[KernelRow]]:
    order = np.random.default_rng(0).permutation(len(LATTICE))
    members = lattice_rows()
    return [members[i] for i in order[: len(order) * 9 // 10]], [members[i] for i in order[len(order) * 9 // 10 :]]


@pytest.fixture(scope="module")
def model(split: tuple[list[KernelRow], list[KernelRow]]) -> KernelCostModel:
    assert len(split[0]) >= LARGE_FAMILY_ROWS
    return KernelCostModel.fit(split[0], CONFIGURATION, "simulated")


class TestWhole:
    def test_held_out_rows_are_close_and_covered(
        self, model: KernelCostModel, split: tuple[list[KernelRow], list[KernelRow]]
    ) -> None:
        costs = model.predict([row.kernel for row in split[1]])
        seconds = np.array([row.latency_s for row in split[1]])
        joules = np.array([row.energy_active_j for row in split[1]])
        for value, lo, hi, truth in (
            (costs.latency_s, costs.latency_lo_s, costs.latency_hi_s, seconds),
            (costs.energy_j, costs.energy_lo_j, costs.energy_hi_j, joules),
        ):
            error = np.abs(value / truth - 1)
            assert np.median(error) < 0.03
            assert ((lo <= truth) & (truth <= hi)).mean() >= 0.85
            assert np.median(0.5 * (hi - lo) / value) < 5 * np.median(error)

    def test_short_kernels_are_less_sure(self, model: KernelCostModel) -> None:
        costs = model.predict([conv(4, 8, 7), conv(160, 128, 28, 5)])
        widths = np.log(costs.latency_hi_s / costs.latency_lo_s)
        assert widths[0] > 1.3 * widths[1]

    def test_a_kernel_between_measured_sizes_is_less_sure_and_still_close(self, model: KernelCostModel) -> None:
        there, between = conv(64, 96, 20), conv(80, 96, 20)
        costs = model.predict([there, between])
        stack = model.models["conv_kxk/float32"].latency
        assert isinstance(stack, Stack)
        np.testing.assert_allclose(stack.levels.between(KernelColumns.of([there, between])), [0.0, 1.0])
        assert costs.latency_s[1] == pytest.approx(cost(between)[0], rel=0.15)
        widths = np.log(costs.latency_hi_s / costs.latency_lo_s)
        assert widths[1] >= widths[0] * 0.9

    def test_beyond_the_measured_range_seconds_fall_back_to_the_physics_and_watts_stay(
        self, model: KernelCostModel
    ) -> None:
        family = model.models["conv_kxk/float32"]
        columns, far = KernelColumns.of([conv(4, 8, 7), conv(160, 128, 28, 5)]), np.full(2, 30.0)
        assert isinstance(family.latency, Stack)
        assert isinstance(family.energy, Stack)
        near = family.latency.predict(columns, None, np.zeros(2))
        np.testing.assert_allclose(
            family.latency.predict(columns, None, far), family.latency.anchored(columns), atol=1e-12, rtol=0
        )
        seconds = np.exp(near)
        watts = family.energy.predict(columns, seconds, np.zeros(2)) - near
        assert np.abs(watts - family.energy.level).max() > 1e-3
        np.testing.assert_allclose(family.energy.predict(columns, seconds, far) - near, watts)

    def test_power_is_a_model_of_its_own_and_energy_its_product(self, model: KernelCostModel) -> None:
        family = model.models["conv_kxk/float32"]
        assert isinstance(family.energy, Stack)
        assert family.energy.of_power
        np.testing.assert_allclose(
            family.held_out["energy"], family.held_out["power"] + family.held_out["latency"], atol=1e-12
        )

    def test_every_candidate_is_scored(self, model: KernelCostModel) -> None:
        about = model.report["conv_kxk/float32"]
        assert isinstance(about, dict)
        scores = about["candidates"]["latency"]
        assert {"process", "trees", "stack", "flops", "polynomial", "roofline"} <= set(scores)
        assert scores["stack"] <= 1.02 * min(scores.values())

    def test_a_saved_model_predicts_the_same_numbers(self, model: KernelCostModel, tmp_path: Path) -> None:
        model.save(tmp_path)
        loaded = KernelCostModel.load(tmp_path)
        some = [conv(*sizes) for sizes in ((64, 96, 20), (80, 90, 9), (500, 700, 40))]
        mine, theirs = model.predict(some), loaded.predict(some)
        for name in ("latency_s", "latency_lo_s", "latency_hi_s", "energy_j", "energy_lo_j", "energy_hi_j"):
            np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-9)

    def test_far_outside_it_follows_the_roofline(self, model: KernelCostModel) -> None:
        costs = model.predict([conv(512, 512, 56), conv(2048, 2048, 56)])
        assert costs.extrapolated.all()
        true = cost(conv(2048, 2048, 56))[0] / cost(conv(512, 512, 56))[0]
        assert 0.6 * true < costs.latency_s[1] / costs.latency_s[0] < 1.6 * true

    def test_the_convolutions_of_a_deep_network_are_priced_in_milliseconds(self, model: KernelCostModel) -> None:
        layers = [conv(8 * i, 4 * j, 14) for i in range(1, 6) for j in range(1, 6)]
        model.predict(layers)
        spent = []
        for _ in range(5):
            started = time.process_time()
            model.predict(layers)
            spent.append(time.process_time() - started)
        assert min(spent) < 0.02  # a few milliseconds on an idle core


class TestProcess:
    def test_gradient_is_the_slope(self) -> None:
        rng = np.random.default_rng(1)
        table, target, size = rng.normal(size=(40, 5)), rng.normal(size=40), rng.normal(size=40)
        prior = Process(2)._prior([2, 3])
        views, weight = [table[:, :2], table[:, 2:]], rng.uniform(0.5, 2, size=40)
        x = prior.centre + rng.normal(scale=0.3, size=len(prior.centre))
        _, gradient = _negative_posterior(x, views, target, size, weight, prior)
        for i in range(len(x)):
            step = np.zeros_like(x)
            step[i] = 1e-5
            above, below = (_negative_posterior(x + s * step, views, target, size, weight, prior)[0] for s in (1, -1))
            assert gradient[i] == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-4)

    def test_left_out_errors_are_those_of_a_process_without_the_rows(self) -> None:
        rng = np.random.default_rng(2)
        table, target, noise = rng.normal(size=(60, 3)), rng.normal(size=60), np.full(60, 0.1)
        arrays = {
            "centre": np.zeros(3),
            "factors": np.ones((2, 3)),
            "amplitudes": np.array([1.0, 0.5]),
            "coarse": np.array([2.0]),
        }
        out, rest = np.arange(15), np.arange(15, 60)
        whole = Process(2).from_arrays(arrays | {"rows": table, "dual": np.zeros(60)})
        whole._solve(target, noise)
        part = Process(2).from_arrays(arrays | {"rows": table[rest], "dual": np.zeros(45)})
        part._solve(target[rest], noise[rest])
        np.testing.assert_allclose(whole.left_out(out), target[out] - part.predict(table[out]), atol=1e-9)
        whole.release()
        with pytest.raises(RuntimeError, match="only right after fit"):
            whole.left_out(out)

    def test_one_wild_row_moves_little(self) -> None:
        rng = np.random.default_rng(3)
        table = rng.uniform(-1, 1, size=(120, 2))
        target = np.sin(2 * table[:, 0]) + rng.normal(scale=0.02, size=120)
        target[0] += 3.0
        fitted = Process(1).fit(table, target, np.ones(120), np.zeros(120))
        assert abs(fitted.predict(table[:1])[0] - np.sin(2 * table[0, 0])) < 0.5


def test_trees_as_arrays_predict_as_grown() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng = np.random.default_rng(4)
    table = rng.normal(size=(200, 4))
    target = table[:, 0] * table[:, 1] + 0.1 * rng.normal(size=200)
    trees = HistogramTrees(trees=20).fit(table, target, np.ones(200))
    grown = HistGradientBoostingRegressor(
        l2_regularization=1.0, early_stopping=False, random_state=0, **trees.settings
    ).fit(table, target)
    other = rng.normal(size=(50, 4))
    np.testing.assert_allclose(trees.predict(other), grown.predict(other), atol=1e-12)
    again = HistogramTrees().from_arrays(trees.to_arrays())
    np.testing.assert_array_equal(again.predict(other), trees.predict(other))


def test_weights_take_the_better_member_and_at_most_all_of_it() -> None:
    rng = np.random.default_rng(6)
    left = rng.normal(size=400)
    good, bad = rng.normal(scale=0.05, size=400), rng.normal(scale=0.8, size=400)
    weights = stack_weights(np.stack([good, bad]), left)
    assert weights[0] > 0.9
    assert (weights >= 0).all()
    assert weights.sum() <= 1 + 1e-9
    useless = left - rng.normal(size=(2, 400))  # members that know nothing of what is left
    assert stack_weights(useless, left).sum() < 0.3


def test_groups_are_whole_inner_levels() -> None:
    columns = KernelColumns.of([conv(*sizes) for sizes in LATTICE])
    groups = level_groups(columns)
    assert len(groups) == 3  # input channels, output channels, maps; two kernel sizes have no inner level
    for group, name in zip(groups, ("in_channels", "out_channels", "in_height"), strict=True):
        values = columns.number(name)
        assert len(np.unique(values[group])) == 1
        assert values.min() < values[group][0] < values.max()
        assert (values == values[group][0]).sum() == len(group)


def test_sizes_are_measured_or_between() -> None:
    levels = Levels.of(KernelColumns.of([conv(c, c, 14) for c in (16, 32, 64)]))
    gate = levels.between(KernelColumns.of([conv(32, 64, 14), conv(48, 64, 14), conv(33, 64, 14)]))
    assert gate[0] == 0.0
    assert gate[1] == 1.0
    assert 0.0 < gate[2] < 1.0


@pytest.fixture(scope="module")
def small() -> KernelCostModel:
    bare = [row._replace(energy_active_j=None, energy_se_j=None) for row in rows(50, 1)]
    return KernelCostModel.fit(bare, CONFIGURATION, "simulated")


class TestDrift:
    def table(self, slope_s: float) -> tuple[KernelColumns, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(7)
        sizes = [
            (int(a), int(b), int(c))
            for a, b, c in zip(*rng.integers(4, 90, size=(2, 700)), rng.integers(5, 30, 700), strict=True)
        ]
        specs = [conv(*one) for one in sizes]
        places = np.arange(700.0)
        seconds = np.array([cost(spec)[0] for spec in specs]) * np.exp(rng.normal(0, 0.03, 700)) + slope_s * places
        return KernelColumns.of(specs), seconds, places

    def test_is_found_and_taken_out(self) -> None:
        columns, seconds, places = self.table(2e-7)
        drift = find_drift(columns, seconds, places)
        assert drift is not None
        assert drift.slope_s == pytest.approx(2e-7, rel=0.1)
        assert 0.2 * 699 < drift.typical_place < 0.5 * 699
        alone = without(seconds, places, drift.slope_s)
        np.testing.assert_allclose(alone + drift.seconds(places), seconds, rtol=0.2)

    def test_is_not_made_up(self) -> None:
        columns, seconds, places = self.table(0.0)
        assert find_drift(columns, seconds, places) is None
        shuffled = np.random.default_rng(1).permutation(self.table(2e-7)[1])
        assert find_drift(columns, shuffled, places) is None

    def test_rows_in_an_order_of_size_or_cost_have_none(self) -> None:
        columns, seconds, places = self.table(2e-7)
        for values in (seconds, columns.number("out_channels")):
            order = np.argsort(values)
            assert find_drift(columns.take(order), seconds[order], places) is None

    def test_needs_rows(self) -> None:
        columns, seconds, places = self.table(2e-7)
        assert find_drift(columns.take(np.arange(300)), seconds[:300], places[:300]) is None

    def test_a_price_is_the_kernel_alone_and_a_row_has_its_place(self, small: KernelCostModel) -> None:
        drift = Drift(1e-6, 40.0, 100.0)
        costs = small.predict([conv(16, 16, 8)] * 3)
        shown = drift.as_measured(costs, np.array([0.0, 100.0, np.nan]))
        np.testing.assert_allclose(shown.latency_s - costs.latency_s, [0.0, 1e-4, 4e-5])
        widths = shown.latency_hi_s - shown.latency_lo_s
        assert widths[0] == pytest.approx(widths[1])
        assert widths[2] > widths[0] + 5e-5

    def test_two_tables_are_two_campaigns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Their lines have nothing to do with each other: each is looked through by itself, the larger one first."""
        looked: list[tuple[int, list[float]]] = []

        def found(columns: KernelColumns, latency_s: np.ndarray, places: np.ndarray) -> Drift | None:
            looked.append((len(columns), places[-2:].tolist()))
            return Drift(1e-7, 40.0, 99.0) if len(columns) == 100 else None

        def campaign(name: str, count: int, joules: float | None = None) -> list[KernelRow]:
            return [
                KernelRow(conv(8 + i, 16, 14), 1e-3, 0.0, joules, None, "table", f"{name} {i}", None, i, name)
                for i in range(count)
            ]

        monkeypatch.setattr(drifting_campaigns, "find_drift", found)
        steady, drifting, powered = campaign("b", 70), campaign("a", 100), campaign("c", 90, 1e-3)
        kept, drifts = without_drifts([*steady, *drifting, *powered])
        assert looked == [(100, [98.0, 99.0]), (70, [68.0, 69.0])], "nor where energy was measured"
        assert drifts == {"a": Drift(1e-7, 40.0, 99.0), "c": NONE, "b": NONE}
        assert list(drifts) == ["a", "c", "b"]
        assert kept[:70] == steady
        assert kept[170:] == powered
        np.testing.assert_allclose([row.latency_s for row in kept[70:170]], 1e-3 - 1e-7 * np.arange(100))
        assert without_drifts(steady) == (steady, {})

    def test_rows_are_shown_by_their_own_campaign(self, small: KernelCostModel) -> None:
        costs = small.predict([conv(16, 16, 8)] * 4)
        drifts = {"a": Drift(1e-6, 40.0, 100.0), "b": NONE}
        places = np.array([100.0, 100.0, np.nan, np.nan])
        shown = as_measured(drifts, costs, places, ["a", "b", "a", "another"])
        np.testing.assert_allclose(shown.latency_s - costs.latency_s, [1e-4, 0.0, 4e-5, 4e-5], atol=1e-12)
        assert shown.latency_hi_s[1] == costs.latency_hi_s[1]
        assert as_measured({}, costs, places, ["a"] * 4) is costs

    def test_drifts_are_stored_with_the_model(self, small: KernelCostModel, tmp_path: Path) -> None:
        replace(small, drifts={"a": Drift(1e-6, 40.0, 100.0), "b": NONE}).save(tmp_path)
        assert KernelCostModel.load(tmp_path).drifts == {"a": Drift(1e-6, 40.0, 100.0), "b": NONE}
        about = json.loads((tmp_path / "model.json").read_text())
        del about["drifts"]  # a model of before
        (tmp_path / "model.json").write_text(
            json.dumps(about | {"drift": {"slope_s": 1e-6, "typical_place": 4.0, "last_place": 9.0}})
        )
        assert list(KernelCostModel.load(tmp_path).drifts.values()) == [Drift(1e-6, 4.0, 9.0)]
        (tmp_path / "model.json").write_text(json.dumps(about | {"drift": None}))
        assert KernelCostModel.load(tmp_path).drifts == {}


def test_doubt_of_a_kind_is_beyond_what_distance_explains(small: KernelCostModel) -> None:
    """A kind whose rows lie far apart errs more, and the scale knows it already: its factor stays small."""
    far = np.arange(40) >= 20
    kinds = [
        KernelRow(conv(8, 8, 8)._replace(kind="mul" if one else "add"), 1.0, 0.0, None, None, "", "") for one in far
    ]
    pooled = replace(next(iter(small.models.values())), rows=40)
    pooled.held_out = {
        "distance": np.where(far, 2.0, 0.2),
        "latency": np.where(np.arange(40) % 2, 1, -1) * np.where(far, 0.2, 0.02),
    }
    explained = _kind_factors(kinds, pooled)["mul"]  # ten times the error at ten times the distance
    pooled.held_out["distance"] = np.full(40, 0.2)
    itself = _kind_factors(kinds, pooled)["mul"]  # at the same distance it is the kind that is less sure
    assert explained < 1.5 < itself


def test_a_row_without_energy_does_not_cost_the_others_theirs() -> None:
    members = [
        row._replace(energy_active_j=None, energy_se_j=None) if i % 9 == 0 else row
        for i, row in enumerate(lattice_rows())
    ]
    assert len(members) >= LARGE_FAMILY_ROWS
    model = KernelCostModel.fit(members, CONFIGURATION, "simulated")
    silent = [row.kernel for row in members[::9]]
    costs = model.predict(silent)
    truth = np.array([cost(spec)[1] for spec in silent])
    assert np.median(np.abs(costs.energy_j / truth - 1)) < 0.05
    assert np.mean((costs.energy_lo_j <= truth) & (truth <= costs.energy_hi_j)) > 0.8
    (family,) = (one for name, one in model.models.items() if name.startswith("conv"))
    assert np.isfinite(family.held_out["power"]).sum() == sum(row.energy_active_j is not None for row in members)


class TestMemory:
    """Tables beyond the points of a process: what is made at once grows with the rows, not with their square."""

    @pytest.fixture
    def few_points(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "MOST_POINTS", 150)
        monkeypatch.setattr(process, "ROWS_AT_ONCE", 64)
        monkeypatch.setattr(Process, "TUNED", 60)

    @pytest.mark.usefixtures("few_points")
    def test_a_process_takes_a_sample_for_its_points(self) -> None:
        rng = np.random.default_rng(8)
        count = 3000
        table = rng.uniform(-1, 1, size=(count, 3))
        target = np.sin(2 * table[:, 0]) + rng.normal(scale=0.02, size=count)
        tracemalloc.start()
        fitted = Process(2).fit(table, target, np.ones(count), np.zeros(count))
        fitted.left_out(np.arange(0, count, 5))
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(fitted.arrays_["rows"]) == 150
        assert peak_bytes < 8 * count**2 / 10
        assert np.abs(fitted.predict(table) - np.sin(2 * table[:, 0])).mean() < 0.05

    @pytest.mark.usefixtures("few_points")
    def test_left_out_rows_are_predicted_by_the_points_that_are_not_left_out(self) -> None:
        rng = np.random.default_rng(9)
        table = rng.uniform(-1, 1, size=(400, 3))
        target = np.sin(2 * table[:, 0]) + rng.normal(scale=0.1, size=400)
        noise = np.full(150, 0.01)
        fitted = Process(2).fit(table, target, np.ones(400), np.zeros(400))
        points = process._members(400)
        fitted._solve(target[points], noise)
        out = np.flatnonzero(table[:, 1] > 0.2)  # a whole region: points and others
        rest = np.setdiff1d(points, out)
        assert 20 < len(np.intersect1d(points, out)) < len(out)
        part = Process(2).from_arrays(fitted.arrays_ | {"rows": table[rest], "dual": np.zeros(len(rest))})
        part._solve(target[rest], noise[: len(rest)])
        np.testing.assert_allclose(fitted.left_out(out), target[out] - part.predict(table[out]), atol=1e-8)

    def test_a_process_of_few_rows_has_them_all(self) -> None:
        assert process._members(process.MOST_POINTS).tolist() == list(range(process.MOST_POINTS))
        assert len(process._members(process.MOST_POINTS + 1)) == process.MOST_POINTS

    def test_distances_and_lookups_are_made_a_part_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        specs = [conv(*sizes) for sizes in LATTICE]
        columns = KernelColumns.of(specs)
        features = shape_features(columns, ("conv",))
        measured = [TableKernel(spec, cost(spec)[0], None, None, None, i) for i, spec in enumerate(specs)]
        seconds = np.array([cost(spec)[0] for spec in specs])
        reach_of = Reach.of(columns.take(np.arange(0, len(specs), 2)), ("conv",))
        lookup = KernelLookup().fit(measured[::2], seconds[::2])
        whole = reach_of.distance(features), lookup.predict(measured)
        monkeypatch.setattr(reach, "DISTANCES_AT_ONCE", 10 * len(specs))
        monkeypatch.setattr(references, "DIFFERENCES_AT_ONCE", 50 * len(specs))
        tracemalloc.start()
        parts = reach_of.distance(features), lookup.predict(measured)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-7)
        assert peak_bytes < 8 * len(specs) * (len(specs) // 2)
