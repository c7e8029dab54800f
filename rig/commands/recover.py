"""What a killed ``rig measure`` left on a device: the next command that asks this device takes it into the store.

    killed host            device: finishes, spools          next rig measure, calibrate or devices
    run m-0007, running    ────────────────────────►         result of m-0007 ─► store ─► ack; m-0007 is concluded

Only what this store asked for, and no living command still waits for: a calibration or an optimization takes its own
when it is resumed, and another host its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rig.commands.options import measure_options_of
from rig.errors import RigError
from rig.output import warning
from rig.store.store import Run, Store, utc_now

if TYPE_CHECKING:
    from rig.connection.session import Session

MEASUREMENT = re.compile(r"(m-\d{4,})-\d+")


def take_left_behind(session: Session, store: Store) -> list[dict[str, Any]]:
    """Store, acknowledge and conclude what the device kept for ``rig measure``; a note for each run."""
    notes = []
    for record in session.pending(lambda identity: MEASUREMENT.fullmatch(identity) is not None, own=True):
        run = _run_of(record, store)
        if run is None:
            continue
        with run.held() as alone:
            if alone:  # else its command lives, and takes the result itself
                notes += _taken(session, store.open_run(run.id), record)  # it may just have ended
    return notes


def _run_of(record: Mapping[str, Any], store: Store) -> Run | None:
    found = MEASUREMENT.fullmatch(record["id"])
    known = {manifest["id"]: manifest for manifest in store.runs() if manifest["command"] == "measure"}
    if found is None or found.group(1) not in known:
        return None
    # A store that was made anew counts its runs from 1 again.
    model = measure_options_of(known[found.group(1)]["argv"]).model
    return store.open_run(found.group(1)) if model.stem == record["subject"] else None


def _taken(session: Session, run: Run, record: dict[str, Any]) -> list[dict[str, Any]]:
    was_done = run.manifest["state"] == "done"
    run.add_measurement(record)  # what is stored already stays as it is
    session.ack([record["id"]])
    if was_done:
        return []
    try:
        concluded = _concluded(run, record)
    except RigError as error:
        run.update(state="failed", finished_utc=utc_now(), recovered=True)
        concluded = error.message
    message = (
        f"{session.profile.name}: it still had the measurement of {record['subject']} that was stopped in {run.id}; "
        f"it is stored now: {concluded}"
    )
    return [warning("recovered", message, f"rig report {run.id}")]


def _concluded(run: Run, record: dict[str, Any]) -> str:
    """Write the run's result, marked as recovered; in words, what came of it."""
    from rig.commands import measure
    from rig.replay.analysis import profile_of

    profile = profile_of(run)
    measurement = measure.assessed(run, profile, record, record["environment"]["agent_hash"])
    if not measurement.ok:
        run.add_event("rejected", measurement=record["id"], reason=measurement.reason)
        run.update(state="rejected", finished_utc=utc_now(), recovered=True)
        return f"rejected: {measurement.reason}"
    options = measure_options_of(run.manifest["argv"])
    measure.conclude(profile, options, run, record, measurement, recovered=True)
    return "a result"
