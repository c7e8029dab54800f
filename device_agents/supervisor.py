"""The supervisor: speaks with the host, and owns lock, journal, spool and the two child processes.

    reader thread ──► queue ──► main thread: one request at a time ──► writer
         │                                                               ▲
         └─ last heard, bye, end of input          heartbeat thread ─────┘

When the link is lost the main thread finishes the measurement in hand, spools it, restores the device and exits.
"""

import datetime
import hashlib
import os
import signal
import sys
from typing import Any, Dict, List, Optional

from device_agents import board
from device_agents.child import Child, ChildDied, ChildSilent
from device_agents.examination import examine
from device_agents.link import Link, Settings, error_message
from device_agents.load import LoadPattern
from device_agents.lock import DeviceLock
from device_agents.measure import PROFILED_RUNS, Measurement, Runtime, load_request
from device_agents.model_files import SentModels
from device_agents.power_modes import gpu_clocks
from device_agents.probing import probe_sources
from device_agents.protocol import (
    MAGIC,
    NOT_WRITABLE,
    PROTOCOL_VERSION,
    STORAGE_STATUS,
    AgentError,
    claim_stdout,
    clock_domain,
    encode,
    now_s,
    storage_error,
)
from device_agents.raw_tree import raw_tree
from device_agents.run_folder import RunFolder, remove_abandoned
from device_agents.spool import Spool, request_key
from device_agents.state import PinnedState

# A step of the runtime (loading, a window) may take this much longer than twice its nominal time.
DEFAULT_SLACK_S = 120.0


class Supervisor(object):
    """Answers the host's requests, one at a time; see docs/agent.md for the messages."""

    def __init__(self, settings: Settings, link: Link, run_dir: str) -> None:
        self._settings = settings
        self._link = link
        self._run_dir = run_dir
        self._lock = DeviceLock(settings.lock_path, settings.holder)
        self._state = PinnedState(os.path.join(settings.state_dir, "journal.json"), settings.root)
        self._spool = Spool(os.path.join(settings.state_dir, "spool.jsonl"))
        self._models = SentModels(settings.state_dir)
        self._pinned: Dict[str, Any] = {}
        self._gpu_clocks: Optional[List[str]] = None
        self._journal_problems: List[str] = []
        self._runtime = Child("runtime")
        self._sampler = Child("sampler", patience_s=settings.source_patience_s)

    def serve(self) -> None:
        """Work until bye, a lost link or a signal; then restore and end both children."""
        handlers = {
            "hello": self.hello,
            "clock": self.clock,
            "inspect": self.inspect,
            "measure": self.measure,
            "load": self.load,
            "examine": self.examine,
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
        self._runtime.start()
        sensors = probe_sources(self._sampler, list(request.get("sensors", [])), request.get("sensor_options", {}))
        return {
            "device": self._settings.device,
            "serial": board.serial(),
            "identity": board.identity(),
            "runtimes": self._runtime.ask({"op": "probe", "only": request.get("runtime")}, 60.0),
            "sensors": sensors,
            "clock": clock_domain(),
            "spool": self._spool.keys(),
            "journal_problems": self._journal_problems,
            "spool_problems": self._spool.problems,
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
        if known is None:
            self._begin(request)
            known = self._spool.get(key)  # the agent that had the device until now may have measured it
        if known is not None:
            return {"key": key, "record": known, "from_spool": True}
        started = datetime.datetime.utcnow().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        tree_before = [] if request.get("runtime") == "virtual" else raw_tree()

        def report(progress: Dict[str, Any]) -> None:
            self._link.send(dict(progress, id=request["id"], event="progress"))

        measurement = Measurement(
            request,
            self._runtime_for(request),
            self._sampler,
            report,
            self._link.abandoned.is_set,
            lambda: self._link.is_enough(request["id"]),
        )
        try:
            record = measurement.run(self._run_dir)
        except AgentError as error:
            if error.code in ("runtime-crashed", "deadline"):
                self._sampler.kill()  # it may be reading what the dead process wrote
            raise
        return self._spooled(key, self._complete(record, started, tree_before))

    def load(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """A known load with some power sources sampled under it: what ``rig doctor`` learns a sensor from."""
        self._begin(request)
        extra = [Child("sampler", patience_s=self._settings.source_patience_s) for _ in request.get("sources", [])[1:]]

        def report(progress: Dict[str, Any]) -> None:
            self._link.send(dict(progress, id=request["id"], event="progress"))

        runtime = self._runtime_for(request)
        pattern = LoadPattern(request, runtime, [self._sampler] + extra, report, self._link.abandoned.is_set)
        try:
            answer = pattern.run(self._run_dir)
        finally:
            for sampler in extra:
                sampler.kill()
        answer.setdefault("serial", board.serial())
        return dict(answer, agent_hash=agent_hash(), governor=board.governor(), power_mode=self._pinned or None)

    def examine(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Governor, heat, room on the disk and libraries: nothing is changed."""
        return examine(self._settings.state_dir)

    def _complete(self, record: Dict[str, Any], started: str, tree_before: List[Dict[str, str]]) -> Dict[str, Any]:
        record.setdefault("serial", board.serial())
        record["started_utc"] = started
        environment = dict(board.identity(), agent_hash=agent_hash(), governor=board.governor())
        environment["power_mode"] = self._pinned or None
        if record.get("kind") != "simulated":
            if self._gpu_clocks is None:
                self._gpu_clocks = gpu_clocks() or []
            environment["gpu_clocks"] = self._gpu_clocks or None
        environment.update(record.get("environment", {}))
        record["environment"] = environment
        if record.get("kind") != "simulated":
            trees = {"device_before": tree_before, "device_after": raw_tree()}
            record["evidence"] = dict(record.get("evidence", {}), **trees)
        return record

    def _spooled(self, key: str, record: Dict[str, Any]) -> Dict[str, Any]:
        answer = {"key": key, "record": record}
        try:
            self._spool.add(key, record)
        except OSError as error:
            # The link may still carry it; the host is told that a lost link would now lose this result.
            answer["spool_problem"] = storage_error(error, "the device could not keep the result").to_json()
        return answer

    def _begin(self, request: Dict[str, Any]) -> None:
        """Lock the device for the rest of this session, and pin what the profile asks for."""
        self._models.hold(request)
        if not self._lock.held:
            self._lock.acquire()
            # What the one before left changed, now that it is gone for certain.
            self._journal_problems = self._state.restore()
            self._models.remove_abandoned(request)
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
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
            self._link.send(error_message(request_id, storage_error(error, "during %s" % request["op"])))
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
        """Put back what an agent that was killed, or a power cut, left changed (only while nobody measures)."""
        remove_abandoned(self._settings.state_dir)
        if not self._state.has_journal:
            return
        try:
            self._lock.acquire()
        except AgentError as error:
            if error.code != "busy":  # else that agent is alive and restores its own changes
                why = "%s (%s)" % (error.message, error.fix) if error.fix else error.message
                self._journal_problems = ["what an agent that was cut off had changed is not set back: %s" % why]
            return
        self._journal_problems = self._state.restore()
        self._lock.release()

    def _leave(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # restoring is not to be cut short
        self._link.stop()
        self._runtime.stop()
        self._sampler.stop()
        self._models.release()
        problems = self._state.restore() if self._lock.held else []
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
    fd_out = claim_stdout()
    try:
        if not os.path.isdir(settings.state_dir):
            os.makedirs(settings.state_dir)
        folder = RunFolder(settings.state_dir)
        link = Link(0, fd_out, settings)
        supervisor = Supervisor(settings, link, folder.path)
        supervisor.recover()
    except OSError as error:
        refusal = storage_error(error, "the agent cannot keep its state in %s" % settings.state_dir)
        sys.stderr.write("rig-agent: %s. Fix: %s\n" % (refusal.message, refusal.fix))
        return STORAGE_STATUS
    try:
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
        folder.remove()
    return 0
