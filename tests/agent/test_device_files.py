"""What the agent keeps on the device: spool, lock, journal of changed state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from device_agents.lock import DeviceLock
from device_agents.protocol import AgentError
from device_agents.spool import Spool, request_key
from device_agents.state import PinnedState


def test_spool_keeps_until_acknowledged_and_empties_then(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    spool = Spool(str(path))
    spool.add("a", {"x": 1})
    spool.add("b", {"x": 2})
    spool.acknowledge(["a"])
    assert Spool(str(path)).keys() == ["b"]
    assert Spool(str(path)).get("b") == {"x": 2}
    spool.acknowledge(["b", "never heard of"])
    assert path.stat().st_size == 0


def test_spool_drops_a_line_cut_short_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    Spool(str(path)).add("a", {"x": 1})
    with path.open("ab") as file:
        file.write(b'{"key":"b","rec')
    spool = Spool(str(path))
    assert spool.keys() == ["a"]
    spool.add("c", {"x": 3})
    assert Spool(str(path)).keys() == ["a", "c"]


def test_request_key_tells_other_plans_and_subjects_apart() -> None:
    request = {"id": "m-1", "plan": {"window_s": 1.0}, "subject": {"name": "a"}}
    assert request_key(request) == request_key(dict(request, slack_s=3))
    assert request_key(request) != request_key(dict(request, plan={"window_s": 2.0}))
    of_one, of_another = (request_key(dict(request, asked_by=store)) for store in ("one", "another"))
    assert of_one != of_another, "two hosts may measure one network under one number"


def test_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = str(tmp_path / "sub" / "lock")
    first, second = DeviceLock(path, "alice"), DeviceLock(path, "bob")
    first.acquire()
    first.acquire()
    with pytest.raises(AgentError, match="alice is measuring on this device since 20"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


@pytest.mark.parametrize("target", ["there", "not there"])
def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, target: str) -> None:
    """Anybody may write in the folder of locks; what a link there points to is not to be opened or made."""
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "lock"
    if target == "there":
        elsewhere.write_text("somebody's\n")
    path.symlink_to(elsewhere)
    with pytest.raises(AgentError, match="is a symbolic link") as refused:
        DeviceLock(str(path), "alice").acquire()
    assert refused.value.code == "storage"
    assert elsewhere.exists() == (target == "there")
    assert target != "there" or elsewhere.read_text() == "somebody's\n"


@pytest.fixture
def cpus(tmp_path: Path) -> Path:
    for cpu, governor in ((0, "ondemand"), (1, "schedutil")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
        (folder / "scaling_available_governors").write_text("ondemand schedutil performance\n")
        (folder / "scaling_cur_freq").write_text(f"{1500000 - 500000 * cpu}\n")
    return tmp_path


def governors(root: Path) -> list[str]:
    return [
        path.read_text().strip() for path in sorted(root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"))
    ]


def test_governor_is_pinned_journalled_and_restored(cpus: Path) -> None:
    journal = cpus / "journal.json"
    state = PinnedState(str(journal), str(cpus))
    assert state.pin("performance") == {"wanted": "performance", "pinned": True, "reason": ""}
    assert governors(cpus) == ["performance", "performance"]
    # A power cut here: the next start has only the journal.
    assert PinnedState(str(journal), str(cpus)).restore() == []
    assert governors(cpus) == ["ondemand", "schedutil"]
    assert not journal.exists()


def test_what_cannot_be_pinned_is_recorded_not_forced(cpus: Path, tmp_path: Path) -> None:
    state = PinnedState(str(cpus / "journal.json"), str(cpus))
    outcome = state.pin("MAXN")
    assert not outcome["pinned"]
    assert "offers ondemand schedutil performance" in outcome["reason"]
    assert governors(cpus) == ["ondemand", "schedutil"]
    nowhere = PinnedState(str(tmp_path / "j"), str(tmp_path / "empty")).pin("performance")
    assert nowhere["reason"] == "the device has no cpufreq governors"


def test_a_journal_that_cannot_be_restored_is_kept_and_said(cpus: Path) -> None:
    journal = cpus / "journal.json"
    journal.write_text(json.dumps([[str(cpus / "gone/scaling_governor"), "ondemand"]]))
    problems = PinnedState(str(journal), str(cpus)).restore()
    assert "could not be set back to ondemand" in problems[0]
    assert journal.exists()
