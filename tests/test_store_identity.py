"""A store's name: random, made once, its own; and whose results on a device are known by it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from rig.connection.session import Session, Subject
from rig.connection.transport import LocalTransport
from rig.errors import ModelError, StoreError
from rig.store import identity
from rig.store.identity import IDENTITY_FILE, former_identity, store_identity
from tests.agent_setup import QUICK, isolated, local_profile, small_model

__all__ = ["isolated"]  # a fixture


def test_a_name_is_kept_and_is_no_other_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = store_identity(tmp_path / "one")
    assert len(name) == 32
    assert store_identity(tmp_path / "two") != name
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert store_identity(tmp_path / "one") == name
    (tmp_path / "one").rename(tmp_path / "moved")
    assert store_identity(tmp_path / "moved") == name


def test_two_computers_that_look_alike_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers: same account, same name, same folder inside; by the digest of these they were one."""
    same = tmp_path / "home"
    monkeypatch.setattr(socket, "gethostname", lambda: "container")
    first, first_digest = store_identity(same), former_identity(same)
    same.rename(tmp_path / "of the first")
    assert store_identity(same) != first
    assert former_identity(same) == first_digest


def test_several_at_once_get_one_name(tmp_path: Path) -> None:
    found: list[str] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append(store_identity(tmp_path / "home"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("content", [b"", b"not a name\n", b"\xff\xfe", b"0123456789abcdef\n"])
def test_a_damaged_name_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / IDENTITY_FILE).write_bytes(content)
    notes: list[dict[str, str | None]] = []
    name = store_identity(tmp_path, notes.extend)
    assert len(name) == 32
    assert store_identity(tmp_path, notes.extend) == name
    assert (tmp_path / IDENTITY_FILE).read_text().split()[:-1] == [name]
    assert [note["code"] for note in notes] == (["store-name"] if content else []), "an empty file held no name"


def test_a_copy_gets_a_name_of_its_own(tmp_path: Path) -> None:
    notes: list[dict[str, str | None]] = []
    name = store_identity(tmp_path / "home", notes.extend)
    assert notes == [], "a new store had no name before"
    copy = Path(shutil.copytree(tmp_path / "home", tmp_path / "a copy"))
    own = store_identity(copy, notes.extend)
    assert own != name
    assert store_identity(copy, notes.extend) == own
    assert store_identity(tmp_path / "home", notes.extend) == name
    (note,) = notes
    assert note["code"] == "store-name"
    assert "this store is a copy" in str(note["message"])
    (command,) = re.findall("echo .*", str(note["fix"]))
    subprocess.run(["sh", "-c", command], check=True)
    assert store_identity(copy, notes.extend) == name, "as after a move"
    assert len(notes) == 1


def test_another_computer_is_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image of a disk has the same inodes. A store that two computers share has a name for each."""
    names = []
    for number in ("1" * 32, "2" * 32) * 2:
        (tmp_path / "machine-id").write_text(number + "\n")
        monkeypatch.setattr(identity, "MACHINE_IDS", (tmp_path / "none", tmp_path / "machine-id"))
        names.append(store_identity(tmp_path / "home"))
    assert names[:2] == names[2:]
    assert names[0] != names[1]
    assert "1" * 32 not in (tmp_path / "home" / IDENTITY_FILE).read_text()


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_name_without_a_place_is_kept_where_it_is(tmp_path: Path, end: str) -> None:
    """As stores had it before there were places; a copy made later is still known for one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / IDENTITY_FILE).write_text("0123456789abcdef" * 2 + end)
    notes: list[dict[str, str | None]] = []
    assert store_identity(tmp_path / "home", notes.extend) == "0123456789abcdef" * 2
    assert notes == []
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    assert store_identity(tmp_path / "copy", notes.extend) != "0123456789abcdef" * 2
    assert [note["code"] for note in notes] == ["store-name"]
    assert store_identity(tmp_path / "home") == "0123456789abcdef" * 2


def test_a_store_that_cannot_be_named_says_so(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(StoreError, match="naming the store"):
        store_identity(tmp_path / "home")


def left_on_the_device(isolated: Path, request_id: str, asked_by: str) -> None:
    """A result that a killed session left, asked for under a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "asked_by", property(lambda session: asked_by))
        with Session(local_profile(sensors=()), "test") as session:
            session.measure(Subject("small", path=small_model(isolated / "m.onnx")), QUICK, request_id=request_id)
            os.kill(int(session.hello["agent"]["pid"]), signal.SIGKILL)


def test_what_was_asked_under_the_former_name_is_still_taken(isolated: Path) -> None:
    left_on_the_device(isolated, "before", former_identity(isolated / "home"))
    left_on_the_device(isolated, "somebody's", "0" * 16)
    with Session(local_profile(sensors=()), "test") as session:
        record = session.measure(Subject("small", path=small_model(isolated / "m.onnx")), QUICK, request_id="now")
        assert record["asked_by"] == store_identity(isolated / "home")
        os.kill(int(session.hello["agent"]["pid"]), signal.SIGKILL)
    with Session(local_profile(sensors=()), "test") as session:
        assert [record["id"] for record in session.pending(own=True)] == ["before", "now"]
        session.ack(["before", "now"])
    with Session(local_profile(sensors=()), "test") as session:
        assert session.pending(own=True) == []
        assert [record["id"] for record in session.pending()] == ["somebody's"]


def test_what_is_kept_under_the_former_name_is_not_measured_again(isolated: Path) -> None:
    """What ``rig optimize`` and the calibrations rely on: the same request is served from the spool."""
    former = former_identity(isolated / "home")
    left_on_the_device(isolated, "same", former)
    model = small_model(isolated / "m.onnx")
    with Session(local_profile(sensors=()), "test") as session:
        (kept,) = session.hello["spool"]
        record = session.measure(Subject("small", path=model), QUICK, request_id="same")
        assert record["asked_by"] == former
        assert session.hello["spool"] == [kept]
        session.ack(["same"])
        assert session.hello["spool"] == [], "nothing was measured beside it"
        again = session.measure(Subject("small", path=model), QUICK, request_id="same")
        assert again["asked_by"] == store_identity(isolated / "home")
        session.ack(["same"])


def test_a_session_says_that_the_store_has_a_new_name(isolated: Path) -> None:
    (isolated / "home").mkdir()
    (isolated / "home" / IDENTITY_FILE).write_text("damaged\n")
    with Session(local_profile(sensors=()), "test") as session:
        assert session.asked_by == session.asked_by
        (problem,) = session.problems
    assert "was damaged" in str(problem["message"])


class Asked(LocalTransport):
    """Notes which models it is asked after."""

    def __init__(self) -> None:
        super().__init__()
        self.models: list[str] = []

    def exists(self, remote_name: str) -> str | None:
        if remote_name.endswith(".onnx"):
            self.models.append(remote_name)
        return super().exists(remote_name)


def test_after_a_models_error_only_that_model_is_asked_after(isolated: Path) -> None:
    """Of a hundred models that were sent before, one may well be gone: that says nothing of the one that failed."""
    good, broken = small_model(isolated / "good.onnx"), isolated / "broken.onnx"
    broken.write_bytes(b"no model")
    transport = Asked()
    with Session(local_profile(sensors=()), "test", transport=transport) as session:
        session.measure(Subject("good", path=good), QUICK, request_id="a")
        transport.remove(name_of(good))
        transport.models.clear()
        with pytest.raises(ModelError):
            session.measure(Subject("broken", path=broken), QUICK, request_id="b")
        session.ack(["a"])
    assert set(transport.models) == {name_of(broken)}
    assert len(transport.models) == 2, "sent once, looked for once more, not sent again"


def name_of(model: Path) -> str:
    return f"model-{hashlib.sha256(model.read_bytes()).hexdigest()}.onnx"
