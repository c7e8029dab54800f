"""Several workers at once (pytest-xdist): each has this computer to itself, as far as the device lock goes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def lock_of_this_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A device lock of the worker's own: two workers' measurements disturb each other, but need not wait."""
    if "PYTEST_XDIST_WORKER" not in os.environ or "RIG_LOCK_DIR" in os.environ:
        yield
        return
    os.environ["RIG_LOCK_DIR"] = str(tmp_path_factory.mktemp("lock"))
    yield
    del os.environ["RIG_LOCK_DIR"]
