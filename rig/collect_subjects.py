"""A job as something the agent can run: a kernel list for the virtual runtime, an ONNX file for a real one."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rig.collect_plan import ChainJob, ContextJob, Job
from rig.session import Subject

if TYPE_CHECKING:
    from power_models.kernels import KernelNode
    from rig.session import Session
    from rig.store import Run


@contextmanager
def subject_of(job: Job, runtime: str) -> Iterator[Subject]:
    """The subject of a job; a chain's ONNX file lives as long as the block.

    Raises BadInputError (through ``rig.kernel_onnx``) for a kernel that cannot be put into a chain.
    """
    if isinstance(job, ContextJob):
        yield Subject(job.label, path=job.context.path)
    elif runtime == "virtual":
        yield Subject(job.label, kernels=[job.kernel] * job.copies)
    else:
        with TemporaryDirectory(prefix="rig-chain-") as folder:
            yield Subject(job.label, path=_chain_file(job, Path(folder)))


def _chain_file(job: ChainJob, folder: Path) -> Path:
    from rig.kernel_onnx import chain_model

    path = folder / f"{job.identity}.onnx"
    path.write_bytes(chain_model(job.kernel, job.copies).SerializeToString())
    return path


def context_file(job: ContextJob) -> str:
    """Where the run folder keeps a context's optimized graph."""
    return f"artifacts/contexts/{job.identity}.json"


def keep_context(session: Session, run: Run, job: ContextJob) -> None:
    """Ask the runtime for the network's optimized graph, once, and keep it, so that rows need no device."""
    if (run.path / context_file(job)).exists():
        return
    facts = session.inspect(job.context.path)
    run.write_json(context_file(job), {"model_b64": facts["model_b64"], "nodes": facts["nodes"]})


def read_context(run: Run, job: ContextJob) -> list[KernelNode]:
    """The kernels of a context as the runtime ran them; StoreError where its graph was not kept."""
    from power_models.kernels import from_optimized

    facts: dict[str, Any] = run.read_json(context_file(job))
    nodes: list[KernelNode] = from_optimized(base64.b64decode(facts["model_b64"]), facts["nodes"])
    return nodes
