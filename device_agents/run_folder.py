"""The folder of one agent's temporary files, and those that killed agents left behind."""

import fcntl
import os
import shutil
import tempfile

PREFIX = "run-"


class RunFolder(object):
    """Made in ``parent``, locked for as long as this process lives, and deleted by ``remove``."""

    def __init__(self, parent: str) -> None:
        self._fd = -1
        while self._fd < 0:
            self.path = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
            fd = os.open(self.path, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.path.isdir(self.path):  # or another agent took it for abandoned before it was locked
                self._fd = fd
            else:
                os.close(fd)

    def remove(self) -> None:
        """Delete it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)


def remove_abandoned(parent: str) -> None:
    """Delete the folders of agents that are no more: nobody holds their locks."""
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        if not name.startswith(PREFIX) or not os.path.isdir(path):
            continue
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # its agent has just left
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass  # that agent lives
        finally:
            os.close(fd)
