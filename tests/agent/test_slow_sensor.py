"""A measurement with a slow meter: windows and quiet phases as long as it needs, stopped by what was really seen."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agents import priority
from device_agents.child import Child
from device_agents.measure import Measurement, Runtime
from device_agents.records import KernelSpec, MeasurePlan
from device_agents.virtual_board.physics import BoardModel
from rig.quality.verdict import assess

KERNELS = [KernelSpec("conv", 1, 64, 28, 28, 64, 28, 28, 3, 3, 1, 1)] * 4
PLAN = MeasurePlan(window_s=0.5, quiet_s=1.0, min_windows=10, rel_ci=0.05)


@pytest.fixture(scope="module")
def children() -> Iterator[list[Child]]:
    started = [Child(role, [sys.executable, "-m", "device_agents", role]) for role in ("runtime", "sampler")]
    for child in started:
        child.start()
    yield started
    for child in started:
        child.stop()


def measured(children: list[Child], folder: Path, meter: dict[str, Any], **options: Any) -> dict[str, Any]:
    request = {
        "id": "slow",
        "op": "measure",
        "runtime": "virtual",
        "options": {"board": "pi4", "seed": 3, "meter": meter, **options},
        "source": "virtual",
        "subject": {"name": "net", "format": "kernels", "kernels": [kernel.to_json() for kernel in KERNELS]},
        "plan": PLAN.to_json(),
    }
    return Measurement(request, Runtime(children[0], 60.0), children[1], lambda _: None, lambda: False).run(str(folder))


def lengths(record: dict[str, Any], name: str) -> list[float]:
    return [phase["t1_s"] - phase["t0_s"] for phase in record["phases"] if phase["name"] == name]


def test_windows_are_as_long_as_the_meter_needs(children: list[Child], tmp_path: Path) -> None:
    record = measured(children, tmp_path, {"window_s": 0.8, "rate_hz": 5.0, "clock_offset_s": 0.3})
    assert min(lengths(record, "window")) >= 1.6
    assert min(lengths(record, "quiet_before") + lengths(record, "quiet_after")) > 3.19
    found = assess(record)
    assert found.ok, found.reason
    assert found.energy_j is not None
    assert found.energy_j.n >= 10  # type: ignore[operator]
    assert record["stopped"] == "precise"
    assert record["sampling"]["missed"] == 0


def test_few_samples_a_second_make_windows_longer_too(children: list[Child], tmp_path: Path) -> None:
    record = measured(children, tmp_path, {"window_s": 0.05, "rate_hz": 3.0})
    assert min(lengths(record, "window")) >= 5.0 / 3.0
    found = assess(record)
    assert found.ok, found.reason


def test_a_quick_meter_leaves_the_plan_alone(children: list[Child], tmp_path: Path) -> None:
    record = measured(children, tmp_path, {})
    assert max(lengths(record, "window")) < 0.6
    assert max(lengths(record, "quiet_before")) == pytest.approx(1.0)


def test_facts_of_the_board_can_be_changed_and_unknown_ones_are_refused(children: list[Child], tmp_path: Path) -> None:
    warm = measured(children, tmp_path, {}, facts={"ambient_c": 40.0, "leakage_w_per_k": 0.0})
    assert warm["phases"][0]["temp_c"] > 55.0
    assert BoardModel.load("pi4").with_facts({"ambient_c": 40.0}).constants["board"]["ambient_c"] == 40.0
    with pytest.raises(ValueError, match="no constant ambient_f"):
        BoardModel.load("pi4").with_facts({"ambient_f": 100.0})


def test_the_sampler_says_how_it_is_scheduled() -> None:
    """In a process of its own: the scheduling of this one stays as it is."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, priority.wake_promptly().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    said = os.read(reader, 100).decode()
    os.close(reader)
    assert said in ("round-robin", "short slice", "ordinary")
