"""The zipapp: reproducible, standard library only, and down to Python 3.6."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import device_agents
from rig.connection.agent_bundle import build_bundle, bundle_bytes

PACKAGE = Path(device_agents.__file__).parent


def old_python() -> str | None:
    """A Python 3.6 on the path that really starts (a pyenv shim may not)."""
    for root in (Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")), None):
        found = sorted(root.glob("versions/3.6*/bin/python3.6")) if root else [shutil.which("python3.6")]
        for candidate in found:
            if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
                return str(candidate)
    return None


def conversation(python: list[str], folder: Path) -> list[dict[str, object]]:
    """Start the agent, say hello and goodbye; what it answered."""
    agent = build_bundle(folder)
    command = [*python, str(agent.path), "supervise", "--device", "d", "--holder", "test"]
    command += ["--state-dir", str(folder / "state"), "--lock-path", str(folder / "lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        magic = process.stdout.readline().decode()
        assert magic.startswith("RIG-AGENT ")
        answers = [json.loads(magic[len("RIG-AGENT ") :])]
        for request in ({"id": "1", "op": "hello", "sensors": ["nvml"]}, {"id": "2", "op": "no-such-op"}):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = {"event": "heartbeat"}
            while answer["event"] == "heartbeat":
                answer = json.loads(process.stdout.readline())
            answers.append(answer)
        process.stdin.write(b'not json\n{"op":"bye"}\n')
        process.stdin.close()
        answers.append(json.loads(process.stdout.readline()))
        assert process.wait(10) == 0
    assert answers[0]["agent_hash"] == agent.sha256
    return answers


def test_the_same_source_gives_the_same_bytes() -> None:
    assert bundle_bytes(PACKAGE) == bundle_bytes(PACKAGE)


def test_a_changed_source_gives_another_name(tmp_path: Path) -> None:
    copy = tmp_path / "device_agents"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").write_text("# changed\n")
    assert bundle_bytes(copy) != bundle_bytes(PACKAGE)


def test_starts_with_nothing_but_the_standard_library(tmp_path: Path) -> None:
    _, hello, unknown, nonsense = conversation([sys.executable, "-I", "-S"], tmp_path)
    assert hello["runtimes"]["onnxruntime"]["state"] == "absent"  # type: ignore[index]
    assert hello["sensors"]["nvml"]["state"] == "absent"  # type: ignore[index]
    assert (unknown["event"], unknown["code"]) == ("error", "bad-request")
    assert nonsense["code"] == "bad-request"


def test_starts_under_python_3_6(tmp_path: Path) -> None:
    python = old_python()
    if python is None:
        pytest.skip("no Python 3.6 on this computer")
    magic, hello, _, _ = conversation([python, "-I", "-S"], tmp_path)
    assert str(magic["python"]).startswith("3.6.")
    assert hello["device"] == "d"


def test_an_agent_whose_host_falls_silent_leaves_by_itself(tmp_path: Path) -> None:
    agent = build_bundle(tmp_path)
    command = [sys.executable, "-I", "-S", str(agent.path), "supervise", "--device", "d", "--holder", "test"]
    command += ["--state-dir", str(tmp_path / "state"), "--lock-path", str(tmp_path / "lock"), "--lost-after-s", "0.3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.wait(20) == 0
    assert list((tmp_path / "state").iterdir()) == []


def test_vermin_finds_nothing_newer_than_3_6() -> None:
    vermin = shutil.which("vermin", path=str(Path(sys.executable).parent)) or shutil.which("vermin")
    if vermin is None:
        pytest.skip("vermin is not installed")
    done = subprocess.run([vermin, "-t=3.6-", "--no-tips", "-q", str(PACKAGE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
