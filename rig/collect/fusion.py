"""What a device's runtime fuses, by measurement: side → pairs → networks → rounds, each in its own order → verdicts.

First the size of the tensors: the smallest at which the cheapest kernel costs enough to be seen behind the jitter of a
call.
Every network of a round is measured once, in random order, and each pair's saving is formed within the round, so that
slow drift cancels. A network that several pairs need is measured once for all of them. What is measured is stored
first, under ids made of what it is: an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from device_agents.records import MeasurePlan
from power_models.fusion_rules import FEWEST_ROUNDS, MeasuredPair, judge_pair
from power_models.kernels import kernel_graph
from rig.configuration import configuration_of
from rig.connection.session import Subject
from rig.errors import BadInputError, DeviceSetupError, TransientDeviceError
from rig.quality.verdict import assess
from rig.store.evidence import keep_assessment
from rig.store.store import RunInfo
from rig.workloads.fusion_pairs import CHEAPEST, SIDES, UNITS, Pair, Surroundings, network, pair_networks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rig.connection.session import Session
    from rig.measurement import Measurement
    from rig.store.store import Run

ATTEMPTS = 3  # of a network whose measurement is rejected
SEEN_S = 2.5e-6  # what the cheapest kernel has to cost: calls scatter by some ten microseconds, and hold UNITS of them
Key = tuple[Surroundings, tuple[str, ...]]


class Needed(NamedTuple):
    """The networks of several pairs: each pair's by role, and all of them once."""

    roles: dict[Pair, dict[str, Key]]
    networks: list[Key]


def networks_of(pairs: Sequence[Pair], side: int = SIDES[0]) -> Needed:
    """What has to be measured to judge ``pairs``; BadInputError for an unknown operator."""
    roles = {pair: pair_networks(pair, side) for pair in pairs}
    return Needed(roles, list(dict.fromkeys(key for found in roles.values() for key in found.values())))


def measure_fusion(
    session: Session,
    run: Run,
    pairs: Sequence[Pair],
    plan: MeasurePlan,
    runtime: str,
    rounds: int = 6,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> list[MeasuredPair]:
    """Measure what the run lacks and judge every pair.

    Raises BadInputError for fewer than three rounds or an unknown operator, TransientDeviceError where a network is
    rejected three times, and what the session raises.
    """
    if rounds < FEWEST_ROUNDS:
        raise BadInputError(f"fusion in {rounds} rounds: no interval can be told", f"{FEWEST_ROUNDS} rounds or more")
    networks_of(pairs)  # an unknown operator is found before anything is measured
    needed = networks_of(pairs, side_for(session, run, plan, runtime, report))
    seconds: list[dict[Key, float]] = []
    for turn in range(rounds):
        order = list(needed.networks)
        random.Random(f"{seed}-{turn}").shuffle(order)
        found = {}
        for place, key in enumerate(order):
            if report is not None:
                report(f"round {turn + 1} of {rounds}: network {place + 1} of {len(order)}")
            found[key] = _seconds(_measured(session, run, key, plan, runtime, turn), runtime)
        seconds.append(found)
    return [_judged(pair, needed.roles[pair], seconds) for pair in pairs]


def side_for(
    session: Session, run: Run, plan: MeasurePlan, runtime: str, report: Callable[[str], None] | None = None
) -> int:
    """The smallest side at which the cheapest kernel costs SEEN_S, or the largest; kept in the run."""
    kept = run.manifest.get("side")
    if kept is not None:
        return int(kept)
    for side in SIDES:
        if report is not None:
            report(f"how large tensors have to be: {side} x {side}")
        around = Surroundings("max_pool", False, False, side)
        base_s, least_s = (
            _seconds(_measured(session, run, (around, operators), plan, runtime, "side"), runtime)
            for operators in ((), (CHEAPEST,))
        )
        if (least_s - base_s) / UNITS >= SEEN_S:
            break
    run.update(side=side)
    return side


def _judged(pair: Pair, roles: dict[str, Key], seconds: Sequence[dict[Key, float]]) -> MeasuredPair:
    taken = [tuple(found[roles[role]] for role in ("base", "first", "second", "both")) for found in seconds]
    least_s = [(found[roles["least"]] - found[roles["base"]]) / UNITS for found in seconds]
    return judge_pair(*pair, taken, least_s, UNITS)  # type: ignore[arg-type]


def _seconds(measurement: Measurement, runtime: str) -> float:
    """Of a real runtime the median inference: a rare interruption is no part of a kernel."""
    quantity = measurement.latency_s if runtime == "virtual" else measurement.latency_median_s
    return float((measurement.latency_s if quantity.value is None else quantity).value or 0.0)


def _measured(session: Session, run: Run, key: Key, plan: MeasurePlan, runtime: str, turn: int | str) -> Measurement:
    """The accepted measurement of a network in a round, from the store where it is there."""
    digest = hashlib.sha256(json.dumps([key, plan.to_json(), runtime]).encode()).hexdigest()[:16]
    stored = run.measurement_ids()
    reason = ""
    for attempt in range(ATTEMPTS):
        identity = f"f-{digest}-{turn}-{attempt}"
        if identity in stored:
            measurement = assess(run.measurement(identity))
        else:
            with _subject(key, runtime) as subject:
                record = session.measure(subject, plan, request_id=identity)
            _check_device(session, run, record)
            run.add_measurement(record)
            session.ack([record["id"]])
            measurement = assess(record)
            keep_assessment(run, measurement)
        if measurement.ok:
            return measurement
        reason = measurement.reason or "rejected"
        run.add_event("rejected", id=identity, subject=_name(key), reason=reason)
    raise TransientDeviceError(
        f"{_name(key)} on {session.profile.name}: rejected {ATTEMPTS} times, last because: {reason}",
        "remove the cause and give the same command again; what was measured is kept",
    )


def _check_device(session: Session, run: Run, record: dict[str, Any]) -> None:
    """Keep the configuration with the first record; refuse a record of another one: the rounds must be alike."""
    configuration = configuration_of(session.profile, record)
    if run.info is None:
        agent = session.hello["agent"]["agent_hash"]
        run.set_info(RunInfo(configuration, agent, record["started_utc"], record["kind"]))
        return
    differing = run.info.configuration.differences(configuration)
    if differing:
        field, before, now = differing[0]
        raise DeviceSetupError(
            f"{session.profile.name} has changed since {run.id} began: {field} was {before!r}, is now {now!r}",
            "set the device back and give the same command again, or begin anew: rig calibrate --fusion --fresh",
        )


def _name(key: Key) -> str:
    return "+".join(key[1]) or "nothing"


@contextmanager
def _subject(key: Key, runtime: str) -> Iterator[Subject]:
    """The network as the runtime takes it; the simulated board's own compiler is the rule set "virtual"."""
    model, name = network(*key), f"fusion of {_name(key)}"
    if runtime == "virtual":
        yield Subject(name, kernels=[node.spec for node in kernel_graph(model, "virtual")])
        return
    with TemporaryDirectory(prefix="rig-fusion-") as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(model.SerializeToString())
        yield Subject(name, path=path)
