"""The one contract of every power source, each read by the real sampler process from the nearest real thing.

What a source may never do: show a zero or its last value for something that it could not read.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from device_agents.protocol import clock_domain, now_s
from device_agents.sensors import SENSORS, make_sensor
from rig.quality.power import PowerCurve
from tests.agent_setup import exists
from tests.contracts.sampler_process import SamplerProcess
from tests.contracts.sources import FAULTS, SOURCES, Source
from tests.fakes.nvml_library import COMPILER, compile_library

BOUNDARIES = ("wall", "board_input", "module", "package", "rail")
SIMULATED = ("virtual", "virtual_reference")
FIELDS = {
    "rate_hz": float, "update_s": float, "window_s": float, "step_w": float, "noise_w": float,
    "gain_uncertainty": float, "counts_energy": bool, "boundary": str, "rail": str, "rails": list, "total": list,
    "includes": str, "clock": str,
}  # fmt: skip

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sysfs, capabilities and /proc are Linux's"),
]
NEEDS_NVML = pytest.mark.skipif(
    COMPILER is None or importlib.util.find_spec("pynvml") is None,
    reason="no C compiler for the stand-in driver library, or no pynvml (nvidia-ml-py)",
)


def named(sources: Iterable[str]) -> list[object]:
    return [pytest.param(name, marks=NEEDS_NVML if name == "nvml" else ()) for name in sources]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SamplerProcess]:
    """One sampler process, which finds the stand-ins for the driver library and smbus2."""
    folder = tmp_path_factory.mktemp("edge")
    with pytest.MonkeyPatch.context() as patch:
        if COMPILER is not None:
            patch.setenv("LD_LIBRARY_PATH", str(compile_library(folder)))
        patch.setenv("NVML_FOLDER", str(folder / "nvml"))
        patch.setenv("SMBUS_REGISTERS", str(folder / "registers.json"))
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1] / "fakes" / "i2c"))
        sampler = SamplerProcess()
        yield sampler
        sampler.stop()


@pytest.fixture
def source(request: pytest.FixtureRequest, process: SamplerProcess, tmp_path: Path) -> Iterator[Source]:
    found = SOURCES[request.param](tmp_path)
    found.start()
    yield found
    process.close()
    found.stop()


def test_every_sensor_has_a_source_here() -> None:
    assert {source.sensor for source in SOURCES.values()} == set(SENSORS)


@pytest.mark.parametrize("source", named(SOURCES), indirect=True)
def test_it_says_what_it_measures(process: SamplerProcess, source: Source) -> None:
    seen = process.open(source.sensor, source.options)
    assert {name for name in FIELDS if not isinstance(seen.get(name), FIELDS[name])} == set()
    json.dumps(seen, allow_nan=False)
    assert seen["rate_hz"] > 0.0
    assert 0.0 < seen["update_s"] < 60.0
    assert seen["window_s"] >= 0.0
    assert seen["step_w"] > 0.0
    assert seen["noise_w"] >= 0.0
    assert 0.0 < seen["gain_uncertainty"] < 1.0
    assert seen["boundary"] in BOUNDARIES
    assert seen["clock"] == ("sensor" if source.sensor in SIMULATED else clock_domain())
    assert len(set(seen["rails"])) == len(seen["rails"]) > 0
    assert seen["total"]
    assert set(seen["total"]) <= set(seen["rails"])
    assert len(seen["includes"]) > 10
    # A sampler that asks less often than new values come reads none twice.
    assert seen["counts_energy"] or seen["rate_hz"] * seen["update_s"] < 2.01


@pytest.mark.parametrize("source", named(SOURCES), indirect=True)
def test_its_samples_are_true_and_in_order(process: SamplerProcess, source: Source) -> None:
    before_s = now_s()
    described = process.open(source.sensor, source.options)
    samples = process.samples(4)
    times_s = [sample[0] for sample in samples]
    assert times_s == sorted(set(times_s))
    if described["clock"] == clock_domain():
        assert before_s <= times_s[0]
        assert times_s[-1] <= now_s()
    assert {len(sample) for sample in samples} == {3 if described["counts_energy"] else 2}
    if described["counts_energy"]:
        (first_s, _, first_j), (last_s, _, last_j) = samples[0], samples[-1]
        assert (last_j - first_j) / (last_s - first_s) == pytest.approx(source.true_w, rel=source.tolerance)
    else:
        mean_w = sum(watts for _, watts in samples) / len(samples)
        assert mean_w == pytest.approx(source.true_w, rel=source.tolerance)


@pytest.mark.parametrize("source", named(SOURCES), indirect=True)
def test_probe_says_whether_a_value_can_be_read(process: SamplerProcess, source: Source) -> None:
    assert process.probe(source.sensor, source.options)["state"] == "ok"
    if source.sensor in SIMULATED:
        return  # the simulated board always brings its meters
    nowhere = process.probe(source.sensor, source.nowhere)
    assert nowhere["state"] == "absent"
    assert nowhere["reason"]
    assert nowhere["fix"]


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        pytest.param(name, fault, marks=NEEDS_NVML if name == "nvml" else ())
        for name, faults in FAULTS.items()
        for fault in faults
    ],
    indirect=["source"],
)
def test_a_fault_is_named_and_never_a_number(process: SamplerProcess, source: Source, fault: str) -> None:
    happening = source.faults()[fault]
    process.open(source.sensor, source.options)
    process.samples(2)
    happening.happen()
    if happening.named is not None:
        samples, problem = process.until_problem()
        assert happening.named in problem
        assert all(0.2 * source.true_w < sample[1] < 5.0 * source.true_w for sample in samples)
        assert process.drain() == ([], problem)  # it stays one
    process.close()
    probed = process.probe(source.sensor, source.options)
    if happening.left_out is not None:
        assert probed["state"] == "ok"
        assert happening.left_out in probed["reason"]
        return
    assert probed["state"] == ("denied" if fault == "denied" else "absent"), probed
    assert probed["reason"]
    assert probed["fix"]
    if fault == "denied":
        assert "sudo" in probed["fix"] or "give the user" in probed["fix"]


def test_every_fault_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVML_FOLDER", str(tmp_path / "nvml"))
    monkeypatch.setenv("SMBUS_REGISTERS", str(tmp_path / "registers.json"))
    for name, source in SOURCES.items():
        folder = tmp_path / name
        folder.mkdir()
        made = source(folder)
        assert set(made.faults()) == set(FAULTS.get(name, ())), name
        made.stop()


@pytest.mark.parametrize("source", named(SOURCES), indirect=True)
def test_one_that_stands_still_is_called_stale(process: SamplerProcess, source: Source) -> None:
    """By the sensor, by having no samples (which the trace finds), or by the trace of one value for ever."""
    described = process.open(source.sensor, source.options)
    process.samples(2)
    source.stop()
    if source.stale == "raises":
        _, problem = process.until_problem()
        assert "stale" in problem
    elif source.stale == "silent":
        time.sleep(3.0 / described["rate_hz"])  # its last change is still one
        process.drain()
        time.sleep(5.0 / described["rate_hz"])
        assert process.drain() == ([], None)
    else:
        watts = process.samples(1)[-1][1]
        assert watts == pytest.approx(source.true_w, rel=source.tolerance)
        overlap = max(1.0, described["window_s"] * described["rate_hz"])
        times_s = [i / described["rate_hz"] for i in range(math.ceil(40 * overlap))]
        curve = PowerCurve({"times_s": times_s, "power_w": [watts] * len(times_s)}, described, None)
        assert "stale sensor: the same value" in str(curve.problem(times_s[0], times_s[-1]))


@pytest.mark.parametrize("source", named(name for name in SOURCES if name not in SIMULATED), indirect=True)
def test_close_leaves_nothing_behind(process: SamplerProcess, source: Source) -> None:
    process.open(source.sensor, source.options)  # what a first use imports and loads stays loaded
    process.close()
    files, children = process.held()
    assert children == []
    process.open(source.sensor, source.options)
    process.samples(1)
    _, started = process.held()
    process.close()
    assert process.held() == (files, [])
    assert [pid for pid in started if exists(pid)] == []


@pytest.mark.parametrize("name", SIMULATED)
def test_the_simulated_meter_closes_its_timeline(tmp_path: Path, name: str) -> None:
    source = SOURCES[name](tmp_path)
    held = sorted(os.listdir("/proc/self/fd"))
    sensor = make_sensor(source.sensor, source.options)
    sensor.open()
    source.tick()
    assert sensor.poll()
    sensor.close()
    assert sorted(os.listdir("/proc/self/fd")) == held
    source.stop()
