"""The NVML sensor through the real pynvml, on a driver library compiled here; no GPU is needed.

pynvml loads ``libnvidia-ml.so.1`` by the loader's search path, so each test runs the sensor in a process of its own
with that path set. The library does what environment variables say at each call: a value, or minus an NVML error code.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agents.protocol import AgentError
from device_agents.sensors.nvml import Sensor
from tests.fakes.nvml_library import (
    COMPILER,
    DRIVER_NOT_LOADED,
    LOST,
    MISMATCH,
    NO_PERMISSION,
    NOT_SUPPORTED,
    UNKNOWN,
    compile_library,
)

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc, gcc, clang) to build the stand-in driver library"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the library is found by LD_LIBRARY_PATH"),
    pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="pynvml (nvidia-ml-py) is not installed"),
]

PRELUDE = """
import ctypes, json, os, time
from device_agents.protocol import AgentError
from device_agents.sensors import nvml
out = {}
def refusal(call):
    try:
        return repr(call())
    except AgentError as error:
        return [error.code, error.message, error.fix]
def tick(sensor, seconds, **values):  # after a time by the sensor's clock, the library gives other values
    clock[0] += seconds
    os.environ.update({name: str(value) for name, value in values.items()})
    return sensor.poll()
def stop_time():
    nvml.now_s = lambda: clock[0]
clock = [100.0]
"""

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def run(library: Path) -> Run:
    """``run(code, folder=library, ENERGY=..., ...)``: what the code left in ``out``."""

    def in_process(code: str, folder: Path = library, **values: object) -> Any:
        environment = {name: str(value) for name, value in values.items()}
        environment.update(PATH=os.environ["PATH"], PYTHONPATH=str(ROOT), LD_LIBRARY_PATH=str(folder))
        done = subprocess.run(
            [sys.executable, "-c", f"{PRELUDE}\n{code}\nprint(json.dumps(out))"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return in_process


PROBE = "out = nvml.Sensor({}).probe()"


def test_energy_counter_by_the_real_clock(run: Run) -> None:
    code = """
sensor = nvml.Sensor({})
out = {"probe": sensor.probe(), "samples": []}
sensor.open()
out["describe"] = sensor.describe()
for _ in range(60):
    out["samples"] += sensor.poll()
    time.sleep(0.02)
sensor.close()
out["still open"] = ctypes.CDLL("libnvidia-ml.so.1").fake_opened()
"""
    seen = run(code, ENERGY="clock")
    assert seen["probe"] == ["ok", "GPU 0 by method energy", ""]
    assert seen["still open"] == 0
    assert (seen["describe"]["boundary"], seen["describe"]["rail"]) == ("module", "gpu0")
    samples = seen["samples"]
    counters_j = [sample[2] for sample in samples]
    assert len(samples) >= 4
    assert counters_j == sorted(set(counters_j))  # no step twice
    (first_s, _, first_j), (last_s, _, last_j) = samples[0], samples[-1]
    assert first_j >= 5.0
    assert (last_j - first_j) / (last_s - first_s) == pytest.approx(50.0, rel=0.3)


def test_energy_is_reported_when_the_counter_moves_and_from_its_first_step(run: Run) -> None:
    code = """
stop_time()
sensor = nvml.Sensor({})
sensor.open()
out = [
    tick(sensor, 0.02, ENERGY=7000),   # not moved
    tick(sensor, 0.02, ENERGY=9000),   # the first step, of which only a part was seen
    tick(sensor, 0.08),
    tick(sensor, 0.02, ENERGY=12000),  # 3 J in 0.1 s
    tick(sensor, 3.0, ENERGY=42000),   # after a gap: the last step is at most 0.1 s old
]
"""
    still, partial, waiting, [step], [late] = run(code, ENERGY=7000)
    assert still == partial == waiting == []
    assert step == pytest.approx([100.13, 30.0, 3.0])
    assert late == pytest.approx([103.09, 30.0 / 2.96, 33.0])


def test_instant_then_average_where_there_is_no_counter(run: Run) -> None:
    code = """
stop_time()
sensor = nvml.Sensor({})
sensor.open()
out = [sensor.probe()[1], sensor.describe()["window_s"]]
sensor.open()
out += tick(sensor, 0.1)
"""
    instant = run(code, ENERGY=NOT_SUPPORTED, INSTANT=61_500, AVERAGE=70_000, CAPABILITY=90)
    assert instant == ["GPU 0 by method instant", 0.1, pytest.approx([100.1, 61.5])]
    average = run(code, ENERGY=NOT_SUPPORTED, INSTANT=NOT_SUPPORTED, AVERAGE=70_000, CAPABILITY=90)
    assert average == ["GPU 0 by method average", 1.0, pytest.approx([100.1, 70.0])]


@pytest.mark.parametrize(("capability", "window_s"), [(75, 0.1), (80, 0.1), (86, 1.0), (120, 1.0)])
def test_the_average_is_over_a_second_from_ampere_on_but_not_on_ga100(
    run: Run, capability: int, window_s: float
) -> None:
    code = """
sensor = nvml.Sensor({"method": "average"})
sensor.open()
out = sensor.describe()
"""
    seen = run(code, ENERGY=1000, AVERAGE=5000, CAPABILITY=capability)
    assert (seen["window_s"], seen["rate_hz"]) == (window_s, 10.0)


def test_jetson_starts_and_supports_no_power_call(run: Run) -> None:
    state, reason, fix = run(PROBE, ENERGY=NOT_SUPPORTED, INSTANT=NOT_SUPPORTED, AVERAGE=NOT_SUPPORTED)
    assert state == "absent"
    assert "energy: Not Supported; instant: Not Supported; average: Not Supported" in reason
    assert "Jetson" in fix


def test_a_reading_of_zero_is_none(run: Run) -> None:
    assert run(PROBE, ENERGY=0, INSTANT=0, AVERAGE=0)[0] == "absent"
    assert run(PROBE, ENERGY=0, INSTANT=9000)[1] == "GPU 0 by method instant"


def test_a_method_that_is_asked_for_is_not_replaced(run: Run) -> None:
    state, reason, fix = run('out = nvml.Sensor({"method": "energy"}).probe()', AVERAGE=5000)
    assert (state, "instant" in reason) == ("absent", False)
    assert fix == "unset the option method: another one may work"


@pytest.mark.parametrize(
    ("values", "state", "reason", "fix"),
    [
        ({"INIT": DRIVER_NOT_LOADED}, "absent", "kernel driver is not loaded", "modprobe nvidia"),
        ({"INIT": MISMATCH}, "absent", "different versions", "reboot"),
        ({"INIT": NO_PERMISSION}, "denied", "does not let this user", "/dev/nvidia"),
        ({"INIT": UNKNOWN}, "absent", "Unknown Error", "nvidia-smi"),
        ({"ENERGY": NO_PERMISSION}, "denied", "GPU 0: the driver does not let this user", "/dev/nvidia"),
        ({"ENERGY": LOST}, "absent", "the GPU is lost", "dmesg"),
        ({"COUNT": 0}, "absent", "no GPU 0: NVML sees 0", "seated"),
    ],
)
def test_each_refusal_has_its_reason_and_fix(
    run: Run, values: dict[str, int], state: str, reason: str, fix: str
) -> None:
    seen = run(PROBE, **values)
    assert seen[0] == state
    assert reason in seen[1]
    assert fix in seen[2]


def test_index_out_of_range(run: Run) -> None:
    seen = run('out = nvml.Sensor({"index": 2}).probe()', COUNT=2, ENERGY=1000)
    assert seen == ["absent", "no GPU 2: NVML sees 2", "set the option index to one of 0 to 1"]


def test_no_pynvml_and_no_driver_library(run: Run, tmp_path: Path) -> None:
    state, reason, fix = run("import sys; sys.modules['pynvml'] = None; " + PROBE)
    assert (state, fix) == ("absent", "pip install nvidia-ml-py")
    assert "pynvml" in reason
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    state, reason, fix = run(PROBE, folder=tmp_path)
    assert (state, "libnvidia-ml.so.1" in reason, "install the NVIDIA driver" in fix) == ("absent", True, True)


@pytest.mark.parametrize("method", ["energy", "instant", "average"])
def test_a_gpu_lost_while_polling_is_an_error_not_a_number(run: Run, method: str) -> None:
    code = f"""
sensor = nvml.Sensor({{"method": "{method}"}})
sensor.open()
os.environ["LOST_AFTER"] = "2"
polls = [refusal(sensor.poll) for _ in range(4)]
out = [type(seen).__name__ for seen in polls] + polls[-1] + [refusal(sensor.throttle_reasons)[1]]
sensor.close()
"""
    seen = run(code, ENERGY=1000, INSTANT=1000, AVERAGE=1000, REASONS=4, CAPABILITY=86)
    assert seen[:5] == ["str", "str", "list", "list", "no-sensor"]
    assert "GPU 0: the GPU is lost" in seen[5]
    assert "dmesg" in seen[6]
    assert "the GPU is lost" in seen[7]


def test_a_counter_that_goes_back_is_an_error(run: Run) -> None:
    code = """
stop_time()
sensor = nvml.Sensor({})
sensor.open()
tick(sensor, 0.1, ENERGY=6000)
out = refusal(lambda: tick(sensor, 0.1, ENERGY=10))
"""
    assert "went back" in run(code, ENERGY=5000)[1]


THROTTLE = """
sensor = nvml.Sensor({})
sensor.open()
out = sensor.throttle_reasons()
"""


def test_throttle_reasons(run: Run) -> None:
    assert run(THROTTLE, ENERGY=1, REASONS=0x1 | 0x2 | 0x10 | 0x100) == []
    every = ["power-cap", "hw-slowdown", "sw-thermal", "hw-thermal", "power-brake"]
    assert run(THROTTLE, ENERGY=1, REASONS=0xFFF) == every
    assert run(THROTTLE, ENERGY=1, REASONS=NOT_SUPPORTED) == []


def test_throttle_reasons_of_an_older_driver(run: Run, tmp_path: Path) -> None:
    older = compile_library(tmp_path, "nvmlDeviceGetCurrentClocksThrottleReasons")
    assert run(THROTTLE, folder=older, ENERGY=1, REASONS=0x44) == ["power-cap", "hw-thermal"]


@pytest.mark.parametrize(
    "options",
    [
        {"index": -1},
        {"index": "0"},
        {"index": True},
        {"method": "enrgy"},
        {"scope": "rack"},
        {"scope": "memory", "method": "energy"},
    ],
)
def test_bad_options_are_named(options: dict[str, object]) -> None:
    with pytest.raises(AgentError, match=r"nvml: (index|no method|no scope)") as error:
        Sensor(options)
    assert error.value.code == "bad-request"


def test_the_module_around_a_card_has_a_scope_of_its_own(run: Run) -> None:
    code = """
stop_time()
sensor = nvml.Sensor({"scope": "module"})
out = [sensor.probe()[1]]
sensor.open()
out += tick(sensor, 0.1) + [sensor.describe()]
"""
    name, (_, watts), seen = run(code, ENERGY=1000, INSTANT=61_500, INSTANT_SCOPE_1=190_000)
    assert (name, watts) == ("GPU 0 by method instant", 190.0)
    assert (seen["rail"], seen["total"], seen["boundary"]) == ("gpu0/module", ["gpu0/module"], "module")
    assert seen["includes"].startswith("the module: GPU, processor")
    _, (_, watts), seen = run(code, INSTANT_SCOPE_1=NOT_SUPPORTED, AVERAGE_FIELD_SCOPE_1=180_000, CAPABILITY=90)
    assert (watts, seen["window_s"]) == (180.0, 1.0)
    absent = run('out = nvml.Sensor({"scope": "memory"}).probe()', ENERGY=1000, INSTANT=61_500)
    assert absent[0] == "absent"


def test_rails_are_the_cards_of_the_machine(run: Run) -> None:
    code = 'sensor = nvml.Sensor({"index": 1})\nsensor.open()\nout = sensor.describe()'
    seen = run(code, ENERGY=1000, COUNT=3)
    assert (seen["rails"], seen["total"], seen["counts_energy"]) == (["gpu0", "gpu1", "gpu2"], ["gpu1"], True)


def test_the_same_value_of_the_same_time_is_no_new_sample(run: Run) -> None:
    code = """
stop_time()
sensor = nvml.Sensor({"method": "instant"})
sensor.open()
out = [len(tick(sensor, 0.1)), len(tick(sensor, 0.1)), len(tick(sensor, 0.1, STAMP=200)), len(tick(sensor, 0.1))]
"""
    assert run(code, INSTANT=5000, STAMP=100) == [1, 0, 1, 0]
    assert run(code.replace(", STAMP=200", ""), INSTANT=5000) == [1, 1, 1, 1]  # a driver that stamps nothing


def test_temperature_and_clock(run: Run) -> None:
    code = "sensor = nvml.Sensor({})\nsensor.open()\nout = [sensor.temperature_c(), sensor.frequency_hz()]"
    assert run(code, ENERGY=1000, TEMPERATURE=71, CLOCK=1410) == [71.0, 1.41e9]
    assert run(code, ENERGY=1000) == [None, None]
