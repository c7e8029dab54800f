"""A device at the physical edge: a known board, a durable spool, and a log of what was really measured."""

import json
import time
import zlib
from pathlib import Path

from synthetic_records import synthetic_record

from rig.errors import ModelError, TransientDeviceError

INVOKE_S, INVOKE_J, QUIET_W = 60e-6, 150e-6, 2.9


def kernel_cost(spec):
    """Seconds and active joules of one kernel on the fake board."""
    seconds = 2e-6 + spec.macs / 5e9 + (spec.input_bytes + spec.output_bytes) / 3e9
    return seconds, seconds * (1.5 + 1.0 * (spec.kind == "conv"))


class FakeSession:
    """What ``collect`` uses of a session. ``folder``: the device's disk; ``slow_s``: time a measurement."""

    def __init__(self, folder, *, slow_s=0.0, reject=(), fail=(), refuse=(), power=True):
        self.folder = Path(folder)
        (self.folder / "spool").mkdir(parents=True, exist_ok=True)
        self.slow_s = slow_s
        self.power = power
        self.reject, self.fail, self.refuse = set(reject), set(fail), set(refuse)
        self.asked = []

    def measure(self, subject, plan, *, request_id, profile=False, on_progress=None):
        self.asked.append((request_id, subject, plan, profile))
        if subject.name in self.refuse:
            raise ModelError(f"{subject.name}: not supported", "leave it out")
        if subject.name in self.fail:
            raise TransientDeviceError(f"{subject.name}: the runtime crashed")
        spooled = self.folder / "spool" / f"{request_id}.json"
        if spooled.exists():
            return json.loads(spooled.read_text())
        time.sleep(self.slow_s)
        record = self._record(subject, plan, request_id)
        whole = spooled.with_suffix(".whole")  # a device's spool is not torn by the host's death
        whole.write_text(json.dumps(record))
        whole.replace(spooled)
        with (self.folder / "log").open("a") as log:
            log.write(request_id + "\n")
        return record

    def _record(self, subject, plan, request_id):
        costs = [kernel_cost(spec) for spec in subject.kernels]
        record = synthetic_record(
            request_id,
            subject=subject.name,
            latency_s=INVOKE_S + sum(c[0] for c in costs),
            active_j=INVOKE_J + sum(c[1] for c in costs),
            quiet_w=QUIET_W,
            windows=plan.min_windows,
            window_s=plan.window_s,
            quiet_s=plan.quiet_s,
            seed=zlib.crc32(request_id.encode()),
            window_sd=0.0005,
            trace=self.power,
        )
        if (subject.name, request_id[-1]) in self.reject:
            record["phases"][3]["throttled"] = ["throttled"]
        return record

    def pending(self, own=False):
        return [json.loads(path.read_text()) for path in sorted((self.folder / "spool").glob("*.json"))]

    def ack(self, ids):
        for identity in ids:
            (self.folder / "spool" / f"{identity}.json").unlink(missing_ok=True)

    def measured(self):
        """Ids in the order in which the device finished measuring them."""
        log = self.folder / "log"
        return log.read_text().split() if log.exists() else []
