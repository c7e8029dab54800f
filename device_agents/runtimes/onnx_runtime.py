"""ONNX Runtime: the only file that imports onnxruntime and numpy."""

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import time
from typing import Any, Dict, List, Optional, Tuple

from device_agents import timing
from device_agents.protocol import AgentError, memory_error, now_s
from device_agents.pulse import Pulses
from device_agents.runtimes.onnx_inputs import draw_input, input_shapes

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

OPTIONS = ("threads", "spinning", "seed", "provider", "affinity")

# Weights larger than this leave the saved graph for a file beside it; shapes and scalars stay.
EXTERNAL_WEIGHT_BYTES = 1024

# Profiling takes no longer than this a pass, with fewer runs of a slow network, but at least three.
PROFILE_BUDGET_S = 1.5
PULSES = Pulses(now_s)
FASTEST_SHARE = 0.3  # of the profiled inferences: those in which nothing else ran on the core

_GIVEN_CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def probe() -> Tuple[str, str, str]:
    """Whether onnxruntime is installed for this interpreter, without importing it."""
    for name in ("onnxruntime", "numpy"):
        if importlib.util.find_spec(name) is None:
            return (
                "absent",
                "Python package %s is not installed" % name,
                "on the device: python3 -m pip install " + name,
            )
    return "ok", "", ""


def providers() -> List[str]:
    """The execution providers that are installed (names as in the profile), without importing onnxruntime."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    libraries = [name for folder in folders for name in _listed(os.path.join(folder, "capi"))]
    return ["cpu"] + [p for p in sorted(PROVIDERS) if any("providers_%s" % p in name for name in libraries)]


def _listed(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def load(subject: Dict[str, Any], options: Dict[str, Any], run_dir: str) -> "OnnxRuntimeEngine":
    """Load an ONNX file; AgentError "no-runtime", "bad-request" or "model" says why not."""
    if subject.get("format") != "onnx":
        raise AgentError("bad-request", "onnxruntime runs format onnx, not %r" % subject.get("format"))
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise AgentError(
            "bad-request",
            "onnxruntime has no option %s; it has %s" % (", ".join(unknown), ", ".join(OPTIONS)),
            "correct runtime.options in the device profile",
        )
    state, reason, fix = probe()
    if state != "ok":
        raise AgentError("no-runtime", reason, fix)
    return OnnxRuntimeEngine(subject, options, run_dir)


class OnnxRuntimeEngine(object):
    """One session of one model, with inputs drawn once from a recorded, seeded distribution."""

    def __init__(self, subject: Dict[str, Any], options: Dict[str, Any], run_dir: str) -> None:
        import onnxruntime

        self._ort = onnxruntime
        self._subject = subject
        self._options = options
        self._run_dir = run_dir
        self._provider = _provider(onnxruntime, str(options.get("provider", "cpu")))
        self._threads = _threads(options)
        self._cpus = _pin_to(options.get("affinity"))
        self._session = self._new_session(self._session_options())
        self._feed, self._inputs = self._draw_inputs(int(options.get("seed", 0)))
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.now_s = now_s

    def run(self, seconds: float, fps: Optional[float]) -> Dict[str, Any]:
        """Infer for ``seconds``, back to back or at ``fps``, and return a phase."""
        if fps is not None:
            return timing.run(self, seconds, fps)
        return PULSES.around(lambda: timing.run(self, seconds, None))

    def wait(self, seconds: float) -> Dict[str, Any]:
        """Wait, loaded, for ``seconds`` and return a phase."""
        return timing.wait(self, seconds)

    def infer(self) -> None:
        """One inference."""
        self._session.run(self._outputs, self._feed)

    @staticmethod
    def wait_until(t_s: float) -> None:
        """Sleep until ``t_s``; a spinning wait would draw the power that the idle time is measured for."""
        left_s = t_s - now_s()
        if left_s > 0:
            time.sleep(left_s)

    @staticmethod
    def conditions() -> Optional[Dict[str, Any]]:
        """Nothing beyond what the board's sysfs says."""
        return None

    def facts(self) -> Dict[str, Any]:
        """What the record says about engine, model and inputs."""
        import numpy

        return {
            "runtime_version": self._ort.__version__,
            "kind": "measured",
            "subject_sha256": _sha256(self._subject["path"]),
            "inputs": self._inputs,
            "environment": {
                "numpy": numpy.__version__,
                "providers": self._session.get_providers(),
                "cpu_affinity": self._cpus,
            },
        }

    def kernel_facts(self, runs: int) -> Dict[str, Any]:
        """The optimized graph and each node's share of an inference, with the unprofiled total of the same process.

        Returns ``model_b64`` (the optimized graph without its large weights), ``nodes`` (name, op_name, provider,
        shapes, latency_mean_s, latency_median_s, latency_fast_s, share), ``total_latency_s`` (unprofiled),
        ``profiled_latency_s`` and ``runs``. ``latency_fast_s``, from which the shares are made, is the mean over the
        fastest inferences; the total is that of the fastest too.
        """
        runs = max(3, min(runs, int(PROFILE_BUDGET_S / self._time(1))))
        folder = tempfile.mkdtemp(prefix="inspect-", dir=self._run_dir)
        try:
            graph = self._save_optimized(folder)
            unprofiled_before_s = self._time(runs)
            nodes, profiled_s = self._profile(folder, runs)
            unprofiled_after_s = self._time(runs)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        node_total_s = sum(node["latency_fast_s"] for node in nodes)
        for node in nodes:
            node["share"] = node["latency_fast_s"] / node_total_s if node_total_s > 0 else None
        return {
            "model_b64": base64.b64encode(graph).decode("ascii"),
            "nodes": nodes,
            "total_latency_s": 0.5 * (unprofiled_before_s + unprofiled_after_s),
            "profiled_latency_s": profiled_s,
            "runs": runs,
        }

    def close(self) -> None:
        """Let go of the session and its memory."""
        del self._session

    def _session_options(self) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        spinning = "1" if self._options.get("spinning", False) else "0"
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return options

    def _new_session(self, options: Any) -> Any:
        path = self._subject["path"]
        if not os.path.isfile(path):
            raise AgentError("model", "%s is not on the device" % path, "send the model again")
        try:
            return self._ort.InferenceSession(path, options, providers=[self._provider])
        except Exception as error:  # ONNX Runtime's own types differ between versions
            if "alloc" in str(error).lower():
                raise memory_error("to load %s (%s)" % (self._subject.get("name", path), error)) from error
            raise AgentError(
                "model",
                "ONNX Runtime %s cannot load %s: %s" % (self._ort.__version__, self._subject.get("name", path), error),
                "check the file with onnx.checker, or export it for an older opset",
            ) from error

    def _draw_inputs(self, seed: int) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        import numpy

        random = numpy.random.RandomState(seed)
        shapes = input_shapes(self._session.get_inputs(), self._subject.get("shape"))
        feed = {}
        tensors = []
        for tensor in self._session.get_inputs():
            shape = shapes[tensor.name]
            feed[tensor.name], distribution = draw_input(numpy, random, tensor.type, shape)
            tensors.append(
                {"name": tensor.name, "type": tensor.type, "shape": list(shape), "distribution": distribution}
            )
        distributions = sorted({tensor["distribution"] for tensor in tensors})
        return feed, {"distribution": " and ".join(distributions), "seed": seed, "tensors": tensors}

    def _save_optimized(self, folder: str) -> bytes:
        options = self._session_options()
        options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(prefix + "file_name", "weights.bin")
        options.add_session_config_entry(prefix + "min_size_in_bytes", str(EXTERNAL_WEIGHT_BYTES))
        self._new_session(options)
        with open(options.optimized_model_filepath, "rb") as file:
            return file.read()

    def _time(self, runs: int) -> float:
        """Mean latency of the fastest of ``runs`` inferences."""
        self.infer()
        laps = []
        for _ in range(runs):
            before_s = now_s()
            self.infer()
            laps.append(now_s() - before_s)
        fastest = sorted(laps)[: fast_count(runs)]
        return sum(fastest) / len(fastest)

    def _profile(self, folder: str, runs: int) -> Tuple[List[Dict[str, Any]], float]:
        """Per-node durations of ``runs`` profiled inferences after two that are thrown away."""
        options = self._session_options()
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "profile")
        session = self._new_session(options)
        discarded = 2
        for _ in range(discarded):
            session.run(self._outputs, self._feed)
        before_s = now_s()
        for _ in range(runs):
            session.run(self._outputs, self._feed)
        profiled_s = (now_s() - before_s) / runs
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
        return parse_profile(events, discarded), profiled_s


def fast_count(runs: int) -> int:
    """How many of ``runs`` inferences are taken for undisturbed."""
    return max(1, round(FASTEST_SHARE * runs))


def parse_profile(events: List[Dict[str, Any]], discarded: int) -> List[Dict[str, Any]]:
    """One entry a node in execution order, from ONNX Runtime's profile events (durations in whole microseconds).

    ``discarded``: how many first executions of each node are left out.
    """
    nodes: List[Dict[str, Any]] = []
    by_name: Dict[str, List[float]] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        name = name[: -len("_kernel_time")]
        arguments = event.get("args", {})
        if name not in by_name:
            by_name[name] = []
            nodes.append(
                {
                    "name": name,
                    "op_name": arguments.get("op_name"),
                    "provider": arguments.get("provider"),
                    "input_shapes": arguments.get("input_type_shape", []),
                    "output_shapes": arguments.get("output_type_shape", []),
                }
            )
        by_name[name].append(event["dur"] * 1e-6)
    kept = {name: durations[discarded:] for name, durations in by_name.items()}
    for name, durations in kept.items():
        if not durations:
            raise AgentError("model", "the profiler saw node %s only in the discarded runs" % name)
    # Nodes of a branch not taken are seen less often; whole inferences are ranked by the others.
    runs = max([len(durations) for durations in kept.values()] or [0])
    whole = [sum(d[run] for d in kept.values() if len(d) == runs) for run in range(runs)]
    fastest = sorted(range(runs), key=whole.__getitem__)[: fast_count(runs)]
    for node in nodes:
        durations = kept[node["name"]]
        chosen = [durations[run] for run in fastest] if len(durations) == runs else durations
        node["latency_fast_s"] = sum(chosen) / len(chosen)
        node["latency_mean_s"] = sum(durations) / len(durations)
        node["latency_median_s"] = sorted(durations)[len(durations) // 2]
        node["count"] = len(durations)
    return nodes


def _provider(ort: Any, name: str) -> str:
    if name not in PROVIDERS:
        raise AgentError("bad-request", "provider %r is unknown; known: %s" % (name, ", ".join(sorted(PROVIDERS))))
    provider = PROVIDERS[name]
    available = ort.get_available_providers()
    if provider not in available:
        raise AgentError(
            "no-runtime",
            "this onnxruntime %s has no %s, only %s" % (ort.__version__, provider, ", ".join(available)),
            'install the onnxruntime build for that hardware, or set provider = "cpu"',
        )
    return provider


def _pin_to(cpus: Optional[List[int]]) -> List[int]:
    """Run on these CPUs, or on those that the process was given at its start; returns them."""
    wanted = set(cpus) if cpus is not None else _GIVEN_CPUS
    if wanted is None:
        return []
    try:
        os.sched_setaffinity(0, wanted)
    except (OSError, ValueError) as error:
        message = "CPUs %s cannot be used: %s" % (sorted(wanted), error)
        raise AgentError("bad-request", message, "correct options.affinity") from error
    return sorted(wanted)


def _threads(options: Dict[str, Any]) -> int:
    """The number of threads, always explicit: ONNX Runtime's 0 would mean whatever the machine has."""
    threads = options.get("threads", 1)
    if not isinstance(threads, int) or threads < 1:
        raise AgentError("bad-request", "threads is %r" % (threads,), "set options.threads to 1 or more")
    return threads


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
