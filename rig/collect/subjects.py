"""A job as something the agent can run, and what the runtime made of it.

The virtual runtime takes kernel lists. A real one takes an ONNX file, and may fold, split or surround what is in it: so
its own optimized graph is read back, checked, and kept in the run folder with each kernel's share of the time.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from device_agents.records import KernelSpec
from rig.collect.plan import ChainJob, ContextJob, Job
from rig.connection.session import Subject
from rig.errors import BadInputError
from rig.store.evidence import keep_inspection
from rig.workloads.network_file import read_kernels

if TYPE_CHECKING:
    from rig.connection.session import Session
    from rig.store.store import Run

PROFILED_RUNS = {"chain": 40, "network": 60}
LAYOUT_BLOCKS = (16, 8, 4, 0)
BLOCK_GRAPHS = 8  # so many of the runtime's graphs tell the block size
WEIGHTS_SEED = 0  # of chain models: the same file, and so the same request, after a restart


class ExecutedKernel(NamedTuple):
    """One kernel of a graph as the runtime ran it: the node's name and operator, its share of the profiled time.

    ``profiled_s``: its profiled time, mean over the fastest inferences, the profiler's own cost included.
    """

    name: str
    op: str
    kernel: KernelSpec
    share: float
    profiled_s: float | None = None


class ExecutedGraph(NamedTuple):
    """The kernels of a graph in order; ``total_latency_s``: an inference of it without the profiler."""

    kernels: list[ExecutedKernel]
    total_latency_s: float | None = None


@contextmanager
def subject_of(job: Job, runtime: str) -> Iterator[Subject]:
    """The subject of a job; a chain's ONNX file lives as long as the block.

    Raises BadInputError for a kernel that cannot be put into a chain.
    """
    if isinstance(job, ContextJob) and runtime == "virtual":
        yield Subject(job.label, kernels=[node.spec for node in read_kernels(job.context.path, runtime)])
    elif isinstance(job, ContextJob):
        yield Subject(job.label, path=job.context.path)
    elif runtime == "virtual":
        yield Subject(job.label, kernels=[job.kernel] * job.copies)
    else:
        with TemporaryDirectory(prefix="rig-chain-") as folder:
            yield Subject(job.label, path=_chain_file(job, Path(folder)))


def _chain_file(job: ChainJob, folder: Path) -> Path:
    from rig.workloads.kernel_onnx import chain_model

    path = folder / f"{job.identity}.onnx"
    path.write_bytes(chain_model(job.kernel, job.copies, WEIGHTS_SEED).SerializeToString())
    return path


def _graph_file(identity: str) -> str:
    return f"artifacts/graphs/{identity}.json"


def keep_graph(session: Session, run: Run, job: Job, subject: Subject) -> None:
    """Read the runtime's own graph of a subject back, once, and keep its kernels, so that rows need no device.

    Of chains the longest is read. Raises BadInputError where the graph does not hold the copies, or cannot be read.
    """
    if subject.path is None or (isinstance(job, ChainJob) and not job.longest):
        return
    if (run.path / _graph_file(job.identity)).exists():
        return
    from power_models.kernels import from_optimized
    from rig.workloads.kernel_onnx import require_copies

    facts = session.inspect(subject.path, runs=PROFILED_RUNS["chain" if isinstance(job, ChainJob) else "network"])
    keep_inspection(run, job.identity, subject.path, facts)
    try:
        nodes = from_optimized(base64.b64decode(facts["model_b64"]), facts["nodes"], subject.path)
    except (ValueError, KeyError) as error:  # KeyError: a tensor that no node of the graph writes
        raise BadInputError(f"{job.label}: the runtime's graph cannot be read: {error!r}", "leave it out") from error
    if isinstance(job, ChainJob):
        require_copies(job.kernel, job.copies, nodes)
    kernels = [
        {
            "name": entry["name"],
            "op": entry["op_name"],
            "kernel": node.spec.to_json(),
            "share": entry["share"],
            "profiled_s": entry["latency_fast_s"],
        }
        for node, entry in zip(nodes, facts["nodes"], strict=True)
    ]
    total_s = facts["total_latency_s"]
    run.write_json(_graph_file(job.identity), {"subject": job.label, "total_latency_s": total_s, "kernels": kernels})


def found_block(graphs: Sequence[tuple[Path, ExecutedGraph]]) -> int | None:
    """The block size of the runtime's layout under which the rules come nearest to its own graphs; None without any.

    It depends on the device's vector unit (16 with AVX-512, 8 with AVX2; 0: no such layout, as on most Arm boards).
    """
    if not graphs:
        return None

    def disagreement(block: int) -> int:
        """Kernels that only one of the two has: a reorder too many counts like one too few."""
        different = 0
        for path, graph in graphs[:BLOCK_GRAPHS]:
            ours = Counter(node.spec for node in read_kernels(path, "onnxruntime", block=block))
            theirs = Counter(executed.kernel for executed in graph.kernels)
            different += (ours - theirs).total() + (theirs - ours).total()
        return different

    return min(LAYOUT_BLOCKS, key=disagreement)


def read_graph(run: Run, identity: str) -> ExecutedGraph | None:
    """The kernels kept by ``keep_graph``, in order; None for a job without a graph (virtual)."""
    if not (run.path / _graph_file(identity)).exists():
        return None
    data = run.read_json(_graph_file(identity))
    kernels = [
        ExecutedKernel(k["name"], k["op"], KernelSpec.from_json(k["kernel"]), float(k["share"]), k.get("profiled_s"))
        for k in data["kernels"]
    ]
    return ExecutedGraph(kernels, data.get("total_latency_s"))
