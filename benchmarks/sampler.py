"""What sampling power costs and whether it keeps up: the agent's own sampler process, idle and beside a full machine.

    python benchmarks/sampler.py [--minutes 10] [--source ina2xx|rapl] [--without-rights] [--out FILE]

Starts the sampler as the supervisor does (from the zipapp, isolated) on a made-up tree of kernel files, an INA226 read
at 100 Hz, and drains it once a second as a measurement does. Beside it ONNX Runtime infers back to back on every core.
Reported: its share of one core, resident memory, how far the spacing of samples is from the period and how late they
are against the ideal ticks, ticks that were missed, and samples that were lost (of a counter of energy none: the next
reading holds it). The files are real files in memory (tmpfs where there is one), so that the reading itself costs what
opening, reading and parsing cost, without the bus behind a real chip.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from device_agents.child import Child
from device_agents.trace import LiveTrace
from rig.connection.agent_bundle import build_bundle

LIMITS = {"core_share": 0.02, "resident_bytes": 30e6, "jitter_p99_s": 2e-3, "lost": 0}
DRAIN_S = 1.0

# One process a machine: as many threads as cores, back to back, as a runtime that measures a network has them.
LOAD = """
import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto, helper
weights = helper.make_tensor("w", TensorProto.FLOAT, [64, 64, 3, 3], np.full(64 * 64 * 9, 0.01, np.float32))
graph = helper.make_graph(
    [helper.make_node("Conv", ["x" if i == 0 else f"y{i - 1}", "w"], [f"y{i}"], pads=[1, 1, 1, 1]) for i in range(8)],
    "load",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 56, 56])],
    [helper.make_tensor_value_info("y7", TensorProto.FLOAT, [1, 64, 56, 56])],
    [weights],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
model.ir_version = 8
options = ort.SessionOptions()
options.intra_op_num_threads = %d
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
feed = {"x": np.full((1, 64, 56, 56), 1e-3, np.float32)}
session.run(None, feed)
print("ready", flush=True)
while True:
    session.run(None, feed)
"""


def ina_tree(root: Path) -> dict[str, Any]:
    """An INA226 as the ina2xx driver shows it, converting every 6 ms: the sensor then reads at 102.6 Hz."""
    folder = root / "hwmon0"
    folder.mkdir(parents=True)
    texts = {"name": "ina226", "in0_input": "2", "in1_input": "5104", "curr1_input": "1017", "power1_input": "5190000"}
    for name, text in {**texts, "shunt_resistor": "2000", "update_interval": "6"}.items():
        (folder / name).write_text(text + "\n", encoding="ascii")
    return {"root": str(root), "iio_root": str(root / "none")}


def rapl_tree(root: Path) -> dict[str, Any]:
    """One package zone; its sensor reads at 50 Hz."""
    folder = root / "intel-rapl:0"
    folder.mkdir(parents=True)
    texts = {"name": "package-0", "energy_uj": "123456789", "max_energy_range_uj": "262143328850"}
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="ascii")
    return {"root": str(root)}


# A control on each core, of higher priority than anything else here: where it is late too, the whole machine stood
# still (a virtual machine that its host suspends), and no process could have read anything. Prints boottime stamps.
CONTROL = """
import json, os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
try:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(50))
except OSError:
    sys.exit("no right to real-time scheduling")
stalls, tick_s = [], time.clock_gettime(7)
end_s = tick_s + float(sys.argv[2])
while tick_s < end_s:
    tick_s += 0.005
    time.sleep(max(0.0, tick_s - time.clock_gettime(7)))
    late_s = time.clock_gettime(7) - tick_s
    if late_s > 0.004:
        stalls.append([tick_s - 0.005, tick_s + late_s])
        tick_s += late_s
print(json.dumps(stalls))
"""

TREES = {"ina2xx": ina_tree, "rapl": rapl_tree}


@contextlib.contextmanager
def loaded(cores: int) -> Iterator[None]:
    """ONNX Runtime on all cores for as long as the block lasts."""
    process = subprocess.Popen([sys.executable, "-c", LOAD % cores], stdout=subprocess.PIPE)
    try:
        if process.stdout is None or process.stdout.readline().strip() != b"ready":
            raise RuntimeError("the load did not start: is onnxruntime installed?")
        yield
    finally:
        process.kill()
        process.communicate()


def _children() -> set[int]:
    own = os.getpid()
    return {int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split()}


def controls(seconds: float) -> list[subprocess.Popen[bytes]]:
    """The control processes, one a core, for so long."""
    words = [sys.executable, "-c", CONTROL]
    return [
        subprocess.Popen([*words, str(cpu), str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for cpu in os.sched_getaffinity(0)
    ]


def stalls_of(processes: list[subprocess.Popen[bytes]]) -> list[list[float]] | None:
    """When any core stood still; None where the controls had no right to real-time scheduling."""
    found = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        return None
    return [stall for text in found for stall in json.loads(text)]


def _missed_in_stalls(stamps: np.ndarray, period_s: float, stalls: list[list[float]]) -> int:
    """Ticks without a reading that fell into a time when a core stood still."""
    off = stamps - stamps[0] - period_s * np.round((stamps - stamps[0]) / period_s)
    base_s = stamps[0] + float(np.median(off))
    taken = set(np.floor((stamps - base_s) / period_s + 0.02).astype(int).tolist())
    missing = [base_s + i * period_s for i in range(min(taken), max(taken)) if i not in taken]
    return sum(any(a - period_s <= t <= b for a, b in stalls) for t in missing)


def cpu_s(pid: int) -> float:
    """User and system seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int, field: str) -> int:
    """``VmRSS`` or ``VmHWM`` (the most it ever was) of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/status has no {field}")


def sampled(source: str, seconds: float, agent: Path, options: dict[str, Any], without_rights: bool) -> dict[str, Any]:
    """Sample for so long and say what it cost and how regular it was."""
    plain = ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"] if without_rights else []
    sampler = Child("sampler", [*plain, sys.executable, "-I", str(agent), "sampler"])
    try:
        others = _children()
        sampler.start()
        trace = LiveTrace(sampler, source, options)
        (pid,) = _children() - others
        beside = controls(seconds)
        before_cpu_s, before_s = cpu_s(pid), time.monotonic()
        end_s = before_s + seconds
        while time.monotonic() < end_s:
            time.sleep(max(0.0, min(DRAIN_S, end_s - time.monotonic())))
            trace.drain()
        spent_s = time.monotonic() - before_s
        used_s = cpu_s(pid) - before_cpu_s
        memory = {"resident_bytes": resident_bytes(pid, "VmRSS"), "most_resident_bytes": resident_bytes(pid, "VmHWM")}
        stamps = np.asarray((trace.to_json() or {"times_s": []})["times_s"])
        kept = trace.sampling()
        problem, period_s, described = trace.problem, trace.period_s, trace.description
        stalls = stalls_of(beside)
        trace.close()
    finally:
        sampler.stop()
    return {
        "seconds": round(spent_s, 1),
        "rate_hz": 1.0 / period_s,
        "samples": len(stamps),
        "missed": kept["missed"],
        **losses(stamps, period_s, described),
        "scheduling": kept["scheduling"],
        "machine_stood_still": None if stalls is None else len(stalls),
        "missed_as_the_machine_stood_still": None if stalls is None else _missed_in_stalls(stamps, period_s, stalls),
        "load_average": os.getloadavg()[0],
        "problem": problem,
        "core_share": used_s / spent_s,
        **memory,
        "spacing_s": _quantiles(np.abs(np.diff(stamps) - period_s)),
        "late_s": _quantiles(_lateness(stamps, period_s)),
        "longest_gap_s": float(np.diff(stamps).max()),
    }


def losses(stamps: np.ndarray, period_s: float, described: Mapping[str, Any]) -> dict[str, Any]:
    """What is missing from a trace, by its time stamps alone.

    ``without_sample``: ticks that gave none, missed or not. ``overwritten``: conversions of the source that nobody read
    because readings were late, beside those that a slower rate leaves out anyway. ``lost``: samples whose energy is not
    in the trace: a counter's next reading holds it all, so it loses none; of an averaging source each tick without a
    sample is one.
    """
    gaps = np.diff(stamps)
    without = max(0, round(float(stamps[-1] - stamps[0]) / period_s) + 1 - len(stamps))
    if described["counts_energy"]:
        return {"without_sample": without, "overwritten": 0, "lost": 0}
    late = np.floor(np.maximum(gaps - period_s, 0.0) / float(described["update_s"]))
    return {"without_sample": without, "overwritten": int(late.sum()), "lost": without}


def _lateness(stamps: np.ndarray, period_s: float) -> np.ndarray:
    """How late each sample is against ticks of exactly one period, the promptest hundredth being on time."""
    phase_s = (stamps - stamps[0]) % period_s
    turned_s = (phase_s - np.median(phase_s) + 0.5 * period_s) % period_s  # the usual phase in the middle
    on_time_s = float(np.quantile(turned_s, 0.01))
    return np.asarray(np.maximum(turned_s - on_time_s, 0.0))


def _quantiles(values: np.ndarray) -> dict[str, float]:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: float(np.quantile(values, share)) for name, share in shares.items()}


def verdict(found: dict[str, Any]) -> dict[str, bool]:
    """Which of the figures that were asked hold."""
    return {
        "core_share": found["core_share"] <= LIMITS["core_share"],
        "resident": found["most_resident_bytes"] <= LIMITS["resident_bytes"],
        "jitter_p99": found["spacing_s"]["p99"] <= LIMITS["jitter_p99_s"],
        "lost": found["lost"] <= LIMITS["lost"] and found["problem"] is None,
    }


def main() -> None:
    """Measure idle and loaded, print, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="of each of the two runs")
    parser.add_argument("--source", choices=sorted(TREES), default="ina2xx")
    parser.add_argument("--only", choices=["idle", "loaded"])
    parser.add_argument("--without-rights", action="store_true", help="as a user who may not have real-time priority")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    memory = Path("/dev/shm")
    found: dict[str, Any] = {
        "command": "python benchmarks/sampler.py " + " ".join(arg for arg in sys.argv[1:]),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": {"cores": cores, "arch": platform.machine(), "kernel": platform.release().split("-")[0]},
        "python": platform.python_version(),
        "source": chosen.source,
        "limits": LIMITS,
    }
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        agent = build_bundle(Path(folder)).path
        for load in ("idle", "loaded"):
            if chosen.only not in (None, load):
                continue
            options = TREES[chosen.source](Path(folder) / load)
            with loaded(cores) if load == "loaded" else contextlib.nullcontext():
                found[load] = sampled(chosen.source, 60.0 * chosen.minutes, agent, options, chosen.without_rights)
            found[load]["holds"] = verdict(found[load])
            print(_line(load, found[load]), flush=True)
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _line(load: str, run: dict[str, Any]) -> str:
    spacing, late = run["spacing_s"], run["late_s"]
    return (
        f"{load:<7} {run['seconds']:.0f} s at {run['rate_hz']:.1f} Hz: {100 * run['core_share']:.2f} % of one core, "
        f"{run['most_resident_bytes'] / 1e6:.1f} MB at most; spacing off by p50 {1e3 * spacing['p50']:.3f}, p99 "
        f"{1e3 * spacing['p99']:.3f}, max {1e3 * spacing['max']:.2f} ms; late p99 {1e3 * late['p99']:.3f} ms; "
        f"{run['samples']} samples, {run['lost']} lost, {run['missed']} ticks missed "
        f"({run['missed_as_the_machine_stood_still']} of them as the machine stood still), {run['overwritten']} "
        f"conversions overwritten because a reading was late; {run['scheduling']}; load "
        f"{run['load_average']:.1f}; "
        + (
            "all hold"
            if all(run["holds"].values())
            else "MISSED: " + ", ".join(k for k, v in run["holds"].items() if not v)
        )
    )


if __name__ == "__main__":
    main()
