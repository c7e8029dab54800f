"""A new board from a similar one's model: a speed ratio takes a few kernels, a misleading base does no harm."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from device_agents.records import Configuration, KernelSpec
from power_models.kernel_cost import KernelCostModel, KernelRow, UnpricedKernel
from power_models.network_check import NetworkRow, learn_from_networks
from power_models.network_cost import price_network
from power_models.transfer import TransferredModel
from power_models.transfer_fit import fit_transferred

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_device import CONFIGURATION, cost, kernels, rows

HERE = Configuration("new-board", "2", "virtual", "1", 4, False, "", "board_input")
FACTORS = {"conv": 2.2, "depthwise": 1.6, "add": 1.9}
SOFTMAX = KernelSpec("softmax", 1, 10, 1, 1, 10, 1, 1)


@pytest.fixture(scope="module")
def base() -> KernelCostModel:
    return KernelCostModel.fit(rows(60, 1), CONFIGURATION, "simulated", idle_power_w=(2.9, 2.85, 2.95))


def new_cost(spec: KernelSpec) -> tuple[float, float]:
    """Seconds and joules of the new board: slower, each kind by a factor of its own, at other watts."""
    seconds, joules = cost(spec)
    return FACTORS[spec.kind] * seconds, 1.3 * FACTORS[spec.kind] * joules


def here(count: int, seed: int) -> list[KernelRow]:
    found = []
    for i, spec in enumerate(kernels(count, seed)):
        seconds, joules = new_cost(spec)
        found.append(KernelRow(spec, seconds, 0.01 * seconds, joules, 0.01 * joules, "chain", f"{seed}-{i}"))
    return found


def errors(model: KernelCostModel, specs: list[KernelSpec]) -> np.ndarray:
    costs = model.predict(specs)
    truth = np.array([new_cost(spec) for spec in specs])
    return np.abs(np.stack([costs.latency_s, costs.energy_j], 1) / truth - 1)


def test_a_few_kernels_are_enough_for_a_similar_board(base: KernelCostModel) -> None:
    model = fit_transferred(base, here(7, 5), HERE, "measured")
    assert isinstance(model, TransferredModel)
    assert np.median(errors(model, kernels(60, 77))) < 0.05
    assert np.median(errors(base, kernels(60, 77))) > 0.3


def test_intervals_of_what_was_not_measured_hold(base: KernelCostModel) -> None:
    model = fit_transferred(base, here(12, 6), HERE, "measured")
    specs = kernels(100, 78)
    costs = model.predict(specs)
    truth = np.array([new_cost(spec)[0] for spec in specs])
    inside = (costs.latency_lo_s <= truth) & (truth <= costs.latency_hi_s)
    assert inside.mean() > 0.88
    assert np.median(costs.latency_hi_s / costs.latency_lo_s) < 1.6


def test_a_saved_model_prices_the_same_and_a_plain_one_takes_its_place(base: KernelCostModel, tmp_path: Path) -> None:
    model = fit_transferred(base, [*here(9, 7), row_of(SOFTMAX)], HERE, "measured", overhead=(1e-4, 2e-4))
    model.save(tmp_path)
    again = KernelCostModel.load(tmp_path)
    specs = [*kernels(20, 8), SOFTMAX]
    assert isinstance(again, TransferredModel)
    for name in ("latency_s", "latency_hi_s", "energy_j", "energy_lo_j"):
        assert getattr(again.predict(specs), name) == pytest.approx(getattr(model.predict(specs), name))
    assert price_network(again, specs).latency_s == pytest.approx(price_network(model, specs).latency_s)
    assert (again.configuration, again.overhead, again.report) == (HERE, (1e-4, 2e-4), model.report)
    base.save(tmp_path)
    assert not isinstance(KernelCostModel.load(tmp_path), TransferredModel)


def row_of(spec: KernelSpec) -> KernelRow:
    return KernelRow(spec, 3e-5, 1e-6, 4e-5, 1e-6, "chain", spec.label)


def test_a_kind_that_the_base_lacks_comes_from_the_rows(base: KernelCostModel) -> None:
    with pytest.raises(UnpricedKernel):
        fit_transferred(base, here(9, 7), HERE, "measured").predict([SOFTMAX])
    model = fit_transferred(base, [*here(9, 7), row_of(SOFTMAX)], HERE, "measured")
    assert model.predict([SOFTMAX]).latency_s[0] == pytest.approx(3e-5, rel=0.3)


def test_a_misleading_base_is_left_out() -> None:
    """A base whose costs have nothing to do with the kernels: the rows alone do better, and are taken."""
    convs = [row for row in rows(40, 9, 0.005) if row.kernel.kind == "conv"][:20]
    order = np.random.default_rng(3).permutation(len(convs))
    shuffled = [row._replace(latency_s=convs[i].latency_s) for row, i in zip(convs, order, strict=True)]
    misleading = KernelCostModel.fit(shuffled, CONFIGURATION, "simulated")
    model = fit_transferred(misleading, [row._replace(group=f"g{i}") for i, row in enumerate(convs)], HERE, "measured")
    assert not isinstance(model, TransferredModel)
    (family,) = model.report["transfer"]["families"].values()  # type: ignore[index]
    assert family["priced_by"] == "fresh"
    assert family["fresh"] < family["base"]
    fresh_kernels = [spec for spec in kernels(40, 300) if spec.kind == "conv"]
    truth = np.array([cost(spec)[0] for spec in fresh_kernels])
    assert np.median(np.abs(model.predict(fresh_kernels).latency_s / truth - 1)) < 0.05


def network(number: int) -> NetworkRow:
    specs = kernels(10, 2000 + number)
    costs = np.array([new_cost(spec) for spec in specs]).sum(axis=0)
    return NetworkRow(f"n{number}", specs, float(costs[0]), float(costs[1]))


def test_whole_networks_alone_will_do(base: KernelCostModel) -> None:
    model = fit_transferred(base, [], HERE, "measured", networks=[network(i) for i in range(6)])
    off, inside = [], []
    for i in range(100, 115):
        one = network(i)
        cost_ = price_network(model, one.kernels)
        off.append(abs(cost_.latency_s[0] / one.latency_s - 1))
        inside.append(cost_.latency_s[1] <= one.latency_s <= cost_.latency_s[2])
    assert np.mean(off) < 0.06
    assert np.mean(inside) > 0.8
    assert model.idle_power_w == base.idle_power_w


def test_networks_can_teach_a_transferred_model(base: KernelCostModel) -> None:
    model = fit_transferred(base, here(8, 5), HERE, "measured")
    slower = [n._replace(latency_s=1.3 * n.latency_s) for n in map(network, range(12))]
    taught = learn_from_networks(model, slower)
    one = network(200)
    before, after = (price_network(m, one.kernels).latency_s[0] / one.latency_s for m in (model, taught))
    assert abs(after / 1.3 - 1) < 0.08 < abs(before / 1.3 - 1)


def test_nothing_measured_is_refused(base: KernelCostModel) -> None:
    with pytest.raises(ValueError, match="nothing measured"):
        fit_transferred(base, [], HERE, "measured")


def test_joules_that_nobody_measured_here_are_not_those_of_the_base(base: KernelCostModel) -> None:
    timed = [row._replace(energy_active_j=None, energy_se_j=None) for row in here(7, 5)]
    costs = fit_transferred(base, timed, HERE, "measured").predict(kernels(10, 77))
    assert np.isfinite(costs.latency_s).all()
    assert np.isnan(costs.energy_j).all()
