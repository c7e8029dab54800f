"""The two commands as processes: one JSON object, words and exit codes, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rig import cli
from tests.agent_setup import children_of, isolated, wait_until

__all__ = ["isolated"]


def rig(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "rig.cli", *words], capture_output=True, text=True, timeout=120)


def test_words_and_json_of_the_doctor(isolated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = rig("doctor", "--device", "virtual-pi4", "--steps", "8")
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0].endswith("SIMULATED")
    assert any(line.startswith("PASS virtual ") and "averages over" in line for line in lines)
    assert lines[-1] == "Next: rig calibrate --device virtual-pi4"
    assert cli.main(["doctor", "--device", "virtual-pi4", "--steps", "4", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "rig.doctor/1"
    assert data["kind"] == "simulated"
    assert data["sources"][0]["window_s"]["kind"] == "simulated"


def test_devices_that_are_not_there_and_wrong_options(isolated: Path) -> None:
    assert rig("doctor", "--device", "nowhere").returncode == 2
    said = rig("doctor", "--device", "pi4")
    assert said.returncode == 3
    assert "no host is set" in said.stderr
    wrong = rig("calibrate-sensor", "--device", "virtual-pi4", "--source", "virtual", "--levels", "3", "--against", "x")
    assert wrong.returncode == 2


def test_ctrl_c_leaves_no_process_and_says_what_is_stored(isolated: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rig.cli", "doctor", "--device", "virtual-pi4", "--steps", "500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: len(children_of(process.pid)) > 0)
    (agent,) = children_of(process.pid).values()
    wait_until(lambda: {"runtime", "sampler"} <= set(children_of(agent)))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "interrupted; characterized and stored: nothing" in err
    assert "Fix: rig doctor --device virtual-pi4 --steps 500" in err
    wait_until(lambda: not os.path.exists(f"/proc/{agent}"))
