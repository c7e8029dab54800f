"""The supervisor: speaks with the host, and owns lock, journal, spool and the two child processes.

    reader thread ──► queue ──► main thread: one request at a time ──► writer
         │                                                               ▲
         └─ last heard, bye, end of input          heartbeat thread ─────┘

When the link is lost the main thread finishes the measurement in hand, spools it, restores the device and exits.
"""

import datetime
import hashlib
import os
import shutil
import signal
import sys
import tempfile
from typing import Any, Dict, List

from device_agents import board
from device_agents.child import Child, ChildDied, ChildSilent
from device_agents.link import Link, Settings, error_message
from device_agents.lock import DeviceLock
from device_agents.measure import PROFILED_RUNS, Measurement, Runtime, load_request
from device_agents.protocol import (
    MAGIC,
    PROTOCOL_VERSION,
    AgentError,
    claim_stdout,
    clock_domain,
    encode,
    now_s,
)
from device_agents.spool import Spool, request_key
from device_agents.state import PinnedState
from device_agents.trace import SAMPLER_DEADLINE_S

# A step of the runtime (loading, a window) may take this much longer than twice its nominal time.
DEFAULT_SLACK_S = 120.0


class Supervisor(object):
    """Answers the host's requests, one at a time; see docs/agent.md for the messages."""

    def __init__(self, settings: Settings, link: Link, run_dir: str) -> None:
        self._settings = settings
        self._link = link
        self._run_dir = run_dir
        self._lock = DeviceLock(settings.lock_path, settings.holder)
        self._state = PinnedState(os.path.join(settings.state_dir, "journal.json"))
        self._spool = Spool(os.path.join(settings.state_dir, "spool.jsonl"))
        self._pinned: Dict[str, Any] = {}
        self._journal_problems: List[str] = []
        self._runtime = Child("runtime")
        self._sampler = Child("sampler")

    def serve(self) -> None:
        """Work until bye, a lost link or a signal; then restore and end both children."""
        handlers = {
            "hello": self.hello,
            "clock": self.clock,
            "inspect": self.inspect,
            "measure": self.measure,
            "ack": self.ack,
            "spooled": self.spooled,
            "ping": self.ping,
        }
        try:
            while not self._link.lost.is_set():
                request = self._link.requests.get()
                if request is None:
                    return
                self._answer(request, handlers)
        finally:
            self._leave()

    def hello(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """What this device is and has."""
        probe = {"op": "probe", "names": request.get("sensors", []), "options": request.get("sensor_options", {})}
        self._sampler.start()
        self._runtime.start()
        sensors = self._sampler.ask(probe, SAMPLER_DEADLINE_S)
        return {
            "device": self._settings.device,
            "serial": board.serial(),
            "identity": board.identity(),
            "runtimes": self._runtime.ask({"op": "probe"}, 60.0),
            "sensors": sensors,
            "clock": clock_domain(),
            "spool": self._spool.keys(),
            "journal_problems": self._journal_problems,
        }

    def clock(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Received and replied: two of the four time stamps of an exchange."""
        received_s = now_s()
        return {"received_s": received_s, "replied_s": now_s()}

    def ping(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Nothing."""
        return {}

    def spooled(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """One result that the host has not acknowledged."""
        record = self._spool.get(str(request.get("key")))
        if record is None:
            raise AgentError("bad-request", "no result %s in the spool" % request.get("key"))
        return {"key": request["key"], "record": record}

    def ack(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Forget results that the host has stored."""
        self._spool.acknowledge(list(request.get("keys", [])))
        return {"spool": self._spool.keys()}

    def inspect(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """A model's optimized graph and the shares of its nodes."""
        self._begin(request)
        runtime = self._runtime_for(request)
        facts = runtime.load(load_request(request, self._run_dir))
        facts.update(runtime.ask({"op": "kernel_facts", "runs": int(request.get("runs", PROFILED_RUNS))}))
        return facts

    def measure(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Measure, or serve what an earlier request of the same id and content measured."""
        if not isinstance(request.get("subject"), dict) or "name" not in request["subject"]:
            raise AgentError("bad-request", "measure needs a subject with a name")
        key = request_key(request)
        known = self._spool.get(key)
        if known is not None:
            return {"key": key, "record": known, "from_spool": True}
        self._begin(request)
        started = datetime.datetime.utcnow().strftime("%Y-%m-%dT%H:%M:%S.%fZ")

        def report(progress: Dict[str, Any]) -> None:
            self._link.send(dict(progress, id=request["id"], event="progress"))

        measurement = Measurement(
            request, self._runtime_for(request), self._sampler, report, self._link.abandoned.is_set
        )
        try:
            record = measurement.run(self._run_dir)
        except AgentError as error:
            if error.code in ("runtime-crashed", "deadline"):
                self._sampler.kill()  # it may be reading what the dead process wrote
            raise
        return self._spooled(key, self._complete(record, started))

    def _complete(self, record: Dict[str, Any], started: str) -> Dict[str, Any]:
        record.setdefault("serial", board.serial())
        record["started_utc"] = started
        environment = dict(board.identity(), agent_hash=agent_hash(), governor=board.governor())
        environment["power_mode"] = self._pinned or None
        environment.update(record.get("environment", {}))
        record["environment"] = environment
        return record

    def _spooled(self, key: str, record: Dict[str, Any]) -> Dict[str, Any]:
        answer = {"key": key, "record": record}
        try:
            self._spool.add(key, record)
        except OSError as error:
            # The link may still carry it; the host is told that a lost link would now lose this result.
            answer["spool_problem"] = "the device could not keep the result: %s" % error
        return answer

    def _begin(self, request: Dict[str, Any]) -> None:
        """Lock the device for the rest of this session, and pin what the profile asks for."""
        self._lock.acquire()
        wanted = request.get("power_mode")
        if wanted and wanted != self._pinned.get("wanted") and request.get("runtime") != "virtual":
            self._pinned = self._state.pin(str(wanted))

    def _runtime_for(self, request: Dict[str, Any]) -> Runtime:
        return Runtime(self._runtime, float(request.get("slack_s", DEFAULT_SLACK_S)))

    def _answer(self, request: Dict[str, Any], handlers: Dict[str, Any]) -> None:
        request_id = request.get("id")
        handler = handlers.get(request["op"])
        try:
            if handler is None or not isinstance(request_id, str):
                raise AgentError(
                    "bad-request", "a request needs an id (text) and one of the ops " + " ".join(sorted(handlers))
                )
            answer = handler(request)
        except (ChildDied, ChildSilent) as end:
            self._link.send(
                error_message(request_id, AgentError("runtime-crashed", "a process of the agent: %s" % end))
            )
            return
        except AgentError as error:
            self._link.send(error_message(request_id, error))
            return
        try:
            line = encode(dict(answer, id=request_id, event="result"))
        except ValueError as error:
            self._link.send(
                error_message(request_id, AgentError("bad-number", "the result holds a number JSON lacks: %s" % error))
            )
            return
        self._link.send_bytes(line)

    def recover(self) -> None:
        """Put back what an agent that was killed, or a power cut, left changed; only while nobody measures."""
        if not self._state.has_journal:
            return
        try:
            self._lock.acquire()
        except AgentError:
            return  # that agent is alive and restores its own changes
        self._journal_problems = self._state.restore()
        self._lock.release()

    def _leave(self) -> None:
        self._link.stop()
        self._runtime.stop()
        self._sampler.stop()
        problems = self._state.restore() if self._pinned else []
        self._lock.release()
        try:
            sys.stderr.write("".join("agent: %s\n" % problem for problem in problems))
            sys.stderr.flush()
        except OSError:
            pass  # the host is gone; the journal is kept, and the next start says it


def agent_hash() -> str:
    """SHA-256 of the zipapp that this process runs from; "unpacked" where it runs from a folder."""
    path = os.path.abspath(sys.argv[0])
    if not os.path.isfile(path) or not path.endswith(".pyz"):
        return "unpacked"
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _terminate(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def run(settings: Settings) -> int:
    """Serve one host over stdin and stdout."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    if not os.path.isdir(settings.state_dir):
        os.makedirs(settings.state_dir)
    fd_out = claim_stdout()
    run_dir = tempfile.mkdtemp(prefix="run-", dir=settings.state_dir)
    try:
        link = Link(0, fd_out, settings)
        supervisor = Supervisor(settings, link, run_dir)
        supervisor.recover()
        magic = {
            "protocol": PROTOCOL_VERSION,
            "agent_hash": agent_hash(),
            "python": ".".join(str(part) for part in sys.version_info[:3]),
            "pid": os.getpid(),
        }
        link.send_bytes(MAGIC.encode("ascii") + encode(magic))
        link.start()
        supervisor.serve()
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)
    return 0
