"""What a campaign measures, in which order and under which ids: all of it follows from its inputs.

     kernels ─► kinds in turn ─► blocks of a few kernels ─► each block's chains shuffled together
                 (a campaign cut short has covered every kind in proportion)   (drift lands on none of them)

An id is a digest of what is measured and how, so that a resumed campaign finds what it has already.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from device_agents.records import Configuration, KernelSpec, MeasurePlan

CAMPAIGN_FILE = "campaign.json"
BLOCK_KERNELS = 8
CHECK_SHARE = 0.15  # of the kernels get a third chain, as a check that cost is linear in the number of copies
# The shorter a kernel, the more copies it takes to stand out of the call's overhead. How short it may be is judged by
# a slow board's rates (a launch, multiply-accumulates, memory); on a faster one the chains are shorter in time.
CHAIN_S = 3e-3
LAUNCH_S, MACS_PER_S, BYTES_PER_S = 3e-6, 4e9, 2e9
FEWEST_COPIES = 5
MOST_COPIES = {"virtual": 160, "onnxruntime": 40}


class Context(NamedTuple):
    """A network whose kernels are timed in place (``profile``); ``path``: its ONNX file."""

    name: str
    path: Path


class ChainJob(NamedTuple):
    """``copies`` of one kernel in a row, as one subject."""

    identity: str
    kernel: KernelSpec
    copies: int
    longest: bool = False

    @property
    def label(self) -> str:
        """Short human name."""
        return f"{self.kernel.label} x{self.copies}"


class ContextJob(NamedTuple):
    """A whole network, profiled."""

    identity: str
    context: Context

    @property
    def label(self) -> str:
        """Short human name."""
        return self.context.name


Job = ChainJob | ContextJob


@dataclass(frozen=True)
class Chains:
    """The chains of one kernel: ``copies[0] < copies[1]`` are differenced, a third is the check."""

    kernel: KernelSpec
    copies: tuple[int, ...]
    identities: tuple[str, ...]

    def jobs(self) -> list[ChainJob]:
        """One job a chain."""
        longest = max(self.copies)
        pairs = zip(self.identities, self.copies, strict=True)
        return [ChainJob(identity, self.kernel, k, k == longest) for identity, k in pairs]


@dataclass
class Campaign:
    """Everything to be measured, in order; ``to_json`` is what the run folder keeps."""

    runtime: str
    plan: MeasurePlan
    seed: int
    chains: list[Chains] = field(default_factory=list)
    contexts: list[ContextJob] = field(default_factory=list)
    context_plan: MeasurePlan | None = None  # None: as the chains

    def plan_of(self, job: Job) -> MeasurePlan:
        """How a job is measured: networks may have a plan of their own."""
        return self.context_plan or self.plan if isinstance(job, ContextJob) else self.plan

    def blocks(self) -> list[list[Job]]:
        """The jobs in blocks: chains of a few kernels shuffled together, the contexts spread evenly among them."""
        blocks: list[list[Job]] = []
        for start in range(0, len(self.chains), BLOCK_KERNELS):
            jobs: list[Job] = [job for chains in self.chains[start : start + BLOCK_KERNELS] for job in chains.jobs()]
            blocks.append(jobs)
        if not blocks and self.contexts:
            blocks.append([])
        for number, context in enumerate(self.contexts):
            blocks[number * len(blocks) // len(self.contexts)].append(context)
        for number, jobs in enumerate(blocks):
            random.Random(f"{self.seed}-{number}").shuffle(jobs)
        return blocks

    def joined(self, other: Campaign | None) -> Campaign:
        """This campaign, and of ``other`` the chains and networks that it lacks."""
        if other is None:
            return self
        known = {chains.identities[:2] for chains in self.chains} | {(job.identity,) for job in self.contexts}
        chains = [*self.chains, *(chains for chains in other.chains if chains.identities[:2] not in known)]
        contexts = [*self.contexts, *(job for job in other.contexts if (job.identity,) not in known)]
        return replace(self, chains=chains, contexts=contexts)

    def to_json(self) -> dict[str, Any]:
        """The plain form."""
        return {
            "schema": "rig.campaign/1",
            "runtime": self.runtime,
            "plan": self.plan.to_json(),
            "context_plan": None if self.context_plan is None else self.context_plan.to_json(),
            "seed": self.seed,
            "chains": [
                {"kernel": c.kernel.to_json(), "copies": list(c.copies), "ids": list(c.identities)} for c in self.chains
            ],
            "contexts": [
                {"name": job.context.name, "path": str(job.context.path), "id": job.identity} for job in self.contexts
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Campaign:
        """Read the plain form."""
        chains = [
            Chains(KernelSpec.from_json(c["kernel"]), tuple(c["copies"]), tuple(c["ids"])) for c in data["chains"]
        ]
        contexts = [ContextJob(c["id"], Context(c["name"], Path(c["path"]))) for c in data["contexts"]]
        own = data.get("context_plan")
        context_plan = None if own is None else MeasurePlan(**own)
        return cls(data["runtime"], MeasurePlan(**data["plan"]), data["seed"], chains, contexts, context_plan)


def plan_campaign(
    kernels: Iterable[KernelSpec],
    plan: MeasurePlan,
    runtime: str,
    configuration: Configuration | None,
    *,
    contexts: Sequence[Context] = (),
    context_plan: MeasurePlan | None = None,
    seed: int = 0,
) -> Campaign:
    """The campaign over ``kernels`` (duplicates once) and ``contexts``: same arguments, same ids and order."""
    common = {"plan": plan.to_json(), "runtime": runtime, "configuration": configuration and configuration.to_json()}
    chains = []
    for kernel in kinds_in_turn(list(dict.fromkeys(kernels))):
        copies = chain_lengths(kernel, MOST_COPIES[runtime])
        checked = random.Random(f"{seed}-{_digest(kernel.to_json())}").random() < CHECK_SHARE
        copies = copies if checked else copies[:2]
        ids = tuple(f"k{k}-{_digest({**common, 'kernel': kernel.to_json(), 'copies': k})}" for k in copies)
        chains.append(Chains(kernel, copies, ids))
    common["plan"] = (context_plan or plan).to_json()
    jobs = [ContextJob(f"n-{_digest({**common, 'network': _file_digest(c.path)})}", c) for c in contexts]
    return Campaign(runtime, plan, seed, chains, jobs, context_plan)


def chain_lengths(kernel: KernelSpec, most: int) -> tuple[int, int, int]:
    """(short, long, check) numbers of copies, at most ``most``, by a rough guess of the kernel's time."""
    moved = kernel.input_bytes + kernel.output_bytes + kernel.weight_bytes
    guess_s = LAUNCH_S + kernel.macs / MACS_PER_S + moved / BYTES_PER_S
    long = min(max(round(CHAIN_S / guess_s), FEWEST_COPIES), most)
    short = max(2, long // 5)
    return short, long, (short + long) // 2


def kinds_in_turn(kernels: Sequence[KernelSpec]) -> list[KernelSpec]:
    """The same kernels with their kinds mixed in proportion; within a kind the order stays (space-filling first)."""
    counts: dict[tuple[str, str], int] = {}
    for kernel in kernels:
        counts[kernel.kind, kernel.dtype] = counts.get((kernel.kind, kernel.dtype), 0) + 1
    seen = dict.fromkeys(counts, 0)
    ranked = []
    for number, kernel in enumerate(kernels):
        kind = (kernel.kind, kernel.dtype)
        ranked.append(((seen[kind] + 0.5) / counts[kind] if seen[kind] else 0.0, number, kernel))
        seen[kind] += 1
    return [kernel for _, _, kernel in sorted(ranked, key=lambda entry: entry[:2])]


def attempt_id(identity: str, attempt: int) -> str:
    """The measurement id of a job's attempt (0 is the first)."""
    return f"{identity}-{attempt}"


def job_of(measurement_id: str) -> tuple[str, int]:
    """(job identity, attempt) of a measurement id."""
    identity, _, attempt = measurement_id.rpartition("-")
    return identity, int(attempt)


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
