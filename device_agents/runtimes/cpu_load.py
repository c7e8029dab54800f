"""A load for learning about power sources: hashing on some cores, with the standard library alone; nothing is inferred.

It needs no inference engine, so that a board's sensors can be looked at before anything is installed. SHA-256 of a
large block lets go of Python's global lock, so that threads load as many cores.
"""

import hashlib
import os
import platform
import threading
import time
from typing import Any, Dict, List, Optional, Tuple

from device_agents import timing
from device_agents.protocol import AgentError, now_s

BLOCK = bytes(16384)  # a tenth of a millisecond on a small core: that is how sharp an edge of the load is


def probe() -> Tuple[str, str, str]:
    """Always there."""
    return "ok", "", ""


def load(subject: Dict[str, Any], options: Dict[str, Any], run_dir: str) -> "CpuLoad":
    """The load; ``options``: ``threads``, one less than there are CPUs by default, so that one is left to sample."""
    if subject.get("format") != "load":
        raise AgentError("bad-request", "cpu_load runs format load, not %r" % subject.get("format"))
    threads = int(options.get("threads") or max(1, (os.cpu_count() or 1) - 1))
    if threads < 1:
        raise AgentError("bad-request", "cpu_load needs at least 1 thread, not %d" % threads)
    return CpuLoad(threads)


class CpuLoad(object):
    """So many cores kept busy for as long as asked."""

    def __init__(self, threads: int) -> None:
        self._until_s = 0.0
        self._go = [threading.Semaphore(0) for _ in range(threads - 1)]
        self._ended = False
        self._workers: List[threading.Thread] = []
        for semaphore in self._go:
            worker = threading.Thread(target=self._work, args=(semaphore,))
            worker.daemon = True
            worker.start()
            self._workers.append(worker)

    def facts(self) -> Dict[str, Any]:
        """What the record says."""
        return {
            "runtime_version": platform.python_version(),
            "kind": "measured",
            "subject_sha256": hashlib.sha256(BLOCK).hexdigest(),
            "inputs": {"distribution": "none (a load, nothing is inferred)", "seed": 0},
            "environment": {"load_threads": len(self._go) + 1},
        }

    def run(self, seconds: float, fps: Optional[float]) -> Dict[str, Any]:
        """Load the cores for ``seconds``."""
        if fps is not None:
            raise AgentError("bad-request", "cpu_load has no frames to pace")
        t0_s = now_s()
        self._until_s = t0_s + seconds
        for semaphore in self._go:
            semaphore.release()
        _burn(self._until_s)
        return timing.phase(t0_s, now_s(), [], 0)

    def wait(self, seconds: float) -> Dict[str, Any]:
        """Sleep for ``seconds``."""
        return timing.wait(self, seconds)

    @staticmethod
    def now_s() -> float:
        """The device's clock."""
        return now_s()

    @staticmethod
    def wait_until(until_s: float) -> None:
        """Sleep until a time of the device's clock."""
        left_s = until_s - now_s()
        if left_s > 0.0:
            time.sleep(left_s)

    def conditions(self) -> None:
        """What the board's sysfs says."""
        return None

    def kernel_facts(self, runs: int) -> Dict[str, Any]:
        """Not offered: there are no kernels."""
        raise AgentError("bad-request", "cpu_load has no kernels", "use another runtime")

    def close(self) -> None:
        """End the threads."""
        self._ended = True
        for semaphore in self._go:
            semaphore.release()

    def _work(self, semaphore: threading.Semaphore) -> None:
        while True:
            semaphore.acquire()
            if self._ended:
                return
            _burn(self._until_s)


def _burn(until_s: float) -> None:
    while now_s() < until_s:
        hashlib.sha256(BLOCK)
