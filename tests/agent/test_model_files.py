"""Models left on a device by a session that was cut off, and those of sessions that go on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agents import model_files
from device_agents.model_files import ABANDONED_AFTER_S, SentModels, boot_id

DAY_S = ABANDONED_AFTER_S + 1.0
NAMES = [f"model-{digit * 64}.onnx" for digit in "abc"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock since boot, as a list with one number."""
    now = [5000.0]
    monkeypatch.setattr(model_files, "now_s", lambda: now[0])
    return now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three models that were sent, and what is not ours to delete."""
    place = tmp_path / "cache"
    place.mkdir()
    for name in (*NAMES, "agent-1.pyz", "model-of-mine.onnx"):
        (place / name).write_text(name)
    return place


def request(folder: Path, name: str = NAMES[0]) -> dict[str, Any]:
    return {"subject": {"path": str(folder / name)}}


def looked(folder: Path, boot: str = "this boot") -> set[str]:
    """What lies there after an agent with the first model in hand has looked."""
    SentModels(str(folder.parent), boot).remove_abandoned(request(folder))
    return {path.name for path in folder.iterdir()}


KEPT = {NAMES[0], "agent-1.pyz", "model-of-mine.onnx"}


def test_what_nobody_uses_goes_after_a_day_of_the_clock_since_boot(folder: Path, clock: list[float]) -> None:
    assert looked(folder) > KEPT
    clock[0] += 0.9 * ABANDONED_AFTER_S
    assert looked(folder) > KEPT
    clock[0] += 0.2 * ABANDONED_AFTER_S
    assert looked(folder) == KEPT


@pytest.mark.parametrize("days", [-4000.0, -1.0, 1.0, 4000.0])
def test_a_step_of_the_wall_clock_deletes_nothing(
    folder: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch, days: float
) -> None:
    """The model was stamped by a clock that was wrong, or the clock is wrong now: either way nothing follows."""
    stamp = time.time() + 86400.0 * days
    for name in NAMES:
        os.utime(folder / name, (stamp, stamp))
    assert looked(folder) > KEPT
    monkeypatch.setattr(time, "time", lambda: stamp + 86400.0 * 9000)
    clock[0] += 60.0
    assert looked(folder) == {*KEPT, *NAMES}


def test_no_session_outlives_a_boot(folder: Path, clock: list[float]) -> None:
    looked(folder, "the boot before")
    clock[0] = 20.0
    assert looked(folder) == KEPT


def test_a_clock_that_went_back_is_another_boot_where_the_system_names_none(folder: Path, clock: list[float]) -> None:
    looked(folder, "")
    clock[0] = 20.0
    assert looked(folder, "") == KEPT


def test_a_model_that_was_sent_again_has_its_day_again(folder: Path, clock: list[float]) -> None:
    looked(folder)
    clock[0] += DAY_S
    (folder / NAMES[1]).unlink()
    (folder / "other").write_text("takes the place on the disk")
    (folder / NAMES[1]).write_text("sent again")
    assert looked(folder) == {*KEPT, NAMES[1], "other"}


@pytest.fixture
def other(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another agent, which uses the second model."""
    code = (
        "import sys; from device_agents.model_files import SentModels; models = SentModels(sys.argv[1]); "
        "models.hold({'subject': {'path': sys.argv[2]}}); print('holds', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(folder.parent), str(folder / NAMES[1])]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"holds"
    yield process
    process.kill()
    process.communicate()


def test_what_another_agent_uses_stays_however_long(
    folder: Path, clock: list[float], other: subprocess.Popen[bytes]
) -> None:
    looked(folder)
    clock[0] += 10.0 * DAY_S
    assert looked(folder) == {*KEPT, NAMES[1]}
    other.kill()
    other.wait()
    assert looked(folder) == {*KEPT, NAMES[1]}, "its day begins now"
    clock[0] += DAY_S
    assert looked(folder) == KEPT


def test_what_this_session_uses_stays_until_it_lets_go(folder: Path, clock: list[float]) -> None:
    models = SentModels(str(folder.parent), "this boot")
    for name in NAMES:
        models.hold(request(folder, name))
        models.hold(request(folder, name))
    looked(folder)
    clock[0] += DAY_S
    models.remove_abandoned(request(folder, NAMES[2]))
    assert looked(folder) > KEPT
    models.release()
    looked(folder)
    clock[0] += DAY_S
    assert looked(folder) == KEPT


def test_notes_that_cannot_be_read_or_written_delete_nothing(folder: Path, clock: list[float]) -> None:
    notes = folder.parent / model_files.NOTES_FILE
    looked(folder)
    clock[0] += DAY_S
    notes.write_text("[1, 2")
    assert looked(folder) > KEPT
    notes.unlink()
    notes.mkdir()
    with pytest.raises(OSError, match="directory"):
        looked(folder)
    assert {path.name for path in folder.iterdir()} > KEPT


def test_a_file_of_the_user_s_own_removes_nothing(folder: Path, clock: list[float]) -> None:
    (folder / "net.onnx").touch()
    models = SentModels(str(folder.parent), "this boot")
    for _ in range(2):
        models.hold({"subject": {"path": str(folder / "net.onnx")}})
        models.remove_abandoned({"subject": {"path": str(folder / "net.onnx")}})
        models.remove_abandoned({"subject": {"name": "kernels", "format": "kernels"}})
        clock[0] += DAY_S
    assert {path.name for path in folder.iterdir()} == {*KEPT, *NAMES, "net.onnx"}


def test_the_boot_has_a_name_on_linux() -> None:
    assert bool(boot_id()) == sys.platform.startswith("linux")
