"""The inference engines the agent can run, one file each; an engine's library is imported in its own file alone.

A runtime module offers ``probe() -> (state, reason, fix)`` with state "ok" or "absent", and
``load(subject, options, run_dir) -> engine``; one with several execution providers also ``providers() -> names``. An
engine offers

- ``facts() -> dict``: runtime_version, kind ("measured" or "simulated"), subject_sha256, inputs, environment;
- ``run(seconds, fps) -> phase`` (fps None: back to back) and ``wait(seconds) -> phase`` (timing.py), on its clock;
- ``conditions() -> dict or None``: temp_c, throttled, freq_hz where the engine knows better than the board's sysfs;
- ``kernel_facts(runs) -> dict``: what ``inspect`` returns (AgentError "bad-request" where there is nothing to say);
- ``close()``.
"""

import difflib
import importlib
from typing import Any

from device_agents.protocol import AgentError

RUNTIMES = {
    "cpu_load": "device_agents.runtimes.cpu_load",
    "onnxruntime": "device_agents.runtimes.onnx_runtime",
    "virtual": "device_agents.runtimes.virtual",
}


def runtime_module(name: str) -> Any:
    """The module of a runtime; AgentError "no-runtime" names the known ones and the nearest."""
    if name not in RUNTIMES:
        near = difflib.get_close_matches(name, sorted(RUNTIMES), n=1)
        raise AgentError(
            "no-runtime",
            "no runtime named %r; this version has %s" % (name, ", ".join(sorted(RUNTIMES))),
            "did you mean %s?" % near[0] if near else "correct runtime.name in the device profile",
        )
    return importlib.import_module(RUNTIMES[name])
