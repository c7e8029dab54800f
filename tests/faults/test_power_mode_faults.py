"""What the agent changes on a board is put back: at the end, after a crash, and where it was not taken at all.

The real agent, with a file system's root of the test's own: a cpufreq tree, and a program that stands for nvpmodel.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from device_agents.state import PinnedState
from rig.configuration import configuration_of
from rig.connection.session import Session, Subject, rig_home
from rig.profiles import DeviceProfile
from tests.agent_setup import QUICK, exists, isolated, local_profile, small_model, wait_until
from tests.faults.boards import processes_of, sent_to
from tests.faults.interpreters import wrapped

__all__ = ["isolated"]  # a fixture

# Answers as nvpmodel of L4T 36 does; mode 3 takes a reboot, and it asks for it. STATE holds the mode's number.
NVPMODEL = """#!/bin/sh
STATE={state}
case "$1" in
-q)
    name=$(sed -n "s/.*ID=$(cat $STATE) NAME=\\([^ ]*\\) .*/\\1/p" {conf})
    printf 'NV Power Mode: %s\\n%s\\n' "$name" "$(cat $STATE)" ;;
-p) sed -n 's/< \\(POWER_MODEL\\) \\(.*\\) >/NVPM VERB: \\1: \\2/p' {conf} ;;
-m)
    echo "$2" >> {state}.asked
    if [ "$2" = 3 ]; then
        echo "NVPM WARN: Reboot required for changing to this power mode: 3"
        echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
        if read -r answer; then echo "answered $answer" >> {state}.asked; echo 3 > $STATE; exit 0; fi
        echo "NVPM ERROR: optMask is 1, no request for power mode"
        exit 255
    fi
    echo "$2" > $STATE ;;
esac
"""

NVPMODEL_CONF = """< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""

JETSON_CLOCKS = """#!/bin/sh
STATE={state}
case "$1" in
--show) echo "SOC family:tegra234  Machine:NVIDIA Jetson Orin Nano"
    for cpu in 0 1; do
        low=729600; [ "$(cat $STATE)" = on ] && low=1510400
        echo "cpu$cpu:  Online=1 Governor=schedutil MinFreq=$low MaxFreq=1510400 CurrentFreq=1510400"
    done ;;
--store) cp $STATE "$2" ;;
--restore) cp "$2" $STATE ;;
*) echo on > $STATE ;;
esac
"""


@pytest.fixture
def root(isolated: Path) -> Path:
    """A board's file system: two CPUs with different governors, and a Jetson's tools."""
    root = isolated / "root"
    for cpu, governor in ((0, "ondemand"), (1, "schedutil")):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
        (folder / "scaling_available_governors").write_text("ondemand schedutil performance\n")
    return root


@pytest.fixture
def jetson(root: Path) -> Path:
    """Beside them nvpmodel (mode 1) and jetson_clocks (off)."""
    (root / "usr/sbin").mkdir(parents=True)
    (root / "usr/bin").mkdir()
    (root / "etc").mkdir()
    conf = root / "etc/nvpmodel.conf"
    conf.write_text(NVPMODEL_CONF)
    program(root / "usr/sbin/nvpmodel", NVPMODEL.format(state=root / "mode", conf=conf))
    program(root / "usr/bin/jetson_clocks", JETSON_CLOCKS.format(state=root / "clocks"))
    (root / "mode").write_text("1\n")
    (root / "clocks").write_text("off\n")
    return root


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def governors(root: Path) -> list[str]:
    return [path.read_text().strip() for path in sorted(root.glob("sys/devices/system/cpu/cpu*/cpufreq/*_governor"))]


def pinning(isolated: Path, root: Path, mode: str) -> DeviceProfile:
    """This computer, asked for a power mode, on an agent that takes ``root`` for the root of its file system."""
    python = wrapped(isolated / "python", sys.executable, after=f'$([ "$3" = supervise ] && echo --root {root})')
    return local_profile(sensors=(), python=python, power_mode=mode)


def state(root: Path) -> PinnedState:
    return PinnedState(str(root / "journal.json"), str(root))


def test_a_governor_left_changed_by_a_crash_is_put_back_at_the_next_start(isolated: Path, root: Path) -> None:
    profile = pinning(isolated, root, "performance")
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(profile, "test") as session:
        record = session.measure(subject, QUICK, request_id="a")
        assert governors(root) == ["performance", "performance"]
        pid = int(session.hello["agent"]["pid"])
        sent_to(processes_of(pid), signal.SIGKILL)
        wait_until(lambda: not exists(pid))
    assert record["environment"]["power_mode"] == {"wanted": "performance", "pinned": True, "reason": ""}
    assert configuration_of(profile, record).power_mode == "performance"
    assert governors(root) == ["performance", "performance"], "nobody was there to put it back"
    with Session(profile, "test") as session:
        assert governors(root) == ["ondemand", "schedutil"], "before anything else"
        session.measure(subject, QUICK, request_id="b")
        assert governors(root) == ["performance", "performance"]
        session.ack(["a", "b"])
    assert governors(root) == ["ondemand", "schedutil"]
    assert not (rig_home() / "agent/local/journal.json").exists()


@pytest.mark.slow
def test_a_mode_of_nvpmodel_left_changed_by_a_crash(isolated: Path, jetson: Path) -> None:
    profile = pinning(isolated, jetson, "MAXN_SUPER+performance+jetson_clocks")
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(profile, "test") as session:
        record = session.measure(subject, QUICK, request_id="a")
        pinned = ((jetson / "mode").read_text(), governors(jetson), (jetson / "clocks").read_text())
        assert pinned == ("2\n", ["performance", "performance"], "on\n")
        sent_to(processes_of(int(session.hello["agent"]["pid"])), signal.SIGKILL)
    assert record["environment"]["power_mode"]["pinned"]
    with Session(profile, "test") as session:
        restored = ((jetson / "mode").read_text(), governors(jetson), (jetson / "clocks").read_text())
        assert restored == ("1\n", ["ondemand", "schedutil"], "off\n")
        session.ack(record["id"] for record in session.pending())


@pytest.mark.slow
def test_a_mode_that_takes_a_reboot_is_refused_unanswered_and_said(isolated: Path, jetson: Path) -> None:
    profile = pinning(isolated, jetson, "7W")
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(profile, "test") as session:
        record = session.measure(subject, QUICK, request_id="a")
        (problem,) = session.problems
        session.ack(["a"])
    assert not record["environment"]["power_mode"]["pinned"]
    assert "takes effect only with a reboot" in str(problem["message"])
    assert "sudo nvpmodel -m 3, answer YES" in str(problem["fix"])
    assert (jetson / "mode").read_text() == "1\n"
    assert "answered" not in (jetson / "mode.asked").read_text()
    assert configuration_of(profile, record).power_mode == "", "a mode that was not set is not the measurement's"


def test_only_what_nvpmodel_lists_is_ever_asked_for(jetson: Path) -> None:
    outcome = state(jetson).pin("9; reboot")
    assert not outcome["pinned"]
    assert "nvpmodel has 15W (0), 25W (1), MAXN_SUPER (2), 7W (3)" in outcome["reason"]
    assert not (jetson / "mode.asked").exists()
    (jetson / "etc/nvpmodel.conf").rename(jetson / "elsewhere.conf")
    program(jetson / "usr/sbin/nvpmodel", NVPMODEL.format(state=jetson / "mode", conf=jetson / "elsewhere.conf"))
    assert state(jetson).pin("0")["pinned"], "listed by nvpmodel -p where there is no /etc/nvpmodel.conf"
    assert (jetson / "mode").read_text() == "0\n"
    assert state(jetson).restore() == []
    assert (jetson / "mode").read_text() == "1\n"


def test_a_mode_that_is_not_taken_is_found_by_asking_again(jetson: Path) -> None:
    text = (jetson / "usr/sbin/nvpmodel").read_text()
    program(jetson / "usr/sbin/nvpmodel", text.replace('echo "$2" > $STATE', "true"))
    outcome = state(jetson).pin("25W+MAXN_SUPER")
    assert not outcome["pinned"]
    assert "nvpmodel reads 1 after writing 2" in outcome["reason"]
    assert not state(jetson).has_journal


def test_half_of_a_mode_is_taken_back(jetson: Path) -> None:
    outcome = state(jetson).pin("MAXN_SUPER+powersave")
    assert not outcome["pinned"]
    assert "offers ondemand schedutil performance" in outcome["reason"]
    assert (jetson / "mode").read_text() == "1\n"
    assert governors(jetson) == ["ondemand", "schedutil"]


def test_without_rights_the_narrow_rule_is_named(jetson: Path) -> None:
    """As a user whose sudo asks for a password: it is never answered."""
    program(jetson / "usr/bin/sudo", "#!/bin/sh\necho 'sudo: a password is required'\nexit 1\n")
    text = (jetson / "usr/sbin/nvpmodel").read_text()
    program(
        jetson / "usr/sbin/nvpmodel", text.replace("-m)\n", "-m) [ -n \"$BY_SUDO\" ] || { echo 'not root'; exit 1; }\n")
    )
    user = PinnedState(str(jetson / "journal.json"), str(jetson), is_root=False)
    outcome = user.pin("MAXN_SUPER")
    assert not outcome["pinned"]
    assert "for root only" in outcome["reason"]
    assert "NOPASSWD" in outcome["fix"]
    program(jetson / "usr/bin/sudo", '#!/bin/sh\n[ "$1" = -n ] || exit 9\nshift\nexport BY_SUDO=1\nexec "$@"\n')
    assert user.pin("MAXN_SUPER")["pinned"], "with the rule it goes through sudo -n"
    assert user.restore() == []
    assert (jetson / "mode").read_text() == "1\n"


def test_a_lock_that_cannot_be_taken_is_told_where_something_is_to_be_put_back(isolated: Path, root: Path) -> None:
    """A link in the folder of locks is no agent that lives and puts back its own changes."""
    profile = pinning(isolated, root, "performance")
    with Session(profile, "test") as session:
        session.measure(Subject("small", path=small_model(isolated / "m.onnx")), QUICK, request_id="a")
        pid = int(session.hello["agent"]["pid"])
        (lock,) = [path for path in isolated.glob("*.lock") if path.is_file()]
        sent_to(processes_of(pid), signal.SIGKILL)
        wait_until(lambda: not exists(pid))
    lock.unlink()
    lock.symlink_to(isolated / "elsewhere")
    with Session(profile, "test") as session:
        (problem,) = [note for note in session.problems if note["code"] == "not-restored"]
    assert f"the lock {lock} is a symbolic link" in str(problem["message"])
    assert governors(root) == ["performance", "performance"]
    lock.unlink()
    with Session(profile, "test") as session:
        assert session.problems == []
        assert governors(root) == ["ondemand", "schedutil"]


def test_a_journal_is_whole_or_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while the journal is written: nothing was changed, and nothing half is left."""

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    outcome = state(root).pin("performance")
    assert (outcome["pinned"], "No space left" in outcome["reason"]) == (False, True)
    assert governors(root) == ["ondemand", "schedutil"]
    assert [path.name for path in root.iterdir() if "journal" in path.name] == []


def test_what_could_not_be_put_back_stays_in_the_journal_and_nothing_else_does(root: Path) -> None:
    pinned = state(root)
    assert pinned.pin("performance")["pinned"]
    gone = root / "sys/devices/system/cpu/cpu1/cpufreq"
    gone.rename(root / "away")
    (problem,) = state(root).restore()
    assert "could not be set back to schedutil" in problem
    assert governors(root) == ["ondemand"]
    outcome = state(root).pin("performance")
    assert "an earlier change is still to be undone" in outcome["reason"], "the old value is not overwritten"
    (root / "away").rename(gone)
    assert state(root).restore() == []
    assert governors(root) == ["ondemand", "schedutil"]
