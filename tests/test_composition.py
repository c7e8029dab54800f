"""Kernel costs from whole networks, on a board whose every kernel is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_agents.records import Configuration, KernelSpec
from power_models.composition import CompositionModel
from power_models.composition_fit import fit_from_networks
from power_models.kernel_cost import KernelCostModel, UnpricedKernel
from power_models.measured_tables import TableKernel, TableNetwork
from power_models.network_cost import price_network

BOARD = Configuration("board", "", "runtime", "1", 4, False, "", "wall")
QUIET_W, OVERHEAD_S = 2.0, 1e-4
RATES = {"conv": 2e-10, "depthwise": 1.5e-9, "fc": 4e-10}  # seconds a multiply-accumulate
WATTS = {"conv": 5.0, "depthwise": 3.0, "fc": 2.0, "add": 2.5}


def true_cost(spec: KernelSpec, speed: float = 1.0) -> tuple[float, float]:
    """Seconds and active joules of a kernel on the board."""
    moved = (spec.input_bytes + spec.output_bytes + spec.weight_bytes) * 2e-10
    seconds = (RATES.get(spec.kind, 0.0) * spec.macs + moved + 5e-6) / speed
    return seconds, seconds * WATTS[spec.kind]


def conv(channels_in: int, channels_out: int, size: int, kernel: int = 1) -> KernelSpec:
    pad = kernel // 2
    return KernelSpec("conv", 1, channels_in, size, size, channels_out, size, size, kernel, kernel, 1, pad)


def depthwise(channels: int, size: int) -> KernelSpec:
    return KernelSpec("depthwise", 1, channels, size, size, channels, size, size, 3, 3, 1, 1, 1, channels)


def add(channels: int, size: int) -> KernelSpec:
    return KernelSpec("add", 1, channels, size, size, channels, size, size, inputs=2)


def network(width: int, size: int, depth: int, *, adds: int = 0, blocks: str = "conv depthwise") -> list[KernelSpec]:
    kernels = [conv(3, width, size, 3)]
    for layer in range(depth):
        channels, side = width * (1 + layer // 2), max(size >> (layer // 2), 4)
        kernels += [conv(channels, channels, side)] if "conv" in blocks else []
        kernels += [depthwise(channels, side)] if "depthwise" in blocks else []
        kernels += [add(channels, side)] * (layer < adds)
    return [*kernels, KernelSpec("fc", 1, width, 1, 1, 100, 1, 1)]


def measured(name: str, kernels: list[KernelSpec], rng: np.random.Generator, *, speed: float = 1.0) -> TableNetwork:
    seconds, joules = np.sum([true_cost(spec, speed) for spec in kernels], axis=0)
    latency = (seconds + OVERHEAD_S) * float(np.exp(rng.normal(0, 0.004)))
    energy = joules / (seconds + OVERHEAD_S) * latency + QUIET_W * latency
    about = (name, "family", "board", "float32", tuple(kernels))
    return TableNetwork(*about, latency, energy / latency, energy, QUIET_W, False, 1)


def some_networks(count: int, seed: int, *, adds: bool = True, speed: float = 1.0) -> list[TableNetwork]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        width, size = 8 * int(rng.integers(1, 9)), 8 * int(rng.integers(2, 9))
        depth = int(rng.integers(2, 7))
        blocks = ("conv depthwise", "conv", "depthwise")[int(rng.integers(0, 3))]
        kernels = network(width, size, depth, adds=int(rng.integers(0, 4)) if adds else 0, blocks=blocks)
        found.append(measured(f"network {i}", kernels, rng, speed=speed))
    return found


@pytest.fixture(scope="module")
def board() -> CompositionModel:
    return fit_from_networks(some_networks(40, 0), [], BOARD, "measured")


def test_totals_of_networks_not_seen(board: CompositionModel) -> None:
    held_out = some_networks(30, 1)
    costs = [price_network(board, row.kernels) for row in held_out]
    latency = np.array([cost.latency_s for cost in costs])
    energy = np.array([cost.energy_j for cost in costs])
    power = np.array([cost.power_w() for cost in costs])
    for found, truth, most in (
        (latency, np.array([row.latency_s for row in held_out]), 0.03),
        (energy, np.array([row.energy_active_j for row in held_out]), 0.03),
        (power, np.array([row.power_w for row in held_out]), 0.015),
    ):
        assert np.abs(found[:, 0] / truth - 1).mean() < most
        assert ((found[:, 1] <= truth) & (truth <= found[:, 2])).mean() >= 0.8
    assert np.median(latency[:, 2] / latency[:, 1] - 1) / 2 < 0.03


def test_kernels_are_told_apart_and_their_intervals_hold(board: CompositionModel) -> None:
    kernels = [conv(32, 32, 32), conv(64, 64, 16), conv(16, 16, 48), depthwise(32, 32), depthwise(64, 32), add(32, 32)]
    costs = board.predict(kernels)
    truth = np.array([true_cost(spec) for spec in kernels])
    assert np.abs(np.log(costs.latency_s[:5] / truth[:5, 0])).max() < 0.25
    inside = (costs.latency_lo_s <= truth[:, 0]) & (truth[:, 0] <= costs.latency_hi_s)
    assert inside.sum() >= 5
    inside = (costs.energy_lo_j <= truth[:, 1]) & (truth[:, 1] <= costs.energy_hi_j)
    assert inside.sum() >= 5
    watts = costs.energy_j / costs.latency_s
    assert watts[0] > watts[3]
    assert not costs.extrapolated.any()


def test_a_network_is_the_sum_of_its_kernels(board: CompositionModel) -> None:
    kernels = network(24, 32, 4, adds=2)
    cost, each = price_network(board, kernels), board.predict(kernels)
    assert cost.latency_s[0] == pytest.approx(each.latency_s.sum() + board.overhead[0])
    assert cost.energy_j[0] == pytest.approx(each.energy_j.sum() + board.overhead[1])
    assert cost.power_w()[0] == pytest.approx(QUIET_W + cost.energy_j[0] / cost.latency_s[0])
    assert list(cost.kernels.latency_s) == pytest.approx(list(each.latency_s))


def test_costs_are_positive_however_small_or_large_the_kernel(board: CompositionModel) -> None:
    costs = board.predict([conv(1, 1, 1), conv(2048, 2048, 112, 7), depthwise(1, 1), add(4096, 128)])
    for values in (costs.latency_lo_s, costs.latency_s, costs.energy_lo_j, costs.energy_j):
        assert (values > 0).all()
    assert np.isfinite(costs.latency_hi_s).all()
    assert costs.extrapolated.all()
    usual = board.predict([conv(32, 32, 32)])
    assert costs.latency_hi_s[1] / costs.latency_lo_s[1] > usual.latency_hi_s[0] / usual.latency_lo_s[0]


def test_kernels_that_totals_cannot_tell_apart_stay_unsure_until_one_is_measured() -> None:
    rng = np.random.default_rng(3)
    twins = []
    for i in range(24):
        width, size, depth = 8 * int(rng.integers(1, 9)), 8 * int(rng.integers(2, 9)), int(rng.integers(2, 7))
        twins.append(measured(f"twin {i}", network(width, size, depth), rng))  # a depthwise beside every 1×1
    one = depthwise(32, 32)
    unsure = fit_from_networks(twins, [], BOARD, "measured")
    before = unsure.predict([one])
    total = price_network(unsure, twins[0].kernels).latency_s
    assert before.latency_hi_s[0] / before.latency_lo_s[0] > 3 * total[2] / total[1] / 2
    assert before.latency_lo_s[0] < true_cost(one)[0] < before.latency_hi_s[0]
    rows = []
    for spec in (depthwise(c, s) for c in (8, 24, 64) for s in (16, 48)):
        seconds, joules = true_cost(spec)
        rows.append(TableKernel(spec, seconds, None, joules + QUIET_W * seconds, QUIET_W, 1))
    sure = fit_from_networks(twins, rows, BOARD, "measured")
    after = sure.predict([one])
    assert after.latency_hi_s[0] / after.latency_lo_s[0] < before.latency_hi_s[0] / before.latency_lo_s[0]
    assert after.latency_s[0] == pytest.approx(true_cost(one)[0], rel=0.15)


def test_a_saved_model_prices_the_same(board: CompositionModel, tmp_path: Path) -> None:
    board.save(tmp_path)
    loaded = KernelCostModel.load(tmp_path)
    assert isinstance(loaded, CompositionModel)
    kernels = network(40, 24, 5, adds=1)
    one, two = price_network(board, kernels), price_network(loaded, kernels)
    for quantity in ("latency_s", "energy_j", "active_power_w", "idle_power_w", "overhead"):
        assert getattr(one, quantity) == pytest.approx(getattr(two, quantity), rel=1e-4)
    assert loaded.known_kinds == board.known_kinds
    assert loaded.configuration == BOARD
    about = json.loads((tmp_path / "model.json").read_text())
    del about["costs"]["seconds"]["families"]
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="cannot be read"):
        KernelCostModel.load(tmp_path)


def test_another_boards_model_prices_kinds_that_this_boards_networks_lack(
    board: CompositionModel, tmp_path: Path
) -> None:
    few = some_networks(10, 5, adds=False, speed=2.0)
    alone = fit_from_networks(few, [], BOARD, "measured")
    with pytest.raises(UnpricedKernel, match=r"add/float32 was\s+in no measured network"):
        alone.predict([add(32, 32)])
    with_base = fit_from_networks(few, [], BOARD, "measured", base=board)
    cost = with_base.predict([add(32, 32)])
    assert cost.latency_s[0] == pytest.approx(board.predict([add(32, 32)]).latency_s[0] / 2, rel=0.25)
    unseen = some_networks(20, 6, adds=False, speed=2.0)
    errors: list[float] = [
        float(np.mean([abs(price_network(model, row.kernels).latency_s[0] / row.latency_s - 1) for row in unseen]))
        for model in (with_base, alone)
    ]
    assert errors[0] < min(0.04, errors[1])
    with_base.save(tmp_path)
    loaded = KernelCostModel.load(tmp_path)
    assert price_network(loaded, unseen[0].kernels).latency_s == pytest.approx(
        price_network(with_base, unseen[0].kernels).latency_s, rel=1e-4
    )


def test_without_energies_there_is_no_power() -> None:
    bare = [
        TableNetwork(r.name, r.family, r.device, r.dtype, r.kernels, r.latency_s, None, None, None, False, r.line)
        for r in some_networks(12, 7)
    ]
    model = fit_from_networks(bare, [], BOARD, "measured")
    cost = price_network(model, bare[0].kernels)
    assert cost.latency_s[0] == pytest.approx(bare[0].latency_s, rel=0.05)
    assert np.isnan(cost.energy_j[0])
    assert cost.idle_power_w is None


def test_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="no network"):
        fit_from_networks([], [], BOARD, "measured")


def in_int8(row: TableNetwork, *, power: bool) -> TableNetwork:
    """The network in the other data type, at the same cost; with its energy or without."""
    kernels = tuple(spec._replace(dtype="int8") for spec in row.kernels)
    found = replace(row, dtype="int8", kernels=kernels)
    return found if power else replace(found, power_w=None, energy_j=None)


@pytest.mark.parametrize("silent", ["float32", "int8"])
def test_a_data_type_without_energies_has_the_watts_of_the_other(
    silent: str, board: CompositionModel, tmp_path: Path
) -> None:
    plain = some_networks(14, 8)
    if silent == "int8":
        rows = [*plain, *(in_int8(row, power=False) for row in plain)]
    else:
        rows = [*(replace(r, power_w=None, energy_j=None) for r in plain), *(in_int8(r, power=True) for r in plain)]
    for base in (None, board):
        model = fit_from_networks(rows, [], BOARD, "measured", base=base)
        model.save(tmp_path / silent)
        for row in (rows[0], rows[-1]):
            cost = price_network(model, row.kernels)
            assert cost.latency_s[0] == pytest.approx(row.latency_s, rel=0.25)
            assert 2.0 < cost.active_power_w[0] < 6.0


def test_a_data_type_that_only_the_base_knows_is_unsure() -> None:
    plain = some_networks(14, 9)
    base = fit_from_networks([*plain, *(in_int8(row, power=True) for row in plain)], [], BOARD, "measured")
    model = fit_from_networks(some_networks(10, 10), [], BOARD, "measured", base=base)
    known = plain[0].kernels[1]
    costs = model.predict([known, known._replace(dtype="int8")])
    halves = np.log(costs.latency_hi_s / costs.latency_s)
    assert halves[1] > 2 * halves[0]
    assert costs.extrapolated[1]
