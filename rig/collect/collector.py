"""Measure what a campaign asks for and the run does not have yet; safe to kill at any moment.

     spool ─► store ─► ack      then, job by job:      measure ─► store (fsync) ─► ack ─► assess ─► next
                                                                                   └─ rejected: again later in its block

What is measured twice is only what was being measured at the kill; what was measured and not stored is in the
device's spool and is taken from there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from device_agents.records import KernelSpec, MeasurePlan
from rig.collect.plan import (
    CAMPAIGN_FILE,
    MOST_COPIES,
    Campaign,
    ChainJob,
    Context,
    ContextJob,
    Job,
    attempt_id,
    job_of,
    plan_campaign,
)
from rig.collect.rows import Collected, assessed, load_campaign, read_campaign, rows_from_run
from rig.collect.subjects import keep_graph, subject_of
from rig.errors import BadInputError, DeviceSetupError, TransientDeviceError
from rig.measurement import Measurement
from rig.quality.verdict import assess
from rig.store.evidence import keep_assessment

if TYPE_CHECKING:
    from power_models.kernel_cost import KernelRow
    from rig.connection.session import Session
    from rig.store.store import Run

__all__ = ["Collected", "Context", "Progress", "collect", "read_campaign", "rows_from_run"]

MAX_ATTEMPTS = 3  # of a job whose measurements are rejected
MOST_DISTURBED = 0.5  # share of the windows used; a job with more is measured again later, and the best is kept
MAX_FAILURES = 3  # failed requests in a row before the device itself is in doubt
COOLING_S = 10.0  # at least, before a measurement that was too hot is taken again


class Progress(NamedTuple):
    """After each measurement: how far, how long still (None before the first), and what came of the last one."""

    done: int
    total: int
    subject: str
    verdict: str
    reason: str | None
    elapsed_s: float
    eta_s: float | None


class _State:
    """What has been measured, by job: accepted, rejected, failed. ``attempts`` counts stored measurements."""

    def __init__(self) -> None:
        self.best: dict[str, Measurement] = {}
        self.rejected: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.unmeasurable: dict[str, str] = {}

    def add(self, measurement: Measurement) -> None:
        identity, attempt = job_of(measurement.id)
        self.attempts[identity] = max(self.attempts.get(identity, 0), attempt + 1)
        if not measurement.ok:
            self.rejected[identity] = measurement.reason or "rejected"
        elif identity not in self.best or measurement.disturbed_share <= self.best[identity].disturbed_share:
            self.best[identity] = measurement

    def is_open(self, job: Job) -> bool:
        """Whether the job still wants a measurement."""
        i = job.identity
        if i in self.best and self.best[i].disturbed_share <= MOST_DISTURBED:
            return False
        return i not in self.unmeasurable and self.attempts.get(i, 0) < MAX_ATTEMPTS


def collect(
    session: Session,
    run: Run,
    kernels: Iterable[KernelSpec],
    plan: MeasurePlan,
    *,
    runtime: str,
    contexts: Sequence[Context] = (),
    context_plan: MeasurePlan | None = None,
    seed: int = 0,
    time_limit_s: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[KernelRow]:
    """Measure ``kernels`` as chains and ``contexts`` in place, as far as the run lacks them; returns all its rows.

    ``runtime``: "virtual" or "onnxruntime". ``context_plan``: of the networks, where it is not that of the chains.
    ``time_limit_s``: no measurement is begun that would probably end later.
    Rejected measurements stay in the store and are repeated, three attempts in all. Raises what the session raises
    (after three failed requests in a row), StoreError, and BadInputError where not one kernel can be measured.
    """
    configuration = run.info.configuration if run.info else None
    if runtime not in MOST_COPIES:
        raise BadInputError(f"collecting with runtime {runtime!r}", f"known: {', '.join(MOST_COPIES)}")
    if runtime != "virtual":
        from rig.workloads.kernel_onnx import as_executed

        kernels = [as_executed(kernel) for kernel in kernels]
    campaign = plan_campaign(
        kernels, plan, runtime, configuration, contexts=contexts, context_plan=context_plan, seed=seed
    )
    # What the run measured beyond this (rig predict --measure-missing) stays in its campaign.
    earlier = load_campaign(run) if (run.path / CAMPAIGN_FILE).exists() else None
    run.write_json(CAMPAIGN_FILE, campaign.joined(earlier).to_json())
    _take_spool(session, run, campaign)
    state = _State()
    for measurement in assessed(run, campaign):
        state.add(measurement)
    _Collector(session, run, campaign, state, time_limit_s, progress).measure_all()
    return read_campaign(run).rows


def _take_spool(session: Session, run: Run, campaign: Campaign) -> None:
    """Store and acknowledge what the device measured for this campaign while nobody listened; leave the rest there.

    Another store's result stays too, even of an equal campaign: it may be the only copy. What is stored already (the
    host died before it could say so) is acknowledged; what was measured under another configuration is of no use to
    this campaign, and is measured again.
    """
    ours = {job.identity for jobs in campaign.blocks() for job in jobs}
    stored: dict[str, str | None] | None = None
    for record in session.pending(own=True):
        if stored is None:
            stored = {known["id"]: known.get("started_utc") for known in run.measurements(arrays=False)}
        identity = record["id"].rpartition("-")[0]
        is_known = record["id"] in stored and stored[record["id"]] == record.get("started_utc")
        if identity not in ours and not is_known:
            continue
        other = None if is_known else _another_configuration(run, record)
        if other is not None:
            run.add_event("refused", id=record["id"], reason=other)
        else:
            run.add_measurement(record)
        session.ack([record["id"]])


def _another_configuration(run: Run, record: Mapping[str, Any]) -> str | None:
    """How the device that made this record differs from the run's, in words; None where it is the same."""
    if run.info is None:
        return None
    configuration = run.info.configuration.to_json()
    pairs = [(name, configuration[name], record[name]) for name in ("serial", "runtime_version") if name in record]
    found = [f"{name} was {before}, is now {now}" for name, before, now in pairs if before != now]
    return "; ".join(found) or None


class _Collector:
    """Works through the open jobs of a campaign, block by block."""

    def __init__(
        self,
        session: Session,
        run: Run,
        campaign: Campaign,
        state: _State,
        time_limit_s: float | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._session = session
        self._run = run
        self._campaign = campaign
        self._blocks = campaign.blocks()
        self._state = state
        self._time_limit_s = time_limit_s
        self._progress = progress
        self._began_s = time.monotonic()
        self._spent_s: dict[type[Job], list[float]] = {ChainJob: [], ContextJob: []}
        self._failures = 0

    def measure_all(self) -> None:
        """Measure until nothing is open or the time is up."""
        for jobs in self._blocks:
            queue = deque(job for job in jobs if self._state.is_open(job))
            while queue:
                if self._time_is_up(queue[0]):
                    self._run.add_event("time-limit", open=len(self._open_jobs()))
                    return
                job = queue.popleft()
                self._measure(job)
                if self._state.is_open(job):
                    queue.append(job)
        if self._state.unmeasurable and not self._state.best:
            reason = next(iter(self._state.unmeasurable.values()))
            raise BadInputError(f"{self._run.id}: not one kernel could be measured: {reason}", "see its events.jsonl")

    def _measure(self, job: Job) -> None:
        began_s = time.monotonic()
        attempt = self._state.attempts.get(job.identity, 0)
        try:
            record = self._ask(job, attempt)
        except BadInputError as error:  # this subject, not the device: say so and go on with the others
            self._state.unmeasurable[job.identity] = error.message
            self._run.add_event("unmeasurable", job=job.identity, subject=job.label, reason=error.message)
            self._tell(job, "unmeasurable", error.message)
            return
        except TransientDeviceError as error:
            self._failed(job, error)
            return
        self._failures = 0
        self._check_device(job, record)
        self._run.add_measurement(record)
        self._session.ack([record["id"]])
        measurement = assess(record)
        keep_assessment(self._run, measurement)
        self._state.add(measurement)
        if not measurement.ok:
            self._run.add_event("rejected", id=record["id"], subject=job.label, reason=measurement.reason)
        self._spent_s[type(job)].append(time.monotonic() - began_s)
        self._tell(job, measurement.verdict, measurement.reason)

    def _check_device(self, job: Job, record: Mapping[str, Any]) -> None:
        """Refuse what another board, or another version of the runtime, measured: the two are not put together."""
        other = _another_configuration(self._run, record)
        if other is None:
            return
        self._run.add_event("refused", id=record["id"], reason=other)
        self._session.ack([record["id"]])
        raise DeviceSetupError(
            f"{job.label}: the device has changed since {self._run.id} began: {other}; nothing of it was stored",
            "set the device back and give the same command again, or begin anew: rig calibrate with --fresh",
        )

    def _ask(self, job: Job, attempt: int) -> dict[str, Any]:
        plan = self._campaign.plan_of(job)
        before = self._state.rejected.get(job.identity, "")
        if attempt and ("throttled" in before or "too hot" in before):
            plan = plan._replace(cooldown_s=max(2.0 * plan.cooldown_s, COOLING_S))
        with subject_of(job, self._campaign.runtime) as subject:
            keep_graph(self._session, self._run, job, subject)
            return self._session.measure(subject, plan, request_id=attempt_id(job.identity, attempt))

    def _failed(self, job: Job, error: TransientDeviceError) -> None:
        """A request that failed counts as an attempt, so that one bad kernel cannot hold up the campaign."""
        self._failures += 1
        self._run.add_event("failed", subject=job.label, reason=error.message)
        if self._failures >= MAX_FAILURES:
            raise error
        self._state.attempts[job.identity] = self._state.attempts.get(job.identity, 0) + 1
        if not self._state.is_open(job):
            self._state.rejected.setdefault(job.identity, error.message)
        self._tell(job, "failed", error.message)

    def _mean_s(self, job: Job) -> float | None:
        """What a job like this one took lately; of another kind's where none like it was measured yet."""
        recent = (self._spent_s[type(job)] or [spent for found in self._spent_s.values() for spent in found])[-30:]
        return sum(recent) / len(recent) if recent else None

    def _time_is_up(self, job: Job) -> bool:
        if self._time_limit_s is None:
            return False
        return time.monotonic() - self._began_s + 0.5 * (self._mean_s(job) or 0.0) >= self._time_limit_s

    def _open_jobs(self) -> list[Job]:
        return [job for jobs in self._blocks for job in jobs if self._state.is_open(job)]

    def _tell(self, job: Job, verdict: str, reason: str | None) -> None:
        if self._progress is None:
            return
        total = sum(len(jobs) for jobs in self._blocks)
        left = self._open_jobs()
        elapsed_s = time.monotonic() - self._began_s
        expected = [self._mean_s(one) for one in left]
        eta_s = None if None in expected else sum(spent for spent in expected if spent is not None)
        if eta_s is not None and self._time_limit_s is not None:
            eta_s = min(eta_s, max(self._time_limit_s - elapsed_s, 0.0))
        self._progress(Progress(total - len(left), total, job.label, verdict, reason, elapsed_s, eta_s))
