"""What measured networks teach a cost model: a common error is found, intervals get as wide as they must."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from power_models.kernel_cost import KernelCostModel
from power_models.network_check import NetworkRow, learn_from_networks
from power_models.network_cost import price_network

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_device import CONFIGURATION, cost, kernels, rows


@pytest.fixture(scope="module")
def model() -> KernelCostModel:
    return KernelCostModel.fit(rows(110, 1), CONFIGURATION, "simulated", idle_power_w=(2.9, 2.85, 2.95))


def networks(count: int, slower: float, scatter: float, first: int = 0) -> list[NetworkRow]:
    """Networks of eight kernels each, all slower than their kernels by a factor, with lognormal scatter."""
    rng = np.random.default_rng(first)
    found = []
    for number in range(count):
        specs = kernels(8, 1000 + first + number)
        costs = np.array([cost(spec) for spec in specs])
        factor = slower * np.exp(rng.normal(0.0, scatter))
        found.append(NetworkRow(f"n{number}", specs, factor * costs[:, 0].sum(), factor * costs[:, 1].sum()))
    return found


def test_too_few_networks_change_nothing(model: KernelCostModel) -> None:
    same = learn_from_networks(model, networks(4, 1.2, 0.0))
    assert same.network_widths == {}
    assert same.families == model.families


def test_what_all_networks_have_in_common_is_learned(model: KernelCostModel) -> None:
    learned = learn_from_networks(model, networks(30, 1.15, 0.01))
    for network in networks(5, 1.15, 0.0, first=500):
        before = price_network(model, network.kernels).latency_s[0] / network.latency_s
        after = price_network(learned, network.kernels).latency_s[0] / network.latency_s
        assert abs(after - 1.0) < 0.05 < abs(before - 1.0)


def test_intervals_widen_where_networks_scatter(model: KernelCostModel) -> None:
    calm, wild = (learn_from_networks(model, networks(30, 1.0, scatter)) for scatter in (0.0, 0.3))
    assert min(wild.network_widths["latency"]) > 1.5 * max(calm.network_widths["latency"])
    covered = [
        low <= network.latency_s <= high
        for network in networks(40, 1.0, 0.3, first=900)
        for _, low, high in [price_network(wild, network.kernels).latency_s]
    ]
    assert np.mean(covered) > 0.85


def test_networks_the_model_was_fitted_to_never_narrow_it(model: KernelCostModel) -> None:
    learned = learn_from_networks(model, networks(30, 1.0, 0.0), fitted=True)
    assert min(min(pair) for pair in learned.network_widths.values()) >= 1.0


def test_networks_with_energy_teach_a_model_without_it_latency_alone(tmp_path: Path) -> None:
    timed = [row._replace(energy_active_j=None, energy_se_j=None) for row in rows(110, 1)]
    learned = learn_from_networks(KernelCostModel.fit(timed, CONFIGURATION, "measured"), networks(30, 1.1, 0.01))
    assert set(learned.network_widths) == {"latency"}
    learned.save(tmp_path)  # a NaN would have no place in the file
    assert KernelCostModel.load(tmp_path).network_widths == learned.network_widths


def test_the_widths_are_kept_in_the_file(model: KernelCostModel, tmp_path: Path) -> None:
    learned = learn_from_networks(model, networks(30, 1.1, 0.1))
    learned.save(tmp_path)
    assert KernelCostModel.load(tmp_path).network_widths == learned.network_widths
