"""The commands for real on the simulated board and on this computer, and every mistake a person makes with a device."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
from onnx import TensorProto, helper

from rig import cli
from rig.store.store import Store
from tests.agent_setup import QUICK_PLAN


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Own store and configuration, shared by this file; calibrating once is the slow part."""
    root = tmp_path_factory.mktemp("rig")
    devices = root / "config" / "devices"
    devices.mkdir(parents=True)
    for name in ("virtual-pi4", "local"):
        (devices / f"{name}.toml").write_text(QUICK_PLAN)
    return {"RIG_HOME": str(root / "home"), "RIG_CONFIG": str(root / "config")}


@pytest.fixture
def environment(folders: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **folders, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def own_device(folders: dict[str, str], environment: dict[str, str]) -> Iterator[Any]:
    """Write a profile of one's own for the length of a test."""
    written: list[Path] = []

    def write(name: str, text: str) -> Path:
        path = Path(folders["RIG_CONFIG"]) / "devices" / f"{name}.toml"
        assert not path.exists(), "another test's profile"
        path.write_text(text)
        written.append(path)
        return path

    yield write
    for path in written:
        path.unlink()


def rig(environment: dict[str, str], *words: str, timeout_s: float = 120.0) -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "rig.cli", *words], capture_output=True, text=True, env=environment, timeout=timeout_s
    )
    assert "Traceback" not in done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


def rig_when_free(environment: dict[str, str], *words: str) -> Said:
    """As ``rig``, waiting while another test run measures on this computer: its lock is one for the whole machine."""
    deadline_s = time.monotonic() + 120
    while True:
        said = rig(environment, *words)
        if "wait until it has finished" not in said.out + said.err:
            return said
        assert time.monotonic() < deadline_s, said.err
        time.sleep(0.5)


def start(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rig.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it as ignored
    )


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read the process's progress until a line holds ``words``."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"ended without saying {words!r}")


def wait_for_measurements(run: Path, count: int) -> None:
    deadline_s = time.monotonic() + 60
    lines = run / "measurements.jsonl"
    while not (lines.exists() and len(lines.read_text().splitlines()) >= count):
        assert time.monotonic() < deadline_s, "no measurement came"
        time.sleep(0.05)


def small_network(path: Path, batch: int | str = 1) -> Path:
    """Two convolutions and a pool, with weights that are not zero."""
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [0.1 * (i % 7 - 3) for i in range(count)])
        for name, shape, count in (("w1", (8, 4, 3, 3), 288), ("w2", (8, 8, 3, 3), 576))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"], name="pool"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 8, 1, 1])
    graph = helper.make_graph(nodes, "small", [x], [y], initializer=weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_network(tmp_path_factory.mktemp("nets") / "small.onnx")


@pytest.fixture(scope="module")
def calibrated(folders: dict[str, str]) -> dict[str, Any]:
    """What ``rig calibrate`` of the simulated board says."""
    said = rig(
        {**os.environ, **folders, "OMP_NUM_THREADS": "1"},
        *("calibrate", "--device", "virtual-pi4", "--kernels", "28", "--json"),
    )
    assert said.code == 0, said.err
    return dict(json.loads(said.out))


# --- what works -------------------------------------------------------------------------------------------------


def test_calibrate_ends_with_held_out_error_and_a_model(calibrated: dict[str, Any], folders: dict[str, str]) -> None:
    assert calibrated["kind"] == "simulated"
    assert calibrated["device"]["simulated"] is True
    assert calibrated["saved"] is True
    assert calibrated["counts"]["measured"] + calibrated["counts"]["unusable"] == 28
    assert set(calibrated["held_out"]) == {"latency_s", "energy_active_j"}
    assert calibrated["idle_power_w"]["kind"] == "simulated"
    assert Path(calibrated["artifacts"]["cost_model"], "model.json").is_file()
    stored = Store(folders["RIG_HOME"]).open_run(calibrated["run_id"])
    assert stored.read_json("result.json")["schema"] == "rig.calibrate/1"
    assert stored.manifest["state"] == "done"


def test_held_out_kernels_are_not_in_the_fit(calibrated: dict[str, Any]) -> None:
    held = {row["name"] for row in calibrated["validation"]}
    model = json.loads(Path(calibrated["artifacts"]["cost_model"], "model.json").read_text())
    assert held
    rows_fitted = calibrated["counts"]["measured"] - len(held)
    assert sum(report["rows"] for name, report in model["report"].items() if "weighted" in name) <= rows_fitted


def test_predict_is_a_prediction_from_simulated_data(
    calibrated: dict[str, Any], environment: dict[str, str], network: Path
) -> None:
    said = rig(environment, "predict", str(network), "--device", "virtual-pi4", "--fps", "30", "--json")
    assert said.code == 0, said.err
    data = json.loads(said.out)
    assert (data["kind"], data["basis"]) == ("predicted", "simulated")
    for name in ("power_w", "latency_s", "energy_active_j"):
        quantity = data["network"][name]
        assert quantity["lo"] < quantity["value"] < quantity["hi"]
        assert (quantity["kind"], quantity["basis"]) == ("predicted", "simulated")
    assert sum(row["calls"] for row in data["kernels"]) == data["network"]["kernels"]
    total = sum(row["latency_s"]["value"] for row in data["kernels"]) + data["overhead"]["latency_s"]
    assert total == pytest.approx(data["network"]["latency_s"]["value"])


def test_predict_table_marks_every_line_it_must(
    calibrated: dict[str, Any], environment: dict[str, str], network: Path
) -> None:
    said = rig(environment, "predict", str(network), "--device", "virtual-pi4")
    lines = said.out.splitlines()
    assert lines[0].split() == ["KERNEL", "CALLS", "MMAC", "LATENCY", "ENERGY", "SHARE", "RANGE"]
    assert any(line.startswith("PREDICTED from SIMULATED, nothing measured") for line in lines)
    assert lines[-1] == f"Next: rig measure {network} --device virtual-pi4"


def test_measure_on_the_simulated_board(environment: dict[str, str], network: Path) -> None:
    said = rig(environment, "measure", str(network), "--device", "virtual-pi4", "--fps", "30", "--explain")
    assert said.code == 0, said.err
    assert "SIMULATED, board input" in said.out
    assert "at 30 fps" in said.out
    lines = [line.split() for line in said.out.splitlines()]
    header = next(line for line in lines if line[:1] == ["PART"])
    assert header[1:] == ["POWER", "QUIET", "ENERGY", "ABOVE", "QUIET", "ENERGY", "IN", "ALL", "LATENCY"]
    parts = [line[0] for line in lines[lines.index(header) + 1 :]][:8]
    assert parts == ["sampling", "quantization", "gain", "clock", "idle", "drift", "total", "share"]
    assert said.out.splitlines()[-1].startswith("Next: rig report m-")


def test_measure_on_this_computer(environment: dict[str, str], network: Path, folders: dict[str, str]) -> None:
    said = rig_when_free(environment, "measure", str(network), "--device", "local", "--json")
    assert said.code == 0, said.err
    data = json.loads(said.out)
    assert data["kind"] == "measured"
    assert data["network"]["latency_s"]["value"] > 0
    if data["device"]["meter"] is None:
        assert data["network"]["power_w"] is None, "missing is null, never zero"
        assert any(note["code"] == "no-power" for note in data["warnings"])
    stored = Store(folders["RIG_HOME"]).open_run(data["run_id"])
    assert [record["id"] for record in stored.measurements(arrays=False)][-1] == data["network"]["measurement_id"]


def test_open_shapes_need_a_shape(environment: dict[str, str], tmp_path: Path, calibrated: dict[str, Any]) -> None:
    model = small_network(tmp_path / "open.onnx", batch="n")
    for command, device in (("predict", "virtual-pi4"), ("measure", "virtual-pi4"), ("measure", "local")):
        said = rig_when_free(environment, command, str(model), "--device", device)
        assert (said.code, said.out) == (2, ""), (command, device)
        assert "--shape" in said.err
        said = rig_when_free(environment, command, str(model), "--device", device, "--shape", "1,4,16,16")
        assert said.code == 0, said.err


def test_devices_lists_all_and_says_what_is_missing(environment: dict[str, str], calibrated: dict[str, Any]) -> None:
    said = rig(environment, "devices", "--json")
    assert said.code == 0, said.err
    data = json.loads(said.out)
    rows = {row["name"]: row for row in data["devices"]}
    assert rows["virtual-pi4"]["state"] == "ready"
    assert (rows["virtual-pi4"]["meter"], rows["virtual-pi4"]["calibrated"]) == ("virtual", True)
    assert rows["pi4"]["state"] == "not set up"
    assert "[transport]" in rows["pi4"]["fix"]
    assert data["next"] == "rig calibrate --device virtual-pi4"


def test_devices_survives_a_malformed_profile(environment: dict[str, str], own_device: Any) -> None:
    path = own_device("broken", "[transport]\nprot = 1\n")
    said = rig(environment, "devices")
    assert said.code == 0
    assert "bad profile" in said.out
    assert f"{path}, line 2" in said.err


def test_report_draws_the_latest_finished_run(
    environment: dict[str, str], calibrated: dict[str, Any], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    said = rig(environment, "report", calibrated["run_id"], "--out", str(page))
    assert said.code == 0, said.err
    assert "SIMULATED" in page.read_text()


# --- stopping and going on --------------------------------------------------------------------------------------

CALIBRATE = ("calibrate", "--device", "virtual-pi4", "--kernels", "24")


def latest_run(folders: dict[str, str]) -> Path:
    run = Store(folders["RIG_HOME"]).latest("calibrate")
    assert run is not None
    return run.path


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_stopped_calibration_goes_on_where_it_was(
    environment: dict[str, str], folders: dict[str, str], how: signal.Signals
) -> None:
    words = (*CALIBRATE, "--seed", str(int(how)))
    process = start(environment, *words)
    wait_for(process, "measuring 24 kernels")
    run = latest_run(folders)
    wait_for_measurements(run, 6)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    before = (run / "measurements.jsonl").read_text()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert f"saved in {run.name}" in err
        assert err.splitlines()[-1] == f"Fix: {shlex.join(['rig', *words])}"
    said = rig(environment, *words, "--json")
    assert said.code == 0, said.err
    data = json.loads(said.out)
    assert data["run_id"] == run.name
    after = (run / "measurements.jsonl").read_text()
    assert after.startswith(before), "what was there stays as it was"
    jobs = [json.loads(line)["id"] for line in after.splitlines()]
    assert len(jobs) == len(set(jobs)), "nothing was measured twice"
    assert data["complete"] is True


def test_interrupt_before_the_first_measurement(environment: dict[str, str]) -> None:
    process = start(environment, *CALIBRATE, "--seed", "77")
    wait_for(process, "asking virtual-pi4")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Fix: rig calibrate" in err
    assert "Traceback" not in err


def test_two_commands_on_one_device(environment: dict[str, str], folders: dict[str, str], network: Path) -> None:
    process = start(environment, *CALIBRATE, "--seed", "55")
    try:
        wait_for(process, "measuring 24 kernels")
        wait_for_measurements(latest_run(folders), 1)
        said = rig(environment, "measure", str(network), "--device", "virtual-pi4", "--json")
        assert said.code == 3
        error = json.loads(said.out)["error"]
        assert error["code"] == "device-busy"
        assert "rig calibrate" in error["message"]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_time_limit_keeps_what_there_is(environment: dict[str, str]) -> None:
    said = rig(environment, *CALIBRATE, "--seed", "99", "--kernels", "400", "--time", "6s", "--json")
    assert said.code == 0, said.err
    data = json.loads(said.out)
    assert data["complete"] is False
    assert 0 < data["counts"]["measured"] < 400
    assert any(note["code"] == "incomplete" for note in data["warnings"])


def test_disk_full_while_storing(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in folders.items():
        monkeypatch.setenv(name, value)
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["measure", str(network), "--device", "virtual-pi4"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "No space left on device" in said.err
    assert "Fix: free some space" in said.err


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "hints"),
    [
        (("calibrate", "--device", "pi4"), 3, ("no host is set", "[transport]", "devices/pi4.toml", "virtual-pi4")),
        (("calibrate", "--device", "virtual-pi"), 2, ("did you mean virtual-pi4",)),
        (("calibrate", "--device", "virtual-pi4", "--time", "20"), 2, ("no unit", "20m")),
        (("calibrate", "--device", "virtual-pi4", "--around", "gone.onnx"), 2, ("no such file",)),
        (("measure", "gone.onnx", "--device", "local"), 2, ("no such file",)),
        (("measure", "NETWORK", "--device", "local", "--fps", "NaN"), 2, ("not a number",)),
        (("measure", "NETWORK", "--device", "local", "--fps", "-3"), 2, ("negative",)),
        (("measure", "NETWORK", "--device", "virtual-pi4", "--fps", "90000"), 2, ("cannot be kept", "or less")),
        (("measure", "NETWORK", "--device", "virtual-pi4", "--shape", "a,b"), 2, ("whole numbers",)),
        (("measure", "EMPTY", "--device", "local"), 2, ("is empty",)),
        (("measure", "CORRUPT", "--device", "local"), 2, ("not an ONNX file",)),
        (("measure", "CORRUPT", "--device", "virtual-pi4"), 2, ("not an ONNX file",)),
        (("predict", "CORRUPT", "--device", "virtual-pi4"), 2, ("not an ONNX file",)),
        (("predict", "NETWORK", "--device", "local"), 2, ("no cost model for local", "rig calibrate --device local")),
        (("predict", "STRANGE", "--device", "virtual-pi4"), 2, ("Asinh", "strange", "Fix:")),
        (("report", "x-9999"), 2, ("no run x-9999",)),
        (("report", "--format", "doc"), 2, ("html, pdf, png",)),
    ],
)
def test_bad_input(
    calibrated: dict[str, Any],
    environment: dict[str, str],
    network: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    code: int,
    hints: tuple[str, ...],
) -> None:
    files = {"NETWORK": network, "EMPTY": tmp_path / "e.onnx", "CORRUPT": tmp_path / "c.onnx"}
    files["STRANGE"] = strange_network(tmp_path / "s.onnx")
    files["EMPTY"].touch()
    files["CORRUPT"].write_bytes(network.read_bytes()[: network.stat().st_size // 2])
    said = rig(environment, *(str(files.get(word, word)) for word in words))
    assert (said.code, said.out) == (code, "")
    for hint in hints:
        assert hint in said.err
    assert "Fix: " in said.err


def strange_network(path: Path) -> Path:
    """A network with an operator that nobody prices."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph([helper.make_node("Asinh", ["x"], ["y"], name="strange")], "s", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_unreachable_host(environment: dict[str, str], own_device: Any) -> None:
    with socket.socket() as taken:  # a port that nobody answers: bound, not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        own_device("far", f'[transport]\nkind = "ssh"\nhost = "127.0.0.1"\nport = {port}\n')
        said = rig(environment, "calibrate", "--device", "far")
    assert said.code == 3
    assert "127.0.0.1" in said.err
    assert "Fix: " in said.err


def test_no_python_on_the_device(environment: dict[str, str], own_device: Any, network: Path) -> None:
    own_device("bare", 'python = "/nowhere/python3"\n')
    said = rig(environment, "measure", str(network), "--device", "bare")
    assert said.code == 3
    assert "/nowhere/python3" in said.err


def test_no_runtime_on_the_device(environment: dict[str, str], own_device: Any, network: Path, tmp_path: Path) -> None:
    python = tmp_path / "python-without-packages"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    python.chmod(0o755)
    own_device("plain", f'python = "{python}"\n')
    said = rig(environment, "measure", str(network), "--device", "plain")
    assert said.code == 3
    assert "onnxruntime is not installed" in said.err
    assert "pip install onnxruntime" in said.err


def test_unknown_runtime_in_a_profile(environment: dict[str, str], own_device: Any, network: Path) -> None:
    own_device("typo", '[runtime]\nname = "onnxruntme"\n')
    said = rig(environment, "measure", str(network), "--device", "typo")
    assert said.code in (2, 3)
    assert "onnxruntime" in said.err
