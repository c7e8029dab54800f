"""What the agent's tests share: an isolated device, small models, and a look at the agent's processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from device_agents.records import KernelSpec, MeasurePlan
from rig.profiles import DeviceProfile, load_profile

QUICK = MeasurePlan(warmup_s=0.05, warmup_max_s=0.2, window_s=0.05, min_windows=3, rel_ci=0.5, max_s=0.5, quiet_s=0.05)
# The same for the profile of a simulated board: these tests are about the line, not about precision.
QUICK_PLAN = """
[plan]
warmup_s = 0.1
warmup_max_s = 0.5
window_s = 0.25
min_windows = 4
max_s = 2.0
quiet_s = 0.8
rel_ci = 0.5
"""
LONG = QUICK._replace(min_windows=1000, rel_ci=1e-6, max_s=60.0)

KERNELS = [KernelSpec("conv", 1, 16, 28, 28, 16, 28, 28, 3, 3, 1, 1, fused="relu")] * 4


@pytest.fixture
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Store, caches and lock of this test alone."""
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RIG_LOCK_DIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def local_profile(**changes: object) -> DeviceProfile:
    """The shipped profile of this computer."""
    return load_profile("local").model_copy(update=changes)


def small_model(path: Path, size: int | str = 16, channels: int = 8) -> Path:
    """One convolution and a ReLU; ``size`` as text makes the shape dynamic."""
    shape = [1, channels, size, size]
    weights = helper.make_tensor(
        "w", TensorProto.FLOAT, [channels, channels, 3, 3], [0.01 * (i % 7 - 3) for i in range(channels * channels * 9)]
    )
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["y"], ["z"], name="relu"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def children_of(pid: int) -> dict[str, int]:
    """Role → process id of the agent's child processes."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue  # it ended while we looked
        if parent == pid and len(arguments) > 1:
            found[arguments[-2].decode()] = int(entry.name)
    return found


def signal_child(agent_pid: int, role: str, number: signal.Signals, timeout_s: float = 10.0) -> int:
    """Send a signal to the agent's child of that role as soon as it exists; its process id."""
    deadline_s = time.monotonic() + timeout_s
    while role not in children_of(agent_pid):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the agent has no {role} process")
        time.sleep(0.01)
    pid = children_of(agent_pid)[role]
    os.kill(pid, number)
    return pid


def signal_once(agent_pid: int, role: str, number: signal.Signals) -> Callable[[object], None]:
    """For a measurement's ``on_progress``: a signal to the agent's child of that role, while it measures, once.

    A thread that is started beforehand may meet the child of the measurement before, which is on its way out.
    """
    sent: list[int] = []

    def progressed(progress: object) -> None:
        if not sent:
            sent.append(signal_child(agent_pid, role, number))

    return progressed


def wait_until(condition: object, timeout_s: float = 15.0) -> None:
    """Wait until ``condition()`` holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline_s:
            raise TimeoutError("the condition never held")
        time.sleep(0.02)


def exists(pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
