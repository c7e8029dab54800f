"""The simulated board as a runtime: kernel lists in virtual time; everything it yields is simulated."""

import hashlib
import json
import os
from typing import IO, Any, Dict, List, Optional, Tuple

from device_agents import timing
from device_agents.protocol import AgentError
from device_agents.records import KernelSpec

# Options' key, board, its open timeline: the board stays warm between loads, as a real one does.
_board: Optional[Tuple[str, Any, IO[str]]] = None
_boards_made = 0


def probe() -> Tuple[str, str, str]:
    """Always there."""
    return "ok", "", ""


def load(subject: Dict[str, Any], options: Dict[str, Any], run_dir: str) -> "VirtualEngine":
    """Take a kernel list to the board that ``options`` describe; AgentError "bad-request" for another format."""
    if subject.get("format") != "kernels":
        raise AgentError(
            "bad-request",
            "the virtual runtime takes format kernels, not %r" % subject.get("format"),
            "send kernel lists",
        )
    try:
        kernels = [KernelSpec.from_json(kernel) for kernel in subject["kernels"]]
    except (TypeError, ValueError) as error:
        raise AgentError(
            "bad-request", "kernel list of %s: %s" % (subject.get("name"), error), "correct the kernel"
        ) from error
    if not kernels:
        raise AgentError("bad-request", "kernel list of %s is empty" % subject.get("name"), "send at least one kernel")
    board, timeline = _the_board(options, run_dir)
    try:
        board.model.inference_parts(kernels)
    except ValueError as error:
        raise AgentError(
            "model", "kernel list of %s: %s" % (subject.get("name"), error), "correct the kernel"
        ) from error
    return VirtualEngine(kernels, board, timeline, options)


def _the_board(options: Dict[str, Any], run_dir: str) -> Tuple[Any, str]:
    """The one board of this process and its timeline's path; other options make a new one with a new timeline."""
    global _board, _boards_made
    key = json.dumps([options, run_dir], sort_keys=True)
    if _board is not None and _board[0] == key:
        return _board[1], _board[2].name
    from device_agents.virtual_board.board import VirtualBoard
    from device_agents.virtual_board.physics import BoardModel

    if _board is not None:
        _board[2].close()
        _board = None
    name = str(options.get("board", "pi4"))
    try:
        model = BoardModel.load(name, surprise=bool(options.get("surprise", False)))
    except (OSError, ValueError) as error:
        raise AgentError(
            "bad-request", "virtual board %r: %s" % (name, error), "correct runtime.options.board"
        ) from error
    if options.get("perturb") is not None:
        model = model.perturbed(int(options["perturb"]))
    if options.get("facts"):
        try:
            model = model.with_facts(dict(options["facts"]))
        except (TypeError, ValueError) as error:
            raise AgentError("bad-request", str(error), "correct runtime.options.facts") from error
    _boards_made += 1
    path = os.path.join(run_dir, "timeline-%d-%d.jsonl" % (os.getpid(), _boards_made))
    timeline = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the board lives
    board = VirtualBoard(model, int(options.get("seed", 0)), timeline)
    _board = (key, board, timeline)
    return board, path


def kernels_digest(kernels: List[KernelSpec]) -> str:
    """SHA-256 of a kernel list, as records have it (``subject_sha256``)."""
    listed = json.dumps([kernel.to_json() for kernel in kernels], sort_keys=True)
    return hashlib.sha256(listed.encode("utf-8")).hexdigest()


class VirtualEngine(object):
    """One kernel list on the simulated board."""

    def __init__(self, kernels: List[KernelSpec], board: Any, timeline: str, options: Dict[str, Any]) -> None:
        self._kernels = kernels
        self._board = board
        self._timeline = timeline
        self._options = options

    def facts(self) -> Dict[str, Any]:
        """What the record says; the kind is always "simulated"."""
        return {
            "runtime_version": "1",
            "kind": "simulated",
            "serial": self._board.serial,
            "subject_sha256": kernels_digest(self._kernels),
            "inputs": {"distribution": "none (simulated)", "seed": int(self._options.get("seed", 0))},
            "sensor_options": {
                "timeline": self._timeline,
                "seed": int(self._options.get("seed", 0)),
                "meter": self._options.get("meter"),
            },
            "environment": {"board": self._board.model.name, "governor": self._board.governor},
        }

    def run(self, seconds: float, fps: Optional[float]) -> Dict[str, Any]:
        """Infer for ``seconds`` of virtual time and return a phase."""
        t0_s = self._board.now_s
        missed = 0
        if fps is None:
            latencies = self._board.infer_for(self._kernels, seconds)
        else:
            latencies, missed = self._board.infer_paced(self._kernels, fps, seconds)
        return timing.phase(t0_s, self._board.now_s, latencies, missed)

    def wait(self, seconds: float) -> Dict[str, Any]:
        """Wait for ``seconds`` of virtual time and return a phase."""
        t0_s = self._board.now_s
        self._board.idle(seconds)
        return timing.phase(t0_s, self._board.now_s, [], 0)

    def conditions(self) -> Dict[str, Any]:
        """The simulated board's temperature, throttle flags and clock."""
        board = self._board
        return {"temp_c": board.temp_c, "throttled": list(board.throttled), "freq_hz": board.freq_hz}

    def kernel_facts(self, runs: int) -> Dict[str, Any]:
        """Not offered: the kernel list is what was sent."""
        raise AgentError("bad-request", "the virtual runtime has no profiler", "the kernel list sent is what runs")

    def close(self) -> None:
        """The board itself stays on."""
