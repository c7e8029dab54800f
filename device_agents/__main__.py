"""The agent's entry: ``supervise`` for the host, ``runtime`` and ``sampler`` for the supervisor."""

import argparse
import os
import sys
from typing import List, Optional


def main(arguments: Optional[List[str]] = None) -> int:
    """Start the process that the arguments name; returns its exit status."""
    parser = argparse.ArgumentParser(prog="rig-agent", description="Measures kernels and models on this device.")
    roles = parser.add_subparsers(dest="role", metavar="ROLE")
    supervise = roles.add_parser("supervise", help="serve one host over stdin and stdout")
    supervise.add_argument("--device", required=True, help="name of the device profile")
    supervise.add_argument("--holder", required=True, help="who measures, as others will be told")
    supervise.add_argument("--state-dir", default="", help="folder of spool and journal")
    supervise.add_argument("--lock-path", default="", help="lock file shared by all who measure on this device")
    supervise.add_argument("--heartbeat-s", type=float, default=2.0, help="seconds between two signs of life")
    supervise.add_argument("--lost-after-s", type=float, default=20.0, help="silence after which the host is gone")
    supervise.add_argument("--root", default="/", help="root of the file system whose power mode is pinned")
    supervise.add_argument("--source-patience-s", type=float, default=10.0, help="for a power source that hangs")
    roles.add_parser("runtime", help="run models (started by the supervisor)")
    roles.add_parser("sampler", help="read power (started by the supervisor)")
    chosen = parser.parse_args(arguments)
    if chosen.role == "supervise":
        from device_agents import supervisor
        from device_agents.link import Settings
        from device_agents.lock import lock_folder

        state_dir = chosen.state_dir or _state_dir(chosen.device)
        lock_path = chosen.lock_path or os.path.join(lock_folder(), "rig-device.lock")
        settings = Settings(
            chosen.device,
            chosen.holder,
            state_dir,
            lock_path,
            chosen.heartbeat_s,
            chosen.lost_after_s,
            chosen.root,
            chosen.source_patience_s,
        )
        return supervisor.run(settings)
    if chosen.role == "runtime":
        from device_agents import runtime_process

        runtime_process.main()
        return 0
    if chosen.role == "sampler":
        from device_agents import sampler

        sampler.main()
        return 0
    parser.print_usage(sys.stderr)
    return 2


def _state_dir(device: str) -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "rig", "state", device)


if __name__ == "__main__":
    sys.exit(main())
