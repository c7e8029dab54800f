"""The agent over a real OpenSSH server on loopback: keys checked, files put, links cut."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from rig.connection.session import Session, Subject
from rig.connection.ssh import SshTransport
from rig.errors import DeviceSetupError
from rig.profiles import DeviceProfile, TransportSettings
from tests.agent_setup import QUICK, exists, isolated, local_profile, small_model, wait_until
from tests.fakes.sshd import LoopbackSshd

__all__ = ["isolated"]  # a fixture


def transport(sshd: LoopbackSshd) -> SshTransport:
    return SshTransport("127.0.0.1", sshd.user, sshd.port, str(sshd.identity), str(sshd.known_hosts))


def profile(sshd: LoopbackSshd, **changes: object) -> DeviceProfile:
    settings = TransportSettings(
        kind="ssh",
        host="127.0.0.1",
        user=sshd.user,
        port=sshd.port,
        identity_file=str(sshd.identity),
        known_hosts=str(sshd.known_hosts),
    )
    return local_profile(name="board", transport=settings, sensors=(), **{"python": sys.executable, **changes})


def test_measures_over_ssh_and_serves_the_spool_after_a_cut(sshd: LoopbackSshd, isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(profile(sshd), "test") as session:
        first = session.measure(subject, QUICK, request_id="a")
        assert first["runtime"] == "onnxruntime"
        sshd.restart()
        second = session.measure(subject, QUICK, request_id="b")
        assert session.measure(subject, QUICK, request_id="a") == first
        session.ack(["a", "b"])
        assert second["id"] == "b"
    with Session(profile(sshd), "test") as session:
        assert session.pending() == []


def test_the_link_cut_while_measuring_loses_nothing(sshd: LoopbackSshd, isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    plan = QUICK._replace(min_windows=40, rel_ci=1e-6, max_s=1.5)
    with Session(profile(sshd), "test") as session:
        pid, cut = int(session.hello["agent"]["pid"]), []

        def cut_once(progress: object) -> None:
            if not cut:
                cut.append(True)
                for connection in sshd.sessions():
                    # The agent is in the list too: only sshd's own processes are the link.
                    if Path(f"/proc/{connection}/comm").read_text().startswith("sshd"):
                        os.kill(connection, signal.SIGKILL)

        record = session.measure(subject, plan, request_id="a", on_progress=cut_once)
        assert int(session.hello["agent"]["pid"]) != pid
        assert record["id"] == "a"
        session.ack(["a"])
    wait_until(lambda: not exists(pid))


def test_unknown_host_key_is_refused_with_the_step(sshd: LoopbackSshd) -> None:
    sshd.known_hosts.write_text("")
    with pytest.raises(DeviceSetupError, match="host key is not known") as error:
        transport(sshd).run(["true"])
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1" in str(error.value.fix)


def test_changed_host_key_is_refused_with_the_step(sshd: LoopbackSshd) -> None:
    sshd.new_host_key()
    sshd.restart()
    with pytest.raises(DeviceSetupError, match="host key has changed") as error:
        transport(sshd).run(["true"])
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}'" in str(error.value.fix)


def test_refused_login_and_missing_key_file(sshd: LoopbackSshd) -> None:
    (sshd.folder / "authorized_keys").write_text("")
    with pytest.raises(DeviceSetupError, match="login was refused"):
        transport(sshd).run(["true"])
    absent = SshTransport("127.0.0.1", sshd.user, sshd.port, str(sshd.folder / "absent"), str(sshd.known_hosts))
    with pytest.raises(DeviceSetupError, match="does not exist"):
        absent.run(["true"])


def test_unreachable_host() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(DeviceSetupError, match="cannot be reached"):
            SshTransport("127.0.0.1", port=port).run(["true"])


def test_arguments_are_quoted_not_interpreted(sshd: LoopbackSshd, isolated: Path) -> None:
    ssh = transport(sshd)
    nasty = f"$(touch {isolated / 'pwned'}); `id` 'x' \"y\""
    channel = ssh.run(["printf", "%s", nasty])
    assert channel.stdout.read().decode() == nasty
    assert channel.wait(5.0) == 0
    assert not (isolated / "pwned").exists()
    ssh.close()


def test_files_are_put_whole(sshd: LoopbackSshd, isolated: Path) -> None:
    ssh = transport(sshd)
    name = f"test-{os.getpid()}.bin"
    local = isolated / "local.bin"
    local.write_bytes(os.urandom(100_000))
    assert ssh.exists(name) is None
    remote = ssh.put(local, name)
    try:
        assert Path(remote).read_bytes() == local.read_bytes()
        assert ssh.exists(name) == remote
    finally:
        ssh.remove(name)
    assert ssh.exists(name) is None
    ssh.close()


def test_no_python_and_python_too_old_are_setup_errors(sshd: LoopbackSshd, isolated: Path) -> None:
    with pytest.raises(DeviceSetupError, match="no Python there"), Session(profile(sshd, python="python-none"), "test"):
        pass
    ancient = isolated / "ancient-python"
    ancient.write_text("#!/bin/sh\necho 'rig-agent: Python 3.5 is too old, 3.6 is needed' >&2\nexit 97\n")
    ancient.chmod(0o755)
    with pytest.raises(DeviceSetupError, match="too old"), Session(profile(sshd, python=str(ancient)), "test"):
        pass


def test_login_banners_are_skipped(sshd: LoopbackSshd, isolated: Path) -> None:
    chatty = isolated / "chatty-python"
    chatty.write_text(f'#!/bin/sh\necho Welcome to the board\necho Last login: never\nexec {sys.executable} "$@"\n')
    chatty.chmod(0o755)
    with Session(profile(sshd, python=str(chatty)), "test") as session:
        assert session.hello["device"] == "board"
