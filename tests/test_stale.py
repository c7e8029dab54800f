"""A source that stands still midway is found and named; an honest one that is coarse is left alone.

First traces made up from known truth; then the agent's own sampler process on trees of kernel files and a program that
stand still while the load goes on, through the verdict.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents.child import Child
from device_agents.protocol import now_s
from device_agents.trace import LiveTrace
from rig.quality import power
from rig.quality.power import PowerCurve, UnusableTrace
from rig.quality.verdict import assess
from tests.contracts.sources import PMIC, put, script
from tests.synthetic_records import synthetic_record

Trace = dict[str, Any]


def unknown(**fields: Any) -> Trace:
    """A record of a source that says nothing of its noise, as INA and PMIC do."""
    record = synthetic_record(**fields)
    record["sensor"]["noise_w"] = 0.0
    return record


def hold(record: Trace, first: int, last: int) -> Trace:
    watts = record["trace"]["power_w"]
    watts[first:last] = [watts[first]] * (last - first)
    return record


def reason_of(record: Trace) -> str:
    return assess(record).reason or ""


@pytest.mark.parametrize("step_w", [0.00125, 0.01, 0.02])
@pytest.mark.parametrize(("first", "last"), [(20, 190), (500, 700), (1100, 1640)])
def test_a_freeze_midway_is_found_where_noise_was_there_before(step_w: float, first: int, last: int) -> None:
    """While waiting, in the middle of the windows, and from the windows to the end."""
    record = unknown(step_w=step_w, noise_w=0.02)
    assert reason_of(record) == ""
    assert "stale sensor: the same value" in reason_of(hold(record, first, last))


def test_two_freezes_do_not_excuse_each_other() -> None:
    record = hold(hold(unknown(noise_w=0.02), 400, 700), 900, 1200)
    assert "with a noise of 0.0" in reason_of(record)


@pytest.mark.parametrize("step_w", [0.1, 0.4])
def test_without_noise_the_end_of_the_load_tells(step_w: float) -> None:
    record = unknown(step_w=step_w, noise_w=0.0)
    assert reason_of(record) == ""
    said = reason_of(hold(record, 900, len(record["trace"]["power_w"])))
    assert "although the load ended, which moved it by" in said


def test_without_noise_the_beginning_of_the_load_tells() -> None:
    record = unknown(step_w=0.4, noise_w=0.0)
    assert "although the load began, which moved it by" in reason_of(hold(record, 0, 700))


@pytest.mark.parametrize(("step_w", "told"), [(0.01, True), (0.4, False)])
def test_a_source_that_never_saw_the_load_is_believed_only_where_it_is_coarse(step_w: float, told: bool) -> None:
    """To and fro at first, then one value for the whole of the load and after it: a weak load may be below a step."""
    record = unknown(step_w=step_w, noise_w=0.0)
    watts = record["trace"]["power_w"]
    watts[:] = [2.8, 2.8 + step_w] * 10 + [2.8] * (len(watts) - 20)
    assert ("although the load began and ended meanwhile" in reason_of(record)) == told


def test_a_freeze_between_two_edges_of_a_source_without_noise_cannot_be_told() -> None:
    record = unknown(step_w=0.4, noise_w=0.0)
    assert reason_of(hold(record, 600, 900)) == ""


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0])
def test_honest_sources_are_left_alone(noise: float) -> None:
    """Coarse steps on a level that drifts through some of them, noise in steps: none of 60 traces is refused."""
    draw = np.random.default_rng(int(100 * noise))
    for _ in range(60):
        step_w = float(draw.choice([0.02, 0.1, 0.4]))
        times = np.arange(0.0, 16.0, 0.01)
        on = (times > 2.0) & (times < 14.0)
        level = 3.0 + draw.random() * step_w + 2.0 * on * (1.0 - np.exp(-(times - 2.0) / 0.01))
        level += step_w * draw.choice([0.0, 0.5, 3.0]) * (times / 16.0)
        # Interruptions of the load, and noise whose neighbours are alike.
        for begin in draw.uniform(2.0, 14.0, 40):
            level[(times > begin) & (times < begin + draw.exponential(0.005)) & on] -= 0.4
        white = draw.standard_normal(len(times) + 3)
        alike = np.convolve(white, np.ones(4) / 2.0, mode="valid") if draw.random() < 0.5 else white[3:]
        watts = np.round((level + noise * step_w * alike) / step_w) * step_w
        sensor = {"step_w": step_w, "noise_w": 0.0, "window_s": float(draw.choice([0.005, 0.04]))}
        curve = PowerCurve({"times_s": times.tolist(), "power_w": watts.tolist()}, sensor, None)
        assert curve.problem(0.5, 15.5, load=(2.0, 14.0)) is None


def test_values_that_are_held_between_updates_are_honest() -> None:
    draw = np.random.default_rng(4)
    times = np.arange(0.0, 16.0, 0.01)
    new = 3.0 + 2.0 * ((times > 10.0) & (times < 15.0)) + 0.02 * np.repeat(draw.standard_normal(160), 10)
    trace = {"times_s": times.tolist(), "power_w": np.round(new, 3).tolist()}
    curve = PowerCurve(trace, {"step_w": 0.001, "noise_w": 0.0, "window_s": 0.01}, None)
    assert curve.problem(0.0, 16.0, load=(10.0, 15.0)) is None
    trace["power_w"][1100:1300] = [trace["power_w"][1100]] * 200
    frozen = PowerCurve(trace, {"step_w": 0.001, "noise_w": 0.0, "window_s": 0.01}, None)
    assert "stale sensor: the same value" in str(frozen.problem(0.0, 16.0, load=(10.0, 15.0)))


def test_the_unrest_of_a_paced_load_is_no_noise() -> None:
    """Frames that come at once now and then: runs of busy readings, and none of the source's own noise."""
    draw = np.random.default_rng(2)
    times = np.arange(0.0, 16.0, 0.01)
    on = (times > 2.0) & (times < 14.0)
    watts = np.where(on & (draw.random(len(times)) < 0.5), 4.8 - 0.4 * draw.integers(0, 3, len(times)), 3.0)
    watts[700:760] = 4.8
    trace = {"times_s": times.tolist(), "power_w": watts.tolist()}
    curve = PowerCurve(trace, {"step_w": 0.07, "noise_w": 0.0, "window_s": 0.01}, None)
    assert curve.problem(0.0, 16.0, load=(2.0, 14.0)) is None


@pytest.mark.parametrize(
    ("fps", "active_j", "step_w"), [(2.0, 0.010, 0.05), (2.0, 0.010, 0.02), (0.5, 0.03, 0.02), (1.0, 0.0005, 0.00125)]
)
def test_a_paced_load_that_is_weaker_than_a_step_is_believed(fps: float, active_j: float, step_w: float) -> None:
    """A source without noise, in steps of 2 % of its reading and less, rightly shows one value all the time."""
    plan = {"fps": fps, "window_s": 2.0}
    record = unknown(fps=fps, latency_s=0.004, active_j=active_j, step_w=step_w, noise_w=0.0, window_s=2.0, plan=plan)
    record["trace"]["power_w"] = [2.9] * len(record["trace"]["power_w"])
    assert "stale" not in reason_of(record)
    record["sensor"]["noise_w"] = 2.0 * step_w  # of a source that is never still it is not believed
    assert "stale sensor: the same value" in reason_of(record)


def test_a_paced_load_that_a_source_should_have_seen_is_not() -> None:
    record = unknown(fps=50.0, step_w=0.01, noise_w=0.0)
    record["trace"]["power_w"] = [2.9] * len(record["trace"]["power_w"])
    assert "although the load began and ended meanwhile" in reason_of(record)


@pytest.mark.parametrize("noise_w", [0.08, 0.3])
def test_noise_that_was_measured_before_is_not_trusted_alone(noise_w: float) -> None:
    """The doctor saw noise that the source does not show today: two honest levels, few runs to tell by."""
    record = synthetic_record(step_w=0.1, noise_w=0.0, window_sd=0.0)
    record["sensor"]["noise_w"] = noise_w
    assert "stale" not in reason_of(record)


@pytest.mark.parametrize(("first", "last"), [(245, 1510), (1100, 1640)])
def test_noise_that_was_measured_before_and_shows_is_trusted(first: int, last: int) -> None:
    """Once no other run is under load at all; the waiting board shows the noise."""
    record = synthetic_record(step_w=0.02, noise_w=0.02)
    assert reason_of(record) == ""
    assert "stale sensor: the same value" in reason_of(hold(record, first, last))


def test_repeated_time_stamps_are_named() -> None:
    times = [0.1 * i for i in range(20)]
    with pytest.raises(UnusableTrace, match="stale sensor: 5 samples repeat the time stamp"):
        PowerCurve({"times_s": times[:10] + [times[9]] * 5 + times[10:], "power_w": [3.0] * 25}, None, None)


# --- the real sampler on trees that stand still ---------------------------------------------------------------------

QUIET_S, LOAD_S = 1.6, 3.2
SHOWN_EVERY_S = 0.004


class Scene:
    """A source at its physical edge whose watts follow a load that is played, until it freezes."""

    frozen_s = (0.0, 0.0)  # since the load began
    source = "ina2xx"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options: dict[str, Any] = {}
        self.draw = np.random.default_rng(5)

    def show(self, watts: float) -> None:
        raise NotImplementedError

    def play(self, begin_s: float, end_s: float) -> None:
        """Quiet, load, quiet; ``begin_s`` of the load on the agent's clock."""
        while now_s() < end_s:
            since_s = now_s() - begin_s
            if not self.frozen_s[0] <= since_s < self.frozen_s[1]:
                self.show(5.0 if 0.0 <= since_s < LOAD_S else 3.0)
            time.sleep(SHOWN_EVERY_S)


class Ina226(Scene):
    """Noise of some steps; freezes under load and thaws again before its end."""

    frozen_s = (1.6, 3.0)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.chip = folder / "hwmon0"
        texts = {"name": "ina226", "in0_input": "2", "in1_input": "5100", "shunt_resistor": "2000"}
        for name, text in {**texts, "update_interval": "6"}.items():
            put(self.chip / name, text + "\n")
        self.show(3.0)
        self.options = {"root": str(folder), "iio_root": str(folder / "none")}

    def show(self, watts: float) -> None:
        steps = round((watts + 0.08 * self.draw.standard_normal()) / 0.03125)  # 25 times the current's step
        put(self.chip / "curr1_input", f"{round(1000 * steps * 0.03125 / 5.1)}\n")
        put(self.chip / "power1_input", f"{steps * 31250}\n")


class Ina3221(Scene):
    """A Jetson's input rail without noise, in steps of 0.04 W; freezes under load for good."""

    source = "ina3221"
    frozen_s = (1.6, 60.0)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.chip = folder / "ina3221/1-0040/hwmon/hwmon3"
        for name, text in {"in1_label": "VDD_IN", "in1_input": "5000", "shunt1_resistor": "5000"}.items():
            put(self.chip / name, text + "\n")
        self.show(3.0)
        self.options = {"root": str(folder)}

    def show(self, watts: float) -> None:
        put(self.chip / "curr1_input", f"{8 * round(watts / 5.0 / 0.008)}\n")


class Pmic(Scene):
    """A Raspberry Pi 5's PMIC by a program that says the same from the first second of the load on."""

    source = "pmic"
    frozen_s = (1.2, 60.0)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        put(folder / "says", PMIC)
        self.options = {"command": script(folder / "vcgencmd", 'exec cat "${0%/*}/says"')}

    def show(self, watts: float) -> None:
        amperes = 6.0 * watts / 5.0 + 0.00893 * int(self.draw.integers(0, 2))
        put(self.folder / "says", PMIC.replace("=6.22421000A", f"={amperes:.8f}A"))


def recorded(scene: Scene, found: dict[str, Trace]) -> None:
    """One scene through the real sampler process, as the record of a measurement."""
    child = Child("sampler", [sys.executable, "-m", "device_agents", "sampler"])
    live = LiveTrace(child, scene.source, scene.options)
    try:
        first_s = now_s() + 0.3
        begin_s, end_s = first_s + QUIET_S, first_s + QUIET_S + LOAD_S
        last_s = end_s + QUIET_S
        scene.play(begin_s, last_s + 0.4)
        live.drain()
        live.check_covers(first_s, last_s)
        edges = [first_s, begin_s, begin_s + 0.2, *(begin_s + 0.2 + 0.25 * i for i in range(1, 13)), last_s]
        names = ["quiet_before", "warmup", *["window"] * 12, "quiet_after"]
        phases = [phase(name, *pair) for name, pair in zip(names, pairwise(edges), strict=True)]
        record = synthetic_record(plan={"window_s": 0.25, "rel_ci": 0.5})
        record.update(phases=phases, trace=live.to_json(), trace_problem=live.problem, kind="measured")
        clock = live.clock_map(first_s)
        record.update(sensor={**live.description, "name": scene.source}, clock=clock and clock.to_json())
        found[scene.source] = record
    finally:
        live.close()
        child.stop()


def phase(name: str, t0_s: float, t1_s: float) -> Mapping[str, Any]:
    count = 0 if name.startswith("quiet") else 100
    mean_s = (t1_s - t0_s) / count if count else None
    facts = {"missed": 0, "temp_c": 50.0, "throttled": [], "freq_hz": None}
    return {
        "name": name,
        "t0_s": t0_s,
        "t1_s": t1_s,
        "count": count,
        "latency_s": [],
        "latency_mean_s": mean_s,
        **facts,
    }


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Trace]]:
    """Source → its record, once as it freezes and once as it does not; all of them at the same time."""
    found: dict[str, dict[str, Trace]] = {"frozen": {}, "honest": {}}
    threads = []
    kinds: list[Callable[[Path], Scene]] = [Ina226, Ina3221, Pmic]
    for how, records in found.items():
        for kind in kinds:
            scene = kind(tmp_path_factory.mktemp(f"{how}-{kind.__name__}"))  # type: ignore[attr-defined]
            if how == "honest":
                scene.frozen_s = (0.0, 0.0)
            threads.append(threading.Thread(target=recorded, args=(scene, records)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests leaves gaps in a trace, which are not what is looked for here."""
    monkeypatch.setattr(power, "GAP_PERIODS", 200.0)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("ina2xx", "with a noise of"),
        ("ina3221", "although the load ended"),
        ("pmic", "although the load ended"),
    ],
)
def test_a_tree_that_freezes_midway_is_called_stale(
    records: dict[str, dict[str, Trace]], source: str, words: str
) -> None:
    said = reason_of(records["frozen"][source])
    assert "stale sensor: the same value" in said
    assert words in said


@pytest.mark.parametrize("source", ["ina2xx", "ina3221", "pmic"])
def test_the_same_tree_that_goes_on_is_not(records: dict[str, dict[str, Trace]], source: str) -> None:
    assert "stale" not in reason_of(records["honest"][source])
