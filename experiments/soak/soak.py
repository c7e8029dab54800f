"""Many measurements on the real agent over SSH on loopback, with random faults: nothing lost, none doubled.

     this process ──► host (campaign.py)  ── SSH ──  proxy ── sshd ── supervisor ─ runtime, sampler
        │               killed, torn store           cut,                killed, power cut with a torn spool,
        └─ a fault after every few measurements      half open           a power source that dies or prints garbage

python experiments/soak/soak.py [--measurements 2000] [--seed 0] [--folder build/soak]

Stopped and given again with the same folder it goes on. Ends with results.json beside this file (``--out`` elsewhere),
and exit status 1 where anything was lost, doubled or left behind.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.soak.torment import AUDIT, WEIGHTS, Board, inflict
from rig.store.store import Store
from tests.agent_setup import wait_until
from tests.fakes.sshd import LoopbackSshd
from tests.faults.interpreters import with_rogue_sensor, wrapped
from tests.faults.proxy import LinkProxy

HERE = Path(__file__).resolve().parent
BETWEEN = (3, 9)  # measurements between two faults, at random
GOVERNORS = ("ondemand", "schedutil")


class Soak:
    """``folder``: everything of one soak; a second start with the same folder goes on."""

    def __init__(self, folder: Path, measurements: int, seed: int, real_share: float) -> None:
        self.folder = folder
        self.lines = folder / "home" / "runs" / "c-0001" / "measurements.jsonl"
        self.measurements = measurements
        self.seed = seed
        self.real_share = real_share
        self._counted = (0, 0)  # bytes, lines
        self.state: dict[str, Any] = {"events": 0, "faults": {}, "host_starts": 0, "seconds": 0.0}
        with contextlib.suppress(FileNotFoundError):
            self.state = json.loads((folder / "state.json").read_text())

    def run(self) -> dict[str, Any]:
        """Measure until all are stored; returns the results."""
        began_s = time.monotonic() - self.state["seconds"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._board() as board:
            host = self._start_host(board)
            try:
                while True:
                    chance = random.Random(f"{self.seed}-{self.state['events']}")
                    ended = self._wait(host, chance.randint(*BETWEEN))
                    self.state["seconds"] = time.monotonic() - began_s
                    (self.folder / "state.json").write_text(json.dumps(self.state))
                    if ended and self.stored() >= self.measurements:
                        break
                    if ended:
                        raise SystemExit(f"the host ended with status {host.wait()}: see {self.folder / 'host.log'}")
                    host = self._torment(board, host, chance)
            finally:
                host.kill()
                host.wait()
            wait_until(lambda: not board.agents(), 60.0)
            return self._results(board)

    def stored(self) -> int:
        """How many measurements the host has stored; what was counted before is not read again."""
        if self.lines.exists():
            with self.lines.open("rb") as file:
                file.seek(self._counted[0])
                whole = file.read().rpartition(b"\n")[:2]
            self._counted = (self._counted[0] + len(b"".join(whole)), self._counted[1] + b"".join(whole).count(b"\n"))
        return self._counted[1]

    @contextlib.contextmanager
    def _board(self) -> Any:
        home, root = self.folder / "board", self.folder / "root"
        for cpu, governor in enumerate(GOVERNORS):
            tree = root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
            tree.mkdir(parents=True, exist_ok=True)
            if not (tree / "scaling_governor").exists():
                (tree / "scaling_governor").write_text(governor + "\n")
                (tree / "scaling_available_governors").write_text("ondemand schedutil performance\n")
        home.mkdir(exist_ok=True)
        orders = self.folder / "orders"
        if not (self.folder / "python").exists():
            site = AUDIT.format(path=str(self.folder / "audit"))
            python = with_rogue_sensor(self.folder / "device", orders, site)
            options = f'$([ "$3" = supervise ] && echo --root {root})'
            wrapped(self.folder / "python", python, after=options)
        environment = {"XDG_CACHE_HOME": str(home / ".cache"), "RIG_LOCK_DIR": str(home), "OMP_NUM_THREADS": "1"}
        with LoopbackSshd(self.folder / "sshd", environment, home) as sshd:
            cable = LinkProxy(sshd.port)
            key = sshd.known_hosts.read_text().split(maxsplit=1)[1]
            sshd.known_hosts.write_text(f"[127.0.0.1]:{cable.port} {key}")
            try:
                yield Board(sshd, cable, home, orders, root)
            finally:
                cable.close()

    def _start_host(self, board: Board) -> subprocess.Popen[bytes]:
        self.state["host_starts"] += 1
        settings = {
            "port": board.cable.port,
            "user": board.sshd.user,
            "identity_file": str(board.sshd.identity),
            "known_hosts": str(board.sshd.known_hosts),
            "python": str(self.folder / "python"),
            "measurements": self.measurements,
            "real_share": self.real_share,
            "folder": str(self.folder),
        }
        own = {"RIG_HOME": "home", "XDG_CACHE_HOME": "cache", "RIG_CONFIG": "config"}
        environment = {**os.environ, **{name: str(self.folder / value) for name, value in own.items()}}
        with (self.folder / "host.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(HERE / "campaign.py"), json.dumps(settings)], env=environment, stderr=log
            )

    def _wait(self, host: subprocess.Popen[bytes], count: int) -> bool:
        """Until ``count`` more are stored; True where the host ended."""
        wanted = self.stored() + count
        deadline_s = time.monotonic() + 180.0
        while self.stored() < wanted:
            if host.poll() is not None:
                return True
            if time.monotonic() > deadline_s:
                raise SystemExit(f"nothing was stored for 180 s: see {self.folder / 'host.log'}")
            time.sleep(0.01)
        return False

    def _torment(self, board: Board, host: subprocess.Popen[bytes], chance: random.Random) -> subprocess.Popen[bytes]:
        """One fault, at a random moment of a measurement; returns the host's process, a new one where it was killed."""
        fault = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        time.sleep(chance.uniform(0.0, 0.05))
        self.state["events"] += 1
        faults = self.state["faults"]
        if not inflict(fault, board, host, self.lines):
            faults["nobody there to hit"] = faults.get("nobody there to hit", 0) + 1
            return host
        faults[fault] = faults.get(fault, 0) + 1
        return self._start_host(board) if fault.startswith("host killed") else host

    def _results(self, board: Board) -> dict[str, Any]:
        records = list(Store(self.folder / "home").open_run("c-0001").measurements(arrays=False))
        times = collections.Counter(record["id"] for record in records)
        stored = {record["id"]: record["started_utc"] for record in records}
        audit = [json.loads(line) for line in (self.folder / "audit").read_text().splitlines()]
        spools = list((board.home / ".cache/rig/state").glob("*/spool.jsonl"))
        governors = [path.read_text().strip() for path in sorted(board.root.rglob("scaling_governor"))]
        left = {
            "processes": len(board.agents()),
            "results in spools": sum(path.read_bytes().count(b"\n") for path in spools),
            "folders of killed agents": len(list((board.home / ".cache/rig/state").glob("*/run-*"))),
            "journals": len(list((board.home / ".cache/rig/state").glob("*/journal.json"))),
            "governors changed": sum(now != before for now, before in zip(governors, GOVERNORS, strict=True)),
        }
        return {
            "measurements": self.measurements,
            "seed": self.seed,
            "finished_utc": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "seconds": round(self.state["seconds"], 1),
            "faults": dict(sorted(self.state["faults"].items())),
            "faults_in_all": sum(self.state["faults"].values()) - self.state["faults"].get("nobody there to hit", 0),
            "host_starts": self.state["host_starts"],
            "stored": len(times),
            "lost": self.measurements - len(times) + sum(identity not in stored for identity, _ in audit),
            "doubled": sum(count - 1 for count in times.values())
            + sum(stored.get(identity, started) != started for identity, started in audit),
            "of_them_real_time": sum(record["kind"] == "measured" for record in records),
            "with_a_refused_trace": sum(bool(record["trace_problem"]) for record in records),
            "results_spooled": len(audit),
            "left_behind": left,
        }


def main() -> int:
    """Run the soak and write its results."""
    parser = argparse.ArgumentParser(description="Many measurements with random faults.")
    parser.add_argument("--measurements", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real-share", type=float, default=0.05, help="of them with ONNX Runtime, in real time")
    parser.add_argument("--folder", type=Path, default=Path("build/soak"))
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    soak = Soak(chosen.folder.resolve(), chosen.measurements, chosen.seed, chosen.real_share)
    results = soak.run()
    chosen.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    return 1 if results["lost"] or results["doubled"] or any(results["left_behind"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
