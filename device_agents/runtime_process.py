"""The runtime process: loads one subject at a time and runs it when the supervisor says so."""

import sys
from typing import Any, Dict

from device_agents.child import die_with_parent
from device_agents.protocol import LineWriter, claim_stdout, memory_error, serve
from device_agents.runtimes import RUNTIMES, runtime_module


class RuntimeProcess(object):
    """Answers probe, load, run, wait, pattern, kernel_facts and unload."""

    def __init__(self) -> None:
        self._engine: Any = None

    def handlers(self) -> Dict[str, Any]:
        """op -> function."""
        return {
            "probe": self.probe,
            "load": self.load,
            "run": self.run,
            "wait": self.wait,
            "pattern": self.pattern,
            "kernel_facts": self.kernel_facts,
            "unload": self.unload,
        }

    @staticmethod
    def probe(request: Dict[str, Any]) -> Dict[str, Any]:
        """State, reason and fix of the runtimes of this version, and the execution providers of one that has such.

        ``only``: the one that is wanted (an engine takes a while to import); one that there is not is left out.
        """
        states: Dict[str, Any] = {}
        for name in sorted(RUNTIMES):
            if request.get("only") not in (None, name):
                continue
            module = runtime_module(name)
            state, reason, fix = module.probe()
            states[name] = {"state": state, "reason": reason, "fix": fix}
            if hasattr(module, "providers"):
                states[name]["providers"] = module.providers()
        return states

    def load(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Load a subject, letting go of the one before, and return the engine's facts."""
        self.unload(request)
        module = runtime_module(request["runtime"])
        try:
            self._engine = module.load(request["subject"], request["options"], request["run_dir"])
        except MemoryError:
            raise memory_error("to load %s" % request["subject"].get("name")) from None
        facts: Dict[str, Any] = self._engine.facts()
        return facts

    def run(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Infer for ``seconds``, back to back or at ``fps``."""
        return self._with_conditions(self._engine.run(request["seconds"], request["fps"]))

    def wait(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Wait for ``seconds``."""
        return self._with_conditions(self._engine.wait(request["seconds"]))

    def pattern(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Load and wait by turns; the times of each step: on, off, end."""
        spans = []
        for on_s, off_s in request["steps"]:
            load = self._engine.run(on_s, None) if on_s > 0.0 else self._engine.wait(0.0)
            rest = self._engine.wait(off_s)
            spans.append([load["t0_s"], load["t1_s"], rest["t1_s"]])
        return {"spans": spans}

    def kernel_facts(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """What the engine says about its kernels."""
        facts: Dict[str, Any] = self._engine.kernel_facts(request["runs"])
        return facts

    def unload(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Let go of the subject."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
        return {}

    def _with_conditions(self, phase: Dict[str, Any]) -> Dict[str, Any]:
        conditions = self._engine.conditions()
        if conditions is not None:
            phase.update(conditions)
        return phase


def main() -> None:
    """Serve the supervisor until it closes the pipe."""
    die_with_parent()
    writer = LineWriter(claim_stdout())
    serve(sys.stdin.buffer, writer, RuntimeProcess().handlers())
