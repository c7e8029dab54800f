"""How many virtual measurements a second one session does: protocol, spool, sampler and acknowledgement included.

python experiments/agent/throughput.py [count]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time

from device_agents.records import KernelSpec
from rig.connection.session import Session, Subject
from rig.profiles import load_profile

KERNELS = [KernelSpec("conv", 1, 64, 28, 28, 64, 28, 28, 3, 3, 1, 1)] * 8


def main(count: int) -> None:
    """Print the median and mean real time of a measurement with the shipped plan."""
    profile = load_profile("virtual-pi4")
    plan = profile.plan.to_plan()
    times_s = []
    virtual_s = 0.0
    started_s = time.monotonic()
    with Session(profile, "throughput") as session:
        start_s = time.monotonic() - started_s
        for i in range(count):
            before_s = time.monotonic()
            record = session.measure(Subject("chain", kernels=KERNELS), plan, request_id=f"t{i}")
            session.ack([record["id"]])
            times_s.append(time.monotonic() - before_s)
            virtual_s += record["phases"][-1]["t1_s"] - record["phases"][0]["t0_s"]
    print(f"session start {start_s:.2f} s; {count} measurements of {virtual_s / count:.1f} virtual seconds each")
    print(
        f"real time a measurement: median {statistics.median(times_s) * 1e3:.0f} ms, mean "
        f"{statistics.fmean(times_s) * 1e3:.0f} ms; {count / sum(times_s):.1f} a second; load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ["RIG_HOME"] = home
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
