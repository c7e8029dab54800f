"""Which of two cost models of one configuration a calibration keeps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from device_agents.records import KernelSpec
from power_models.kernel_cost import KernelCostModel, KernelRow
from rig.calibration import Fitted, HeldOut, fit_and_check, save_better
from rig.collect.collector import Collected

sys.path.insert(0, str(Path(__file__).parent / "power_models"))
from synthetic_device import CONFIGURATION, rows

SOFTMAX = KernelSpec("softmax", 1, 10, 1, 1, 10, 1, 1)


def collected(members: list[KernelRow]) -> Collected:
    return Collected(
        rows=members,
        overhead=(1e-4, 1e-4),
        idle_power_w=(2.9, 2.85, 2.95),
        kind="simulated",
        problems=[],
        configuration=CONFIGURATION,
        networks=[],
    )


def fitted(members: list[KernelRow], held_out: HeldOut) -> Fitted:
    return fit_and_check(collected(members), held_out, "made-up", "virtual")


@pytest.fixture(scope="module")
def members() -> list[KernelRow]:
    return rows(110, 1)


@pytest.fixture(scope="module")
def held_out(members: list[KernelRow]) -> HeldOut:
    return HeldOut(frozenset(row.kernel for row in members[80:]), frozenset())


def test_a_worse_model_does_not_replace_a_better_one(
    members: list[KernelRow], held_out: HeldOut, tmp_path: Path
) -> None:
    good, bad = fitted(members, held_out), fitted([*members[:25], *members[80:]], held_out)
    assert bad.summaries["latency_s"].median > good.summaries["latency_s"].median
    assert save_better(good, collected(members), held_out, tmp_path, "virtual")
    assert not save_better(bad, collected(members), held_out, tmp_path, "virtual")
    assert len(KernelCostModel.load(tmp_path).known_kinds) == len(good.model.known_kinds)
    assert save_better(good, collected(members), held_out, tmp_path, "virtual")


def test_a_held_out_kernel_of_a_kind_that_nobody_fitted_is_left_out_of_the_comparison(
    members: list[KernelRow], held_out: HeldOut, tmp_path: Path
) -> None:
    stray = KernelRow(SOFTMAX, 1e-5, 1e-7, 2e-5, 1e-7, "chain", "stray")
    also = HeldOut(held_out.kernels | {SOFTMAX}, frozenset())
    first = fitted([*members, stray], also)
    assert save_better(first, collected([*members, stray]), also, tmp_path, "virtual")
    assert save_better(first, collected([*members, stray]), also, tmp_path, "virtual")
