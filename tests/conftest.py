"""What tests of several folders share: a device lock of the worker's own, and a board that is reached by SSH."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.sshd import LoopbackSshd


@pytest.fixture(scope="session", autouse=True)
def lock_of_this_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Several workers at once (pytest-xdist): two workers' measurements disturb each other, but need not wait."""
    if "PYTEST_XDIST_WORKER" not in os.environ or "RIG_LOCK_DIR" in os.environ:
        yield
        return
    os.environ["RIG_LOCK_DIR"] = str(tmp_path_factory.mktemp("lock"))
    yield
    del os.environ["RIG_LOCK_DIR"]


@pytest.fixture
def sshd(isolated: Path) -> Iterator[LoopbackSshd]:
    """A real OpenSSH server on loopback, whose sessions have caches and a device lock of their own."""
    if shutil.which("sshd") is None and not os.path.exists("/usr/sbin/sshd"):
        pytest.skip("openssh-server is not installed")
    home = isolated / "device-home"
    home.mkdir()
    environment = {"XDG_CACHE_HOME": str(home / ".cache"), "RIG_LOCK_DIR": str(home), "OMP_NUM_THREADS": "1"}
    with LoopbackSshd(isolated / "sshd", environment, home) as server:
        yield server
