"""The second opinion of a composition: prices a kind, averaged into its seconds where that does not harm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from power_models.composition import CompositionModel
from power_models.composition_fit import fit_from_networks
from power_models.composition_opinion import WEIGHT, SecondOpinion, disagreement, fit_opinion
from power_models.features import Floats, KernelColumns
from power_models.kernel_cost import KernelCostModel
from power_models.network_cost import price_network
from tests.test_composition import BOARD, add, conv, depthwise, network, some_networks, true_cost

KERNELS = [conv(32, 32, 32), conv(64, 64, 16), depthwise(32, 32), depthwise(64, 16), add(32, 32)]


@pytest.fixture(scope="module")
def board() -> CompositionModel:
    """A model of a board whose kernels cost what the second opinion can say exactly."""
    return fit_from_networks(some_networks(32, 20), [], BOARD, "measured")


def alone(model: CompositionModel) -> CompositionModel:
    """The same model without its second opinion."""
    return replace(model, opinion=None)


def opinion_of(model: CompositionModel) -> SecondOpinion:
    assert model.opinion is not None
    return model.opinion


def test_kernels_cost_the_weighted_mean_of_both_opinions(board: CompositionModel) -> None:
    opinion = opinion_of(board)
    assert opinion.weights == {"float32": WEIGHT}
    mean, before = board.predict(KERNELS).latency_s, alone(board).predict(KERNELS).latency_s
    own = (mean - (1 - WEIGHT) * before) / WEIGHT
    truth = np.array([true_cost(spec)[0] for spec in KERNELS])
    assert np.abs(own / truth - 1).mean() < 0.1
    group = opinion.groups.index("float32/conv_1x1")
    assert own[0] == pytest.approx(
        opinion.prices[group] @ [KERNELS[0].macs, 4 * 2 * 32**3, KERNELS[0].weight_bytes, 1.0], rel=1e-6
    )


def test_watts_of_kernels_are_the_compositions_and_networks_stay_sums(board: CompositionModel) -> None:
    both, one = board.predict(KERNELS), alone(board).predict(KERNELS)
    assert both.energy_j / both.latency_s == pytest.approx(one.energy_j / one.latency_s)
    cost = price_network(board, network(24, 32, 4, adds=2))
    assert cost.latency_s[0] == pytest.approx(cost.kernels.latency_s.sum() + board.overhead[0])
    assert cost.energy_j[0] == pytest.approx(cost.kernels.energy_j.sum() + board.overhead[1])
    assert cost.active_power_w[0] == pytest.approx(cost.energy_j[0] / cost.latency_s[0])


def test_totals_not_seen_are_missed_by_less(board: CompositionModel) -> None:
    rows = some_networks(24, 21)
    missed: list[float] = [
        float(np.mean([abs(price_network(model, row.kernels).latency_s[0] / row.latency_s - 1) for row in rows]))
        for model in (board, alone(board))
    ]
    assert missed[0] < missed[1]


def test_opinions_that_lie_apart_widen_kernels_and_networks(board: CompositionModel) -> None:
    opinion = opinion_of(board)
    doubled = replace(board, opinion=replace(opinion, prices=2.0 * opinion.prices))
    kernels = network(24, 32, 4)

    def halves(model: CompositionModel) -> list[float]:
        costs, whole = model.predict(KERNELS[:1]), price_network(model, kernels).latency_s
        return [float(np.log(costs.latency_hi_s[0] / costs.latency_s[0])), float(np.log(whole[2] / whole[0]))]

    assert all(wide > narrow for wide, narrow in zip(halves(doubled), halves(board), strict=True))
    assert disagreement(np.array([1.0]), np.array([1.3]), 0.3)[0] == pytest.approx(0.7 / 0.3 * (0.3 / 1.3) ** 2)
    assert disagreement(np.array([1.0]), np.array([1.0]), 0.0)[0] == 0.0


def totals(count: int) -> tuple[KernelColumns, sparse.csr_matrix, Floats]:
    """So many totals of the kernels, each of some of every kind, and what they take on the board."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (count, len(KERNELS))).astype(np.float64)
    seconds = counts @ np.array([true_cost(spec)[0] for spec in KERNELS])
    return KernelColumns.of(KERNELS), sparse.csr_matrix(counts), seconds


def opinions(count: int, seconds: Floats, left_out: Floats) -> tuple[SecondOpinion, Floats]:
    columns, counts, _ = totals(count)
    places = np.zeros(count, dtype=np.intp)
    return fit_opinion(KERNELS, columns, counts, places, ["float32"], seconds, left_out)


def test_it_counts_where_the_composition_misses_and_not_where_it_would_harm() -> None:
    seconds = totals(40)[2]
    off = seconds * np.exp(0.1 * (-1.0) ** np.arange(40))
    opinion, means = opinions(40, seconds, off)
    assert opinion.weight("float32") == WEIGHT
    assert np.abs(means / seconds - 1).mean() < 0.75 * np.abs(off / seconds - 1).mean()
    bent = seconds * np.exp(0.2 * np.random.default_rng(1).normal(size=40))  # no sum a kind: the composition knows it
    opinion, means = opinions(40, bent, bent)
    assert opinion.weights == {}
    assert list(means) == list(bent)


def test_fewer_totals_than_prices_give_no_second_opinion() -> None:
    opinion, means = opinions(6, totals(6)[2], 1.1 * totals(6)[2])
    assert opinion.weights == {}
    assert list(means) == list(1.1 * totals(6)[2])


def test_many_totals_are_left_out_a_tenth_at_once() -> None:
    seconds = totals(250)[2]
    opinion, means = opinions(250, seconds, 1.1 * seconds)
    assert opinion.weight("float32") == WEIGHT
    assert means == pytest.approx((1 + 0.1 * (1 - WEIGHT)) * seconds, rel=1e-3)


def test_a_form_of_kernel_or_a_data_type_that_no_total_had_keeps_the_compositions_price(
    board: CompositionModel,
) -> None:
    opinion = opinion_of(board)
    others = [conv(16, 16, 16, 3), conv(16, 16, 16)._replace(dtype="int8")]
    unknown = replace(opinion, groups=tuple(g.replace("float32/conv", "float32/other") for g in opinion.groups))
    before = np.array([1e-3, 2e-3])
    dtypes = np.array([spec.dtype for spec in others])
    mean, apart = unknown.mean(others, KernelColumns.of(others), dtypes, before)
    assert list(mean) == list(before)
    assert list(apart) == [0.0, 0.0]


def test_a_model_that_starts_from_another_boards_has_none(board: CompositionModel) -> None:
    model = fit_from_networks(some_networks(10, 5, speed=2.0), [], BOARD, "measured", base=board)
    assert model.opinion is None
    assert model.predict(KERNELS[:1]).latency_s[0] == pytest.approx(true_cost(KERNELS[0], 2.0)[0], rel=0.25)


def test_files_from_before_there_were_second_opinions_load_without(board: CompositionModel, tmp_path: Path) -> None:
    board.save(tmp_path)
    loaded = KernelCostModel.load(tmp_path)
    assert isinstance(loaded, CompositionModel)
    assert opinion_of(loaded).weights == opinion_of(board).weights
    assert loaded.predict(KERNELS).latency_s == pytest.approx(board.predict(KERNELS).latency_s)
    about = json.loads((tmp_path / "model.json").read_text())
    about["format_version"] = 3
    opinion = about.pop("opinion")
    (tmp_path / "model.json").write_text(json.dumps(about))
    old = KernelCostModel.load(tmp_path)
    assert old.predict(KERNELS).latency_s == pytest.approx(alone(board).predict(KERNELS).latency_s)
    opinion["prices"][0][0] = -1.0
    (tmp_path / "model.json").write_text(json.dumps(about | {"opinion": opinion}))
    with pytest.raises(ValueError, match="cannot be read"):
        KernelCostModel.load(tmp_path)
