"""One piece from its candidates to its row: cost first, on the device; training; the cost again, of what was trained.

    whole, uniform, hand  candidates measured untrained ──► trained from scratch (all epochs)        ─┐
    taylor, magnitude     trained baseline pruned to the cost (measured untrained) ──► fine-tuned    ─┼─► measured
    morphnet-flops        baseline shrunk by FLOPs ──► the FLOPs limit that measures right ──► fine-tuned ─┘ beside the
    morphnet, allocate    ``rig optimize`` on the device's own cost, as a person would run it            baseline

What was cut is taught by the network it was cut from (distillation, as in ``rig optimize``), whose epochs are counted.
Those from scratch have no teacher, but in the rows ``hand-*-taught``: there the reference teaches, and is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from equal_cost import Candidate, Look, Priced, dearer, find_equal, interval, is_void, off, two_modes
from peer_families import HAND_TAUGHT, like_published, pool_of, priced, pruned_ladder, weights_at
from peer_ground import Ground, ground_of, run_of
from peer_ours import ours
from peer_pieces import BY_HAND, FLOPS, OURS, PRUNED, Piece
from torch import nn

from experiments.shared.pieces import Row
from rig.compression import export
from rig.compression.budget import resolve
from rig.compression.cutting.realize import realized
from rig.compression.loop import finetune_rate
from rig.compression.methods import make_method
from rig.compression.methods.base import Choice, Workplace
from rig.compression.training import TrainingPlan
from rig.console import Progress
from rig.output import plain
from rig.quality.verdict import compare
from rig.store.store import Run
from rig.units import Limit, Quantity

ALIGNED_BY = 16  # channels that a CPU with AVX-512 runs together
FLOPS_FACTORS = np.geomspace(0.3, 3.0, 9)  # of the FLOPs limit: a first look at what they cost
AROUND = np.linspace(0.88, 1.12, 13)  # of the wanted cost: where factors are taken between them


class Plan(NamedTuple):
    """A peer's network at the budget, before it is trained: where its cost came out, and after how many looks."""

    candidate: Candidate
    share: Quantity
    looks: list[dict[str, Any]]
    aligned: Quantity | None

    def to_json(self) -> dict[str, Any]:
        """What is stored in the piece's run."""
        aligned = None if self.aligned is None else self.aligned.to_json()
        return {
            "candidate": self.candidate._asdict(),
            "share": self.share.to_json(),
            "looks": self.looks,
            "aligned": aligned,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """Read what ``to_json`` wrote."""
        made = data["candidate"]
        aligned = None if data["aligned"] is None else Quantity.from_json(data["aligned"])
        candidate = Candidate(made["label"], dict(made["widths"]), tuple(made["removed"]))
        return cls(candidate, Quantity.from_json(data["share"]), data["looks"], aligned)


# --- cost first ---------------------------------------------------------------------------------------------------


def plan_of(piece: Piece) -> Plan:
    """The network of a peer that is found without training, measured; from the store where it was done."""
    run = run_of(piece.words, piece.device)
    if (run.path / "plan.json").exists():
        return Plan.from_json(run.read_json("plan.json"))
    ground = ground_of(piece.device, piece.network, piece.variant)
    survey = ground.survey
    ladder: list[Candidate] = []
    if piece.peer in PRUNED:
        ladder = [candidate for candidate, _ in ladder_of(piece, ground)]
    pool = pool_of(piece.peer, survey.template, survey.tables, ground.place, ladder)
    preference = like_published(survey.template) if piece.peer in BY_HAND else None
    return _planned(piece, ground, run, find_equal(pool, ground.look, piece.goal, ground.size.looks, preference))


def ladder_of(piece: Piece, ground: Ground) -> Iterator[tuple[Candidate, dict[str, Any]]]:
    """torch-pruning's steps down from the network of a piece that is cut; the same each time."""
    start, steps = ground.start(piece.seed), ground.size.prune_steps
    return pruned_ladder(start, ground.task, ground.survey.template, piece.peer, piece.seed, steps)


def _planned(piece: Piece, ground: Ground, run: Run, looks: list[Look]) -> Plan:
    best = looks[-1]
    candidate = best.priced.candidate
    aligned = None
    if not ground.profile.simulated:  # a real host may run a narrow network at two speeds
        widths = {
            g.name: -(-candidate.widths[g.name] // ALIGNED_BY) * ALIGNED_BY if g.prunable else g.width
            for g in ground.survey.template.groups
        }
        aligned = ground.look(Candidate(f"{candidate.label}, aligned", widths, candidate.removed))
    plan = Plan(candidate, best.share, [look.to_json() for look in looks], aligned)
    run.write_json("plan.json", plain(plan.to_json()))
    return plan


# --- training -----------------------------------------------------------------------------------------------------


def row_of(piece: Piece, progress: Any = None) -> Row:
    """The row of a piece, with everything that is missing done; a stopped piece goes on where it was."""
    if piece.peer in OURS:
        return ours(piece)
    run = run_of(piece.words, piece.device)
    ground = ground_of(piece.device, piece.network, piece.variant)
    with Progress() if progress is None else progress as shown:
        state = dict(run.read_json("state.json")) if (run.path / "state.json").exists() else {}
        workplace = Workplace(
            ground.task,
            ground.settings(piece.seed),
            run.path,
            shown,
            state,
            lambda kept: run.write_json("state.json", plain(kept)),
        )
        if piece.peer == FLOPS:
            network, plan = by_flops(piece, ground, run, workplace)
        else:
            plan = plan_of(piece)
            network = start_of(piece, ground, plan)
        worthwhile = is_void(plan.share, piece.goal, ours=False) is None or dearer(plan.share.value, piece.goal)
        if worthwhile:
            workplace.train(
                "last training",
                network,
                last_training(piece, network, workplace.per_epoch),
                workplace.checkpoint("last"),
                teacher=teacher_of(piece, ground),
            )
        row = checked(piece, ground, run, network, plan, worthwhile)
    run.update(state="done")
    return {**row, "seconds": sum(one["seconds"] for one in workplace.state.get("trained", {}).values())}


def last_training(piece: Piece, network: nn.Module, per_epoch: int) -> TrainingPlan:
    """The recipe of ``rig optimize``'s fine-tuning, or a whole training, in the epochs that the method has left.

    All that is fine-tuned is at the rate of ours, also where it has more epochs.
    """
    whole, (trained, _, finetune) = piece.plan.total_epochs, piece.plan.epochs
    seed = piece.seed + 2
    if piece.peer not in (*PRUNED, FLOPS):
        return TrainingPlan(whole, seed=seed)
    epochs = finetune if piece.peer == FLOPS else whole - trained
    return TrainingPlan(epochs, finetune_rate(network, finetune * per_epoch), seed=seed)


def teacher_of(piece: Piece, ground: Ground) -> nn.Module | None:
    """Who teaches in the last training."""
    if piece.peer in HAND_TAUGHT:
        return ground.reference(piece.seed)
    return ground.start(piece.seed) if piece.peer in (*PRUNED, FLOPS) else None


def start_of(piece: Piece, ground: Ground, plan: Plan) -> nn.Module:
    """What the last training starts from: fresh weights, or those that torch-pruning left."""
    torch.manual_seed(piece.seed)
    network = ground.task.model(ground.table(plan.candidate))
    if piece.peer in PRUNED:
        network.load_state_dict(weights_at(plan.candidate, ladder_of(piece, ground)))
    return network


def by_flops(piece: Piece, ground: Ground, run: Run, workplace: Workplace) -> tuple[nn.Module, Plan]:
    """MorphNet with FLOPs for its resource, and the FLOPs limit at which its network measures the wanted cost.

    The search aims at the FLOPs of the uniform network of the wanted cost; what is chosen from it is measured.
    """
    method, survey = make_method("morphnet"), ground.survey
    uniform = pool_of("uniform", survey.template, survey.tables, ground.place)
    macs_share = min(uniform, key=lambda one: abs(off(one.predicted, piece.goal))).macs / float(survey.measured[2])
    limit = Limit("flops", "FLOP", None, macs_share)
    budget = resolve([limit], None, survey.idle_power_w, survey.measured)
    found = method.search(workplace, ground.start(piece.seed), survey, budget)
    if (run.path / "plan.json").exists():
        plan = Plan.from_json(run.read_json("plan.json"))
    else:
        pool = _flops_pool(method, found, ground, budget, piece.goal)
        plan = _planned(piece, ground, run, find_equal(pool, ground.look, piece.goal, ground.size.looks))
    choice = Choice(plan.candidate.widths, list(plan.candidate.removed))
    return realized(found.network, found.template, found.importance, choice, ground.task), plan


def _flops_pool(method: Any, found: Any, ground: Ground, budget: Any, goal: float) -> list[Priced]:
    """What the method chooses at many FLOPs limits, most of them where the wanted cost is expected."""

    def at(factors: Any) -> list[Priced]:
        made = []
        for factor in factors:
            choice = method.choose(found, ground.survey, budget.scaled({"flops": float(factor)}))
            label = f"FLOPs limit × {factor:.3f}"
            made.append(Candidate(label, dict(choice.widths), tuple(sorted(choice.removed))))
        return [priced(iter([one]), ground.survey.template, ground.survey.tables, ground.place)[0] for one in made]

    coarse = at(FLOPS_FACTORS)
    shares = np.maximum.accumulate([one.predicted for one in coarse])
    fine = at(np.exp(np.interp(np.log(goal * AROUND), np.log(shares), np.log(FLOPS_FACTORS))))
    return list({one.candidate.key: one for one in (*coarse, *fine)}.values())


# --- the trained network ------------------------------------------------------------------------------------------


def checked(piece: Piece, ground: Ground, run: Run, network: nn.Module, plan: Plan, trained: bool) -> Row:
    """The row: cost of the trained network beside the trained reference, and accuracies; the test set is used once.

    A network that was not worth training is void as it stands.
    """
    size, task = ground.size, ground.task
    share, modes, kind = plan.share, None, plan.share.kind
    if trained:
        path = run.path / "artifacts" / "trained.onnx"
        if not path.exists():
            export.save_checked(network, task.input_shape, path)
        networks = {"baseline": ground.reference_onnx(piece.seed), "result": path}
        before, after = ground.in_turn(ground.bench_of(run), networks, "check", size.rounds[1])
        share = compare(before, after, piece.quantity)
        modes = two_modes(after, before)
        kind = before[0].kind
    seed_macs = float(ground.survey.measured[2])
    totals = ground.survey.tables.totals(
        plan.candidate.widths, ground.survey.template.removed_kernels(plan.candidate.removed)
    )
    return {
        **piece._asdict(),
        "kind": kind,
        "void": is_void(share, piece.goal, ours=False),
        "share": interval(share),
        "planned": interval(plan.share),
        "aligned": interval(plan.aligned),
        "modes": modes,
        **ground.accuracies(ground.reference(piece.seed), "baseline"),
        **(ground.accuracies(network, "result") if trained else {"result_val": None, "result_test": None}),
        "images": task.test_count,
        "epochs": piece.plan.total_epochs,
        "macs_share": float(totals[2]) / seed_macs,
        "params": sum(p.numel() for p in network.parameters()),
        "made": plan.candidate.label,
        "removed": list(plan.candidate.removed),
        "widths": ground.table(plan.candidate),
        "looks": len(plan.looks),
        "verdict": None,
    }
