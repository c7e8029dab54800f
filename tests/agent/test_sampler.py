"""The sampler: ticks at absolute times, missed ones counted, answers bounded; what it costs in a real process."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents import sampler as sampler_module
from device_agents.child import Child
from device_agents.protocol import AgentError, clock_domain
from device_agents.sampler import MOST_SAMPLES, Sampler
from device_agents.trace import LiveTrace


class SlowSensor:
    """A chip on a clock of the test's; ``slow_s`` is how long the next readings take."""

    def __init__(self, clock: list[float]) -> None:
        self.clock, self.slow_s = clock, [0.0]

    def probe(self) -> tuple[str, str, str]:
        return "ok", "", ""

    def describe(self) -> dict[str, Any]:
        return {"rate_hz": 100.0, "window_s": 0.01, "clock": clock_domain(), "rail": "r", "boundary": "rail"}

    def open(self) -> None: ...

    def close(self) -> None: ...

    def poll(self) -> list[tuple[float, float]]:
        self.clock[0] += self.slow_s.pop() if len(self.slow_s) > 1 else self.slow_s[0]
        return [(self.clock[0], 3.0)]


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> tuple[Sampler, SlowSensor, list[float]]:
    """An open sampler whose clock is a list with one number."""
    clock = [100.0]
    sensor = SlowSensor(clock)
    monkeypatch.setattr(sampler_module, "make_sensor", lambda name, options: sensor)
    monkeypatch.setattr(sampler_module, "now_s", lambda: clock[0])
    opened = Sampler()
    opened.open({"name": "slow", "options": {}})
    return opened, sensor, clock


def run_until(sampling: Sampler, clock: list[float], end_s: float) -> None:
    """What the serving loop does: call idle, wait as long as it says."""
    while clock[0] < end_s:
        clock[0] += (sampling.idle() or 0.0) + 1e-7


def test_ticks_do_not_drift_and_none_is_missed(sampling: tuple[Sampler, SlowSensor, list[float]]) -> None:
    opened, sensor, clock = sampling
    sensor.slow_s = [0.004]
    run_until(opened, clock, 101.0)
    answer = opened.drain({})
    assert len(answer["samples"]) == 100
    assert answer["missed"] == 0
    assert answer["samples"][-1][0] == pytest.approx(100.994, abs=1e-3)


def test_a_tick_whose_successor_has_come_is_counted_as_missed(
    sampling: tuple[Sampler, SlowSensor, list[float]],
) -> None:
    opened, sensor, clock = sampling
    sensor.slow_s = [0.001, 0.035]
    run_until(opened, clock, 100.5)
    answer = opened.drain({})
    assert answer["missed"] == 3
    assert len(answer["samples"]) == 47
    clock[0] += 0.0255
    opened.idle()
    assert opened.drain({})["latest_s"] == pytest.approx(0.0255, abs=1e-3)


class Chip(SlowSensor):
    """A chip that converts every 6.5 ms and tells when the next conversion can be read at the earliest."""

    ready_s = 0.0

    def poll(self) -> list[tuple[float, float]]:
        if self.clock[0] < self.ready_s:
            return []
        samples = super().poll()
        self.ready_s = self.clock[0] + 1.1 * 0.0065
        return samples


def test_a_late_reading_costs_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a period late, the chip has nothing new at the next tick: it is waited for, and every tick is served."""
    clock = [100.0]
    sensor = Chip(clock)
    monkeypatch.setattr(sampler_module, "make_sensor", lambda name, options: sensor)
    monkeypatch.setattr(sampler_module, "now_s", lambda: clock[0])
    opened = Sampler()
    opened.open({"name": "chip", "options": {}})
    sensor.slow_s = [0.0005, 0.0005, 0.0005, 0.009, 0.0005]
    run_until(opened, clock, 101.0)
    answer = opened.drain({})
    stamps = [sample[0] for sample in answer["samples"]]
    assert answer["missed"] == 0
    assert len(stamps) == 100
    assert np.diff(stamps).max() < 0.02
    assert stamps[-1] == pytest.approx(100.9905, abs=1e-3), "it has caught up with the ticks"


@pytest.mark.parametrize(
    ("method", "error", "words"),
    [
        ("describe", OSError(5, "Input/output error"), "Input/output error"),
        ("describe", ValueError("in1_input holds 'x'"), "in1_input holds 'x'"),
        ("open", OSError(121, "Remote I/O error"), "Remote I/O error"),
    ],
)
def test_a_source_that_breaks_as_it_is_opened_is_named_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, words: str
) -> None:
    sensor = SlowSensor([100.0])
    states = [("ok", "", ""), ("absent", "the chip does not answer", "i2cdetect -y 1")]
    closed = []

    def broken() -> None:
        raise error

    monkeypatch.setattr(sensor, method, broken)
    monkeypatch.setattr(sensor, "probe", lambda: states.pop(0))
    monkeypatch.setattr(sensor, "close", lambda: closed.append(True))
    monkeypatch.setattr(sampler_module, "make_sensor", lambda name, options: sensor)
    sampler = Sampler()
    with pytest.raises(AgentError) as caught:
        sampler.open({"name": "slow", "options": {}})
    assert caught.value.code == "no-sensor"
    assert "power source slow broke as it was opened" in caught.value.message
    assert words in caught.value.message
    assert "the chip does not answer" in caught.value.message
    assert caught.value.fix == "i2cdetect -y 1"
    assert closed == [True]
    assert sampler.idle() is None, "nothing is polled"


def test_a_source_that_breaks_and_then_looks_well_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = SlowSensor([100.0])

    def broken() -> None:
        raise OSError("gone")

    monkeypatch.setattr(sensor, "describe", broken)
    monkeypatch.setattr(sampler_module, "make_sensor", lambda name, options: sensor)
    with pytest.raises(AgentError, match="gone") as caught:
        Sampler().open({"name": "slow", "options": {}})
    assert "rig doctor" in caught.value.fix


def test_a_simulated_source_that_lost_its_board_is_named_too(tmp_path: Path) -> None:
    """It stays open between measurements: opening it again is where it breaks."""
    from device_agents.virtual_board.board import VirtualBoard
    from device_agents.virtual_board.physics import BoardModel

    path = tmp_path / "timeline.jsonl"
    with path.open("w") as timeline:
        VirtualBoard(BoardModel.load("pi4"), 0, timeline).idle(1.0)
    asked = {"name": "virtual", "options": {"timeline": str(path)}}
    sampler = Sampler()
    sampler.open(asked)
    path.unlink()
    with pytest.raises(AgentError, match="has not been started"):
        sampler.open(asked)
    with pytest.raises(AgentError, match="has not been started"):
        sampler.open(asked)


def test_comparing_clocks_misses_nothing(sampling: tuple[Sampler, SlowSensor, list[float]]) -> None:
    opened, sensor, clock = sampling

    def exchange() -> tuple[float, float, float, float]:
        clock[0] += 0.02
        return clock[0] - 0.02, 1.0, 1.0, clock[0]

    sensor.clock_exchange = exchange  # type: ignore[attr-defined]
    opened.clock({"count": 8})
    opened.idle()
    assert opened.drain({})["missed"] == 0


def test_answers_are_bounded_and_nothing_is_lost(sampling: tuple[Sampler, SlowSensor, list[float]]) -> None:
    opened, _, clock = sampling
    run_until(opened, clock, 99.995 + 0.01 * (2 * MOST_SAMPLES + 10))
    answers = [opened.drain({}) for _ in range(3)]
    assert [answer["more"] for answer in answers] == [True, True, False]
    assert len(answers[0]["samples"]) == MOST_SAMPLES
    stamps = [sample[0] for answer in answers for sample in answer["samples"]]
    assert stamps == sorted(stamps)
    assert len(stamps) == 2 * MOST_SAMPLES + 10


@pytest.fixture
def process() -> Iterator[Child]:
    child = Child("sampler", [sys.executable, "-I", "-c", _MAIN % str(Path(sampler_module.__file__).parents[1])])
    yield child
    child.stop()


_MAIN = "import sys; sys.path.insert(0, %r); from device_agents.sampler import main; main()"


@pytest.mark.alone
def test_a_real_sampler_process_is_cheap_and_regular(tmp_path: Path, process: Child) -> None:
    """The opt-in figures are benchmarks/sampler.py's; this catches a sampler that became heavy or irregular."""
    folder = tmp_path / "hwmon0"
    folder.mkdir()
    texts = {"name": "ina226", "in1_input": "5104", "curr1_input": "1017", "power1_input": "5190000"}
    for name, text in {**texts, "shunt_resistor": "2000", "update_interval": "6"}.items():
        (folder / name).write_text(text + "\n", encoding="ascii")
    live = LiveTrace(process, "ina2xx", {"root": str(tmp_path), "iio_root": str(tmp_path / "none")})
    time.sleep(1.0)
    live.drain()
    assert live.problem is None
    stamps = np.asarray((live.to_json() or {})["times_s"])
    assert len(stamps) > 60  # of 103 on an idle machine; tests share theirs
    assert live.sampling()["samples"] == len(stamps)
    assert float(np.median(np.abs(np.diff(stamps) - live.period_s))) < 1e-3
    usage = process.ask({"op": "usage"}, 10.0)
    assert usage["rss_bytes"] < 30e6
    live.close()


def test_the_sampler_imports_no_more_than_it_needs() -> None:
    """Memory and start-up of the sampler are its imports."""
    names = ["numpy", "asyncio", "http", "email", "socket", "unittest", "sqlite3", "hashlib", "logging"]
    code = (
        f"import sys, json; import device_agents.sampler; print(json.dumps([n for n in {names} if n in sys.modules]))"
    )
    import subprocess

    root = Path(sampler_module.__file__).parents[1]
    seen = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=root,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert json.loads(seen.stdout) == []


def test_what_the_benchmark_counts_as_lost() -> None:
    """By the time stamps: ticks without a sample; of a counter nothing; a late reading overwrites conversions."""
    import importlib.util

    path = Path(sampler_module.__file__).parents[1] / "benchmarks/sampler.py"
    spec = importlib.util.spec_from_file_location("sampler_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    chip = {"counts_energy": False, "update_s": 0.0065}
    stamps = 50.0 + 0.01 * np.arange(100)
    assert benchmark.losses(stamps, 0.01, chip) == {"without_sample": 0, "overwritten": 0, "lost": 0}
    late = stamps.copy()
    late[40] += 0.008
    assert benchmark.losses(late, 0.01, chip) == {"without_sample": 0, "overwritten": 1, "lost": 0}
    gone = np.delete(stamps, [60, 61])
    assert benchmark.losses(gone, 0.01, chip) == {"without_sample": 2, "overwritten": 3, "lost": 2}
    counter = {"counts_energy": True, "update_s": 0.001}
    assert benchmark.losses(gone, 0.01, counter) == {"without_sample": 2, "overwritten": 0, "lost": 0}
