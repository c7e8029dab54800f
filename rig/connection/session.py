"""A conversation with the agent on a device: ship it, shake hands, ask, survive a broken link, hang up.

    with Session(profile, "rig measure") as session:
        record = session.measure(subject, plan, request_id="m-0001-1")
        ...store and fsync...
        session.ack([record["id"]])

A result that was measured but not acknowledged stays on the device: ``pending()`` gives it, and asking for the same
measurement under the same id returns it without measuring again. How the agent is reached, and reached again, is
``device_line``.
"""

from __future__ import annotations

import getpass
import hashlib
import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from device_agents.protocol import now_s
from device_agents.records import KernelSpec, MeasurePlan
from device_agents.spool import request_key
from rig.connection.agent_bundle import AgentBundle
from rig.connection.agent_link import AgentLink
from rig.connection.clock import ClockMap, Exchange, compare_clocks, fit_clock
from rig.connection.device_line import REBOOT_S, DeviceLine, Patience
from rig.connection.device_problems import device_problems
from rig.connection.transport import Transport
from rig.errors import BadInputError, DeviceError, ModelError
from rig.profiles import DeviceProfile
from rig.sensors.store import SOURCES_FILE, InForce, sensor_known, serial_of, with_sensor_knowledge
from rig.store.identity import former_identity, rig_home, store_identity

if TYPE_CHECKING:
    from rig.meters.host_meter import HostMeter

# A runtime's step may take twice its nominal time and this much more before the agent ends it.
SLACK_S = 120.0


@dataclass(frozen=True)
class Subject:
    """What is measured: an ONNX file, or a list of kernels (virtual runtime).

    ``shape``: of the inputs that the model leaves open: one shape, or input name → shape.
    """

    name: str
    path: Path | None = None
    kernels: list[KernelSpec] | None = None
    shape: list[int] | dict[str, list[int]] | None = None


class Session:
    """One agent on one device.

    ``holder``: who measures, as others are told. ``transport``, ``bundle``: the profile's and the installed one by
    default. Raises DeviceSetupError, DeviceBusyError, TransientDeviceError (a broken link is retried first),
    BadInputError.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        holder: str,
        *,
        transport: Transport | None = None,
        bundle: AgentBundle | None = None,
        heartbeat_s: float = 2.0,
        lost_after_s: float = 20.0,
        reboot_s: float = REBOOT_S,
    ) -> None:
        self.profile = profile
        who = f"{holder} of {getpass.getuser()}@{socket.gethostname()} (session {secrets.token_hex(4)})"
        patience = Patience(heartbeat_s, lost_after_s, reboot_s)
        self._line = DeviceLine(profile, who, transport, bundle, patience, self._note)
        self._spool_keys: dict[str, list[str]] = {}
        self._sent_models: set[str] = set()
        self._asked_model: str | None = None  # the file of the request in hand, on the device
        self._exchanges: list[Exchange] = []
        self._meter: HostMeter | None = None
        self._problems: dict[str, dict[str, str | None]] = {}
        self._in_force = InForce(profile.name)

    def __enter__(self) -> Session:
        self.profile.require_host()
        try:
            self._line.lay()
        except BaseException:
            self.close(abandon=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(abandon=error is not None)

    @property
    def hello(self) -> dict[str, Any]:
        """What the agent said of itself and the device; empty before the session was entered."""
        return self._line.hello

    @property
    def source(self) -> str | None:
        """The power source in use: the first of the profile's that works; None where none does."""
        states = self.hello["sensors"]
        return next((name for name in self.profile.sensors if states[name]["state"] == "ok"), None)

    @property
    def meter_name(self) -> str | None:
        """The meter wired to the host, where the profile has one."""
        meter = self._host_meter()
        return None if meter is None else meter.name

    @property
    def power_source(self) -> str | None:
        """What gives the watts: the profile's meter at the host, else ``source``."""
        meter = self._host_meter()
        return self.source if meter is None else meter.name

    def measures_for(self, run_folder: Path) -> None:
        """Records are from now on of this run: all are read by the characterization and calibration of the power
        source that were in force when it began (``rig.sensors.store.InForce``)."""
        self._in_force.keep_in(run_folder / SOURCES_FILE)
        if self.power_source is None:
            return
        serial = serial_of(self.profile, self.hello)
        for words in self._in_force.superseded(serial, self.power_source):
            message = f"{run_folder.name} began with what was known then: the {words}"
            fix = "go on, or begin a run of its own (rig calibrate: --fresh)"
            self._note([{"code": "older-calibration", "message": message, "fix": fix}])

    @property
    def problems(self) -> list[dict[str, str | None]]:
        """What went wrong beside the measurements, each once: code, message, fix (in the form of a warning)."""
        return list(self._problems.values())

    @property
    def asked_by(self) -> str:
        """Whose measurements these are, as their records say: the name of this store."""
        return store_identity(rig_home(), self._note)

    def measure(
        self,
        subject: Subject,
        plan: MeasurePlan,
        *,
        request_id: str,
        profile: bool = False,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Measure a subject and return its MeasureRecord; acknowledge it once stored."""
        meter = self._host_meter()
        plan = plan if meter is None else meter.plan_for(plan)
        exchanges: list[Exchange] = []
        longest_s = 2.0 * (plan.cooldown_s + 2.0 * plan.quiet_s + plan.warmup_max_s + plan.max_s) + 4.0 * SLACK_S

        def ask() -> dict[str, Any]:
            if meter is not None:
                exchanges.extend(self._exchange_clocks())
            request = {
                "id": request_id,
                "op": "measure",
                "runtime": self.profile.runtime.name,
                "options": self.profile.runtime.options,
                "source": self.source if meter is None else None,
                "external_source": None if meter is None else meter.request,
                "source_options": self.profile.sensor_options.get(self.source or "", {}),
                "sensor_known": sensor_known(self.profile, self.hello, self.source, self._in_force),
                "power_mode": self.profile.power_mode,
                "subject": self._sent_subject(subject),
                "plan": plan.to_json(),
                "profile": profile,
                "slack_s": SLACK_S,
            }
            request["asked_by"] = self._asked_by(request)
            heard = on_progress if meter is None else self._judging(meter, plan, exchanges, request_id, on_progress)
            return self._connection.ask(request, longest_s, heard)

        if meter is not None:
            meter.begin()
        answer = self._when_free(ask, longest_s)
        if meter is not None:
            exchanges += self._line.again(self._exchange_clocks)
        return self._received(answer, exchanges)

    def inspect(
        self, path: Path, shape: list[int] | dict[str, list[int]] | None = None, runs: int = 30
    ) -> dict[str, Any]:
        """The runtime's optimized graph (``model_b64``), its nodes with their shares, and the unprofiled total."""

        def ask() -> dict[str, Any]:
            subject = self._sent_subject(Subject(path.stem, path=path, shape=shape))
            request = {
                "id": self._line.next_id(),
                "op": "inspect",
                "runtime": self.profile.runtime.name,
                "options": self.profile.runtime.options,
                "power_mode": self.profile.power_mode,
                "subject": subject,
                "runs": runs,
                "slack_s": SLACK_S,
            }
            return self._connection.ask(request, 3.0 * SLACK_S)

        return self._when_free(ask, SLACK_S)

    def load(
        self,
        runtime: str,
        options: dict[str, Any],
        subject: Subject | None,
        steps: Sequence[tuple[float, float]],
        sources: Sequence[dict[str, Any]] = (),
        lag_s: float = 0.0,
        with_meter: bool = False,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Load the device on and off while ``sources`` are sampled at once (docs/agent.md, ``load``).

        ``subject``: None for the plain CPU load; ``steps``: seconds on and off; ``sources``: name and options;
        ``lag_s``: waited before and after; ``with_meter``: the host's meter is the last of the sources.
        """
        longest_s = 2.0 * sum(on_s + off_s for on_s, off_s in steps) + 2.0 * SLACK_S

        def ask() -> dict[str, Any]:
            request = {
                "id": self._line.next_id(),
                "op": "load",
                "runtime": runtime,
                "options": options,
                "power_mode": self.profile.power_mode,
                "subject": {"name": "load", "format": "load"} if subject is None else self._sent_subject(subject),
                "steps": [list(step) for step in steps],
                "sources": list(sources),
                "lag_s": lag_s,
                "slack_s": SLACK_S,
            }
            return self._connection.ask(request, longest_s, on_progress)

        meter = self._host_meter() if with_meter else None
        exchanges: list[Exchange] = []
        if meter is not None:
            meter.begin()
            exchanges += self._line.again(self._exchange_clocks)
        answer = self._when_free(ask, longest_s)
        if meter is not None:
            exchanges += self._line.again(self._exchange_clocks)
            spans = answer["spans"]
            whole = {"external_source": meter.request, "phases": [{"t0_s": spans[0][0], "t1_s": spans[-1][2]}]}
            part = meter.attach({**whole, "trace": None, "clock": None, "trace_problem": None}, exchanges)
            answer["sources"].append({**part, "name": meter.name, "usage": None})
        return answer

    def examine(self) -> dict[str, Any]:
        """Governor, temperatures, free disk and library versions of the device; nothing is changed or locked."""
        return self._line.again(lambda: self._line.ask({"op": "examine"}, 60.0))

    def ack(self, ids: Iterable[str]) -> None:
        """Tell the device that the records with these ids are stored; it then forgets them."""
        keys = [key for record_id in ids for key in self._spool_keys.pop(record_id, [])]
        if keys:
            answer = self._line.again(lambda: self._line.ask({"op": "ack", "keys": keys}, 60.0))
            self.hello["spool"] = answer["spool"]

    def pending(self, wanted: Callable[[str], bool] = lambda identity: True, own: bool = False) -> list[dict[str, Any]]:
        """Records that an earlier session measured and nobody acknowledged; store them, then ``ack``.

        ``wanted``: of which ids; ``own``: only what this store asked for. The others stay where they are, whatever is
        acknowledged: two stores may count their runs alike.
        """
        known = {key for keys in self._spool_keys.values() for key in keys}
        records = []
        for key in self.hello["spool"]:
            if key not in known and wanted(key.rpartition("@")[0]):
                request = {"op": "spooled", "key": key}
                answer = self._line.again(lambda request=request: self._line.ask(request, 60.0))
                if own and answer["record"].get("asked_by") not in (self.asked_by, former_identity(rig_home())):
                    continue
                records.append(self._received(answer, self._line.again(self._exchange_clocks) if self._meter else ()))
        return records

    def clock(self) -> ClockMap:
        """The device's clock against ``time.monotonic()`` here; call it at several moments to learn the drift."""

        def ask() -> tuple[float, float]:
            answer = self._line.ask({"op": "clock"}, 30.0)
            return answer["received_s"], answer["replied_s"]

        self._exchanges.extend(self._line.again(lambda: compare_clocks(ask)))
        return fit_clock(self._exchanges)

    @property
    def clock_exchanges(self) -> list[Exchange]:
        """The exchanges of four time stamps behind ``clock()``."""
        return list(self._exchanges)

    def close(self, abandon: bool = False) -> None:
        """Say goodbye; ``abandon`` ends a measurement in hand at its next window instead of finishing it."""
        if self._meter is not None:
            self._meter.close()
        link = self._line.hang_up(abandon)
        try:
            for name in self._sent_models if link is not None else ():
                self._line.transport.remove(name)
        except (DeviceError, OSError) as error:
            sys.stderr.write(f"rig: models stay in the cache of {self.profile.name}: {error}\n")
        self._line.close()

    @property
    def _connection(self) -> AgentLink:
        return self._line.link

    def _host_meter(self) -> HostMeter | None:
        """The meter wired to the host, where the profile has one (``rig.meters``)."""
        if self._meter is None and self.profile.meter is not None:
            if self.profile.simulated:
                raise BadInputError(f"{self.profile.name} is simulated: no meter sees it", fix="remove its [meter]")
            from rig.meters.host_meter import HostMeter

            self._meter = HostMeter(self.profile.meter, secrets.token_hex(8))
        return self._meter

    def _exchange_clocks(self) -> list[Exchange]:
        """The device's clock asked from the host's, on which a meter's samples are."""

        def ask() -> tuple[float, float]:
            answer = self._line.ask({"op": "clock"}, 30.0)
            return answer["received_s"], answer["replied_s"]

        return compare_clocks(ask, now_s=now_s)

    def _judging(
        self,
        meter: HostMeter,
        plan: MeasurePlan,
        exchanges: Sequence[Exchange],
        request_id: str,
        on_progress: Callable[[dict[str, Any]], None] | None,
    ) -> Callable[[dict[str, Any]], None]:
        """What hears of each window and tells the agent when the energy that the meter saw is precise enough."""
        interval, told = meter.interval(plan, exchanges), False

        def hear(progress: dict[str, Any]) -> None:
            nonlocal told
            if interval is not None:
                interval.add(progress)
            if not told and meter.is_enough(interval):
                self._connection.tell({"op": "enough", "request": request_id})
                told = True
            if on_progress is not None:
                on_progress(progress)

        return hear

    def _received(self, answer: dict[str, Any], exchanges: Sequence[Exchange] = ()) -> dict[str, Any]:
        record = answer["record"]
        if record.get("external_source") and record["trace"] is None and record["trace_problem"] is None:
            from rig.meters import host_meter

            meter = self._host_meter()
            record = host_meter.without_trace(record) if meter is None else meter.attach(record, exchanges)
        self._note(device_problems(self.profile.name, answer))
        record = with_sensor_knowledge(record, self.profile.name, in_force=self._in_force)
        keys = self._spool_keys.setdefault(record["id"], [])
        if answer["key"] not in keys:
            keys.append(answer["key"])
        return record

    def _asked_by(self, request: Mapping[str, Any]) -> str:
        """This store's name; its former one where the device keeps what was measured for the same request under it."""
        former = {**request, "asked_by": former_identity(rig_home())}
        kept = self.hello["spool"]
        if request_key({**request, "asked_by": self.asked_by}) not in kept and request_key(former) in kept:
            return str(former["asked_by"])
        return self.asked_by

    def _note(self, problems: Iterable[dict[str, str | None]]) -> None:
        for problem in problems:
            self._problems.setdefault(str(problem["message"]), problem)

    def _when_free(self, action: Callable[[], dict[str, Any]], longest_s: float) -> dict[str, Any]:
        self._asked_model = None
        return self._line.when_free(action, longest_s, self._model_is_gone)

    def _model_is_gone(self) -> bool:
        """Whether the model of the request in hand is no longer on the device."""
        return self._asked_model is not None and self._line.transport.exists(self._asked_model) is None

    def _sent_subject(self, subject: Subject) -> dict[str, Any]:
        if (subject.path is None) == (subject.kernels is None):
            raise BadInputError(f"{subject.name}: give either a model file or a kernel list")
        if subject.kernels is not None:
            listed = [kernel.to_json() for kernel in subject.kernels]
            return {"name": subject.name, "format": "kernels", "kernels": listed}
        sent = {"name": subject.name, "format": "onnx", "path": self._send_model(Path(subject.path or ""))}
        return {**sent, "shape": subject.shape} if subject.shape is not None else sent

    def _send_model(self, path: Path) -> str:
        transport = self._line.transport
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ModelError(
                f"{path}: cannot be read: {error.strerror}", fix="give the path of an ONNX file"
            ) from error
        name = f"model-{digest}.onnx"
        self._sent_models.add(name)
        self._asked_model = name
        return transport.exists(name) or transport.put(path, name)
