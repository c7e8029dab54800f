"""A runtime that runs unaligned channels by another algorithm: found from measurements, kept with the model."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from device_agents.records import KernelSpec
from power_models.kernel_cost import KernelCostModel, KernelRow
from power_models.switches import ragged_family
from tests.power_models.synthetic_device import CONFIGURATION, conv

SLOWER = 10.0


def depthwise(channels: int, size: int) -> KernelSpec:
    return conv(channels, channels, size, groups=channels, kind="depthwise")


def rows(count: int, seed: int, block: int | None) -> list[KernelRow]:
    """Depthwise convolutions at 0.1 ns a multiply and 1 µs a call; those out of whole blocks are slower."""
    rng = random.Random(seed)
    noise = np.random.default_rng(seed)
    found = []
    for i in range(count):
        channels = round(4 * 64 ** rng.random()) * (1 if i % 3 == 0 else 8)
        kernel = depthwise(channels, rng.choice([7, 14, 28, 32]))
        slower = SLOWER if block is not None and channels % block else 1.0
        latency_s = (1e-6 + 1e-10 * kernel.macs * slower) * float(np.exp(0.03 * noise.standard_normal()))
        found.append(KernelRow(kernel, latency_s, 0.02 * latency_s, None, None, "chain", f"g{i}"))
    return found


@pytest.fixture(scope="module")
def model() -> KernelCostModel:
    return KernelCostModel.fit(rows(90, 1, 4), CONFIGURATION, "simulated")


def test_the_block_is_found_and_both_sides_are_priced(model: KernelCostModel, tmp_path: Path) -> None:
    assert model.switches == {"depthwise/float32": 4}
    unseen = rows(30, 2, 4)
    model.save(tmp_path)
    for priced in (model, KernelCostModel.load(tmp_path)):
        costs = priced.predict([row.kernel for row in unseen])
        errors = np.abs(costs.latency_s / [row.latency_s for row in unseen] - 1.0)
        assert np.median(errors) < 0.06
        assert errors.max() < 0.5, "a step of ten times is not smoothed over"
        inside, outside = priced.predict([depthwise(212, 14), depthwise(214, 14)]).latency_s
        assert outside / inside == pytest.approx(SLOWER, rel=0.35)
        assert priced.predict([depthwise(214, 14)]).families == [ragged_family("depthwise/float32", 4)]


def test_a_runtime_without_a_switch_is_left_whole() -> None:
    assert KernelCostModel.fit(rows(90, 1, None), CONFIGURATION, "simulated").switches == {}


def test_too_few_rows_out_of_whole_blocks_split_nothing() -> None:
    few = [row for i, row in enumerate(rows(90, 1, 4)) if row.kernel.in_channels % 4 == 0 or i < 12]
    assert 0 < sum(row.kernel.in_channels % 4 > 0 for row in few) < 8
    assert KernelCostModel.fit(few, CONFIGURATION, "simulated").switches == {}
