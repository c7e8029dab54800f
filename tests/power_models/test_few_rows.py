"""A family of one or two rows: nothing of it can be held out, and its intervals say so."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from device_agents.records import KernelSpec
from power_models.few_rows import ALONE, FEWEST_JUDGED, scales_of_few
from power_models.fitting import _prepare
from power_models.kernel_cost import KernelCostModel, KernelRow
from power_models.selection import judged

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_device import CONFIGURATION, conv, cost, rows


def add(channels: int, size: int) -> KernelSpec:
    return KernelSpec("add", 1, channels, size, size, channels, size, size, inputs=2)


def row(spec: KernelSpec, name: str) -> KernelRow:
    seconds, joules = cost(spec)
    return KernelRow(spec, seconds, 0.01 * seconds, joules, 0.01 * joules, "chain", name)


def weighted(count: int) -> list[KernelRow]:
    """Convolutions; seven are too few for the costlier candidates, and enough to tell what two rows are worth."""
    return [one for one in rows(2 * count, 3) if one.kernel.kind == "conv"][:count]


ADDS = [add(channels, size) for channels in (4, 16, 48, 100, 300) for size in (4, 7, 14, 28, 56)]
DRAWN = [(0, 13), (7, 8), (24, 3), (12, 19)]


def coverage(model: KernelCostModel, specs: list[KernelSpec]) -> tuple[float, float]:
    """Share of kernels whose true seconds, and joules, lie in the 95 % interval."""
    costs = model.predict(specs)
    truth = np.array([cost(spec) for spec in specs])
    seconds = (costs.latency_lo_s <= truth[:, 0]) & (truth[:, 0] <= costs.latency_hi_s)
    joules = (costs.energy_lo_j <= truth[:, 1]) & (truth[:, 1] <= costs.energy_hi_j)
    return float(seconds.mean()), float(joules.mean())


@pytest.mark.parametrize("others", [0, 7])
def test_two_rows_of_a_kind_price_the_others_with_honest_intervals(others: int) -> None:
    """By the errors that convolutions show with two rows; where there are none, by the prior scale."""
    shares = []
    for chosen in DRAWN:
        known = [row(ADDS[i], f"add {i}") for i in chosen]
        model = KernelCostModel.fit([*weighted(others), *known], CONFIGURATION, "simulated")
        unknown = [spec for i, spec in enumerate(ADDS) if i not in chosen]
        shares.append(coverage(model, unknown))
        costs = model.predict(unknown)
        assert (costs.latency_hi_s / costs.latency_lo_s < 400.1).all()
    latency, energy = np.mean(shares, axis=0)
    assert latency >= 0.85
    assert energy >= 0.85


def test_one_row_is_unsure_of_all_others() -> None:
    model = KernelCostModel.fit([*weighted(7), row(ADDS[12], "add")], CONFIGURATION, "simulated")
    costs = model.predict([ADDS[0], ADDS[12], ADDS[24]])
    widths = np.log(costs.latency_hi_s / costs.latency_lo_s)
    assert (widths > 0.5).all()
    assert widths[1] < min(widths[0], widths[2]), "the nearer, the surer"


def test_what_could_not_be_held_out_is_not_among_the_held_out_errors() -> None:
    known = [row(ADDS[i], f"add {i}") for i in (0, 13)]
    model = KernelCostModel.fit([*weighted(7), *known], CONFIGURATION, "simulated")
    assert np.isnan(model.models["memory/float32"].held_out["latency"]).all()
    about = model.report["memory/float32"]
    assert isinstance(about, dict)
    assert about["latency"] == dict.fromkeys(("median_error", "mean_error", "p90_error", "conformal_95"))
    repeated = [row(ADDS[0], "one") for _ in range(5)]  # one kernel is one row, however often it was measured
    model = KernelCostModel.fit([*weighted(7), *repeated], CONFIGURATION, "simulated")
    costs = model.predict([ADDS[24]])
    assert costs.latency_hi_s[0] / costs.latency_lo_s[0] > 2.0


def test_families_with_rows_enough_are_judged_as_before() -> None:
    members = weighted(7)
    model = KernelCostModel.fit(members, CONFIGURATION, "simulated")
    for family in model.models.values():
        assert np.isfinite(family.held_out["latency"]).sum() >= FEWEST_JUDGED
    assert judged([np.array([0]), np.array([1])], 2).tolist() == [False, False]
    assert judged([np.array([0]), np.array([1]), np.array([2])], 3).all()
    assert judged([np.array([0, 1]), np.array([2, 3])], 4).all()
    assert judged([np.array([0, 1, 2]), np.array([3])], 4).tolist() == [False, False, False, True]


def test_scales_are_those_of_families_that_are_priced_alike() -> None:
    """Few rows of a device whose kinds cost nearly the same leave small errors; of one with wild costs, large ones."""
    tame = [row(conv(16 + i, 16 + i, 14), str(i)) for i in range(30)]
    wild = [one._replace(latency_s=one.latency_s * (1 + 9 * (i % 2))) for i, one in enumerate(tame)]
    small, large = (
        scales_of_few({"conv_kxk/float32": _prepare(members)}, "fc/float32", 2)["latency"] for members in (tame, wild)
    )
    assert small.near < 0.2
    assert large.near > 3 * small.near
    assert large.share >= 0.5
    # Its own rows, and a pool's own members, are no others.
    own = {"memory/float32": _prepare(tame[:8])}
    assert scales_of_few(own, "memory/float32", 2)["latency"] == ALONE
    assert scales_of_few({"conv_kxk/float32": _prepare(tame)}, "weighted/float32", 2)["latency"] == ALONE
