"""The loop that closes on the device.

    seed network, untrained ──► measured: P0, latency, energy        (costs do not depend on the values of weights)
    feasibility               ──► said before anything is trained
    baseline, trained         ──► the method's search (``methods``: shrinking, importance, blocks)
    a choice to the budget    ──► narrow network ──► measured beside the baseline ──► corrected (``rounds``)
    fine-tuned, exported      ──► fresh confirmation beside the baseline ──► verdict

Training is checkpointed by epoch, measurements are found again by id, decisions are kept in ``state.json``: a stopped
run continues where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from power_models.kernel_cost import KernelCostModel
from power_models.tables import Array
from rig.compression import export
from rig.compression.baseline import trained_baseline
from rig.compression.bench import Bench
from rig.compression.budget import Budget
from rig.compression.corrections import Reading, next_ratio
from rig.compression.cutting.channel_group import has_norms
from rig.compression.cutting.realize import Realized, realized_checked
from rig.compression.cutting.surgery import built
from rig.compression.cutting.tracing import FOREIGN_ERRORS
from rig.compression.methods import make_method, require_served
from rig.compression.methods.base import Choice, Found, Method, Workplace, check_task
from rig.compression.methods.given import Given, groups_of
from rig.compression.survey import Settings, Survey, feasible_budget, rates_of, take_survey
from rig.compression.tasks import Task
from rig.compression.training import TrainingPlan
from rig.compression.trial import Trial, judge
from rig.errors import BadInputError, ModelError, RigError
from rig.output import plain
from rig.profiles import DeviceProfile
from rig.store.store import Run
from rig.workloads.network_file import read_kernels

FINETUNE_RATE = 0.05
LONG_RATE, LONG_STEPS = 0.1, 1500  # of fine-tuning that has so many steps: the baseline's own rate ends better then
PLAIN_FINETUNE_RATE = 0.01  # without batch-norm, where a teacher at 0.05 throws a network off (experiments/gates)
WELL_USED = 0.98  # of the active budget: below it there is room worth another round
CANDIDATE_ROUNDS, CONFIRM_ROUNDS, CONFIRM_ROUNDS_MOST = 5, 6, 15
FIRST_MARGIN = 0.012  # of the active budget, left free for what prediction and measurement may err
LAST_MARGIN = 0.02  # where no round is left to correct in
PATIENCE_S = 1800.0  # for a device that somebody else holds, once training has been invested
FROM_SCRATCH = "from scratch"
STATE_VERSION = 12  # of state.json and checkpoints; 1: no methods, 2: no trials that train, 3 to 6: other fine-tunings


class Candidate(NamedTuple):
    """A choice that was built and measured in one round."""

    round: int
    choice: Choice
    network: nn.Module
    path: Path
    predicted: Array
    trial: Trial
    accuracy_val: float


class Outcome(NamedTuple):
    """What the stages gave, for the report: the best candidate, trained, with its confirmation.

    paths: ONNX files of baseline and result; retrained: the same network trained from scratch, where that was asked;
    not_retrained: why that failed, empty where it did not.
    """

    survey: Survey
    budget: Budget
    baseline: nn.Module
    found: Found
    candidate: Candidate
    trial: Trial
    paths: tuple[Path, Path]
    retrained: nn.Module | None
    not_retrained: str = ""


class Loop:
    """One optimize run; ``go`` works through the stages and returns what ``outcome.result`` reports."""

    def __init__(
        self,
        run: Run,
        profile: DeviceProfile,
        task: Task,
        cost_model: KernelCostModel,
        settings: Settings,
        progress: Any,
        baselines: Path,
    ) -> None:
        self.run = run
        self.profile = profile
        self.task = task
        self.cost_model = cost_model
        self.settings = settings
        self.progress = progress
        self.baselines = baselines
        self.bench = Bench(profile, run, progress.update)
        self.rounds: list[Candidate] = []
        self.put_back: dict[str, str] = {}  # blocks that the check of a round's surgery put back, and why
        self.held_out: list[dict[str, Any]] = []
        self.state = _state_of(run)
        self.workplace = Workplace(
            task, settings, run.path, progress, self.state, lambda state: run.write_json("state.json", plain(state))
        )
        self.method: Method = Given() if settings.widths is not None else make_method(settings.method)
        require_served(self.method, (limit.quantity for limit in settings.limits))

    # --- training ---------------------------------------------------------------------------------------------------

    def baseline(self) -> nn.Module:
        """The seed network, trained once per task, network, epochs and seed, and kept for other runs."""
        plan = TrainingPlan(self.settings.epochs_baseline, seed=self.settings.seed)

        def fresh(network: nn.Module) -> None:
            self.workplace.train("baseline", network, plan, self.workplace.checkpoint("baseline"))

        network = trained_baseline(self.task, plan, self.baselines, fresh)
        if not self.workplace.stages:  # found, not trained: by this run before it was stopped, or by another
            self.workplace.recall("baseline")
        return network

    def finetune(self, candidate: Candidate, found: Found, baseline: nn.Module) -> tuple[Candidate, Path]:
        """Train the narrow network on, taught by the baseline (or from scratch, as the method asks), and export it."""
        stage = "fine-tune"
        if self.method.from_scratch:
            stage = FROM_SCRATCH
            candidate = candidate._replace(network=self.from_scratch(candidate, found))
        else:
            plan = TrainingPlan(
                self.settings.epochs_finetune,
                finetune_rate(candidate.network, self.settings.epochs_finetune * self.workplace.per_epoch),
                seed=self.settings.seed + 2,
                ema=self.settings.ema,
                label_smoothing=self.settings.label_smoothing,
            )
            checkpoint = self.workplace.checkpoint(f"finetune-{candidate.round}")
            self.workplace.train(stage, candidate.network, plan, checkpoint, teacher=baseline)
        path = self.run.path / "artifacts" / "compressed.onnx"
        difference = export.save_checked(candidate.network, self.task.input_shape, path)
        self.workplace.note(stage, candidate.network, onnx_difference=difference)
        return candidate, path

    def from_scratch(self, candidate: Candidate, found: Found) -> nn.Module:
        """A candidate's network with fresh weights, trained by the baseline's recipe for all epochs of a run."""
        plan = TrainingPlan(self.settings.epochs, seed=self.settings.seed + 3)
        torch.manual_seed(plan.seed)
        choice = candidate.choice
        network, _ = built(self.task.model, found.template, choice.widths, choice.removed, self.workplace.example)
        checkpoint = self.workplace.checkpoint(f"from-scratch-{candidate.round}")
        self.workplace.train(FROM_SCRATCH, network, plan, checkpoint)
        self.workplace.note(FROM_SCRATCH, network)
        return network

    def retrained(self, candidate: Candidate, found: Found) -> tuple[nn.Module | None, str]:
        """The result's network from scratch where that was asked; else, and where it fails, None and why it failed.

        The result itself is finished by then and does not depend on it: a failure here must not lose it.
        """
        if not self.settings.retrain:
            return None, ""
        try:
            return self.from_scratch(candidate, found), ""
        except RigError as error:
            return None, error.message
        except FOREIGN_ERRORS as error:
            return None, f"{type(error).__name__}: {error}"

    # --- widths and the device --------------------------------------------------------------------------------------

    def _corrections(self, survey: Survey, budget: Budget, margin: float) -> dict[str, float]:
        """Per bound, the factor on its active part that turns a measured limit into a predicted one, less a margin."""
        found = {}
        for bound in budget.bounds:
            ratio = bound.used(bound.value(survey.measured)) / bound.used(bound.value(survey.predicted))
            found[bound.name] = (1.0 - margin) / ratio
        return found

    def candidates(self, found: Found, survey: Survey, budget: Budget, factors: dict[str, float]) -> Candidate:
        """Choose widths, build, measure beside the baseline, correct: until met and well used, or out of rounds."""
        best: Candidate | None = None
        while True:
            candidate = self._candidate(found, survey, budget, factors)
            self.rounds.append(candidate)
            usage = max(candidate.trial.usages.values(), key=lambda q: q.value or 0.0)
            met = candidate.trial.verdict == "met"
            if met and (best is None or best.trial.most_used() < candidate.trial.most_used()):
                best = candidate
            if (met and (usage.value or 0.0) >= WELL_USED) or len(self.rounds) >= self._most_rounds:
                return best or candidate
            last = len(self.rounds) + 1 >= self._most_rounds
            for bound in budget.bounds:
                readings = [
                    Reading(bound.used(bound.value(one.predicted)), one.trial.usages[bound.name]) for one in self.rounds
                ]
                half_width = readings[-1].measured.half_width or 0.0
                margin = max(LAST_MARGIN if last else 0.008, 1.2 * half_width + 0.002)
                factors[bound.name] = (1.0 - margin) * next_ratio(readings, met)

    @property
    def _most_rounds(self) -> int:
        """How often may be measured and corrected: widths that were given are not corrected."""
        return 1 if self.settings.widths is not None else self.settings.rounds

    def _candidate(self, found: Found, survey: Survey, budget: Budget, factors: dict[str, float]) -> Candidate:
        number = len(self.rounds) + 1
        self.progress.stage(f"round {number}: choosing widths, measuring beside the baseline")
        made = self._realized(number, found, survey, budget, factors)
        narrowed, choice = made.network, made.choice
        path = self.run.path / "artifacts" / f"candidate-{number}.onnx"
        export.save_checked(narrowed, self.task.input_shape, path)
        predicted = survey.tables.totals(choice.widths, found.template.removed_kernels(choice.removed))
        with self.bench as bench:
            trial = Trial.measure(
                bench,
                {"baseline": survey.path, "candidate": path},
                f"round{number}",
                rates_of(self.settings, float(survey.measured[0]), bench),
                CANDIDATE_ROUNDS,
            )
        trial = judge(trial, budget, "candidate", self.counts(narrowed, path))
        accuracy = self.workplace.accuracy(narrowed)
        self.progress.update(f"round {number}: {trial.verdict}, {100 * trial.most_used():.1f} % of the active budget")
        return Candidate(number, choice, narrowed, path, predicted, trial, accuracy)

    def _realized(
        self, number: int, found: Found, survey: Survey, budget: Budget, factors: dict[str, float]
    ) -> Realized:
        """A round's network. What was asked for is kept and taken up again after a stop, with its factors.

        What is measured and trained of a round is found again by the round's number, so it must be the same network.
        A block that its surgery put back is left alone from then on.
        """
        torch.manual_seed(self.settings.seed + 100 * number)  # a resumed run drew less before it came here
        kept = self.state.setdefault("rounds", {})
        if str(number) not in kept:
            if (self.run.path / "artifacts" / f"candidate-{number}.onnx").exists():
                raise BadInputError(
                    f"run {self.run.id} measured round {number} with an earlier version of the loop, which did not "
                    "keep what it had chosen",
                    "leave --resume out; the trained baseline is found again",
                )
            choice = self.method.choose(_without(found, self.put_back), survey, budget.scaled(dict(factors)))
            kept[str(number)] = {**choice._asdict(), "factors": dict(factors)}
            self.workplace.save_state()
        asked = kept[str(number)]
        factors.update(asked["factors"])
        choice = Choice({group: int(width) for group, width in asked["widths"].items()}, list(asked["removed"]))
        made = realized_checked(found.network, found.template, found.importance, choice, self.task)
        for name, why in made.refused.items():
            self.progress.update(f"{name} was put back: {why}")
            if name in choice.removed:
                self.put_back[name] = why
        return made

    def counts(self, network: nn.Module, path: Path) -> tuple[int, int]:
        """(MACs of an inference, parameters) of a network and its exported file."""
        nodes = read_kernels(path, self.profile.runtime.name, block=self.cost_model.layout_block)
        return sum(n.spec.macs for n in nodes), sum(p.numel() for p in network.parameters())

    def confirm(self, survey: Survey, budget: Budget, candidate: Candidate, paths: tuple[Path, Path]) -> Trial:
        """A fresh measurement of the fine-tuned network beside the trained baseline, until the verdict is clear."""
        self.progress.stage(f"confirmation: measuring on {self.profile.name}")
        counts = self.counts(candidate.network, paths[1])

        def enough(found: Any) -> bool:
            judged = judge(Trial(found), budget, "result", counts)
            return (
                judged.verdict != "undecided"
                and all((q.relative or 0.0) <= 0.03 for q in judged.usages.values())
                and (len(next(iter(found.values()))) >= CONFIRM_ROUNDS)
            )

        networks = {"baseline": paths[0], "result": paths[1]}
        with self.bench as bench:
            rates = rates_of(self.settings, float(survey.measured[0]), bench)
            tag = f"confirm{candidate.round}"
            trial = Trial.measure(bench, networks, tag, rates, CONFIRM_ROUNDS_MOST, enough)
        return judge(trial, budget, "result", counts)

    def confirmed(
        self,
        found: Found,
        survey: Survey,
        budget: Budget,
        factors: dict[str, float],
        baseline: tuple[nn.Module, Path],
    ) -> tuple[Candidate, tuple[Path, Path], Trial]:
        """The best candidate, fine-tuned and confirmed, with the files of both networks and the confirmation.

        What is not confirmed is corrected, and fine-tuned again: while rounds are left, and once if there are none.
        """
        most = self._most_rounds + (0 if self.settings.widths is not None else 1)
        while True:
            candidate, path = self.finetune(self.candidates(found, survey, budget, factors), found, baseline[0])
            trial = self.confirm(survey, budget, candidate, (baseline[1], path))
            if trial.verdict == "met" or len(self.rounds) >= most:
                return candidate, (baseline[1], path), trial
            chosen_by = self.state["rounds"][str(candidate.round)]["factors"]
            for bound in budget.bounds:
                over = max(trial.usages[bound.name].hi or 1.0, 1.0)  # what was met is not loosened
                factors[bound.name] = chosen_by[bound.name] * (1.0 - FIRST_MARGIN) / over

    # --- the whole line ---------------------------------------------------------------------------------------------

    def go(self, finish: Callable[[Loop, Outcome], dict[str, Any]]) -> dict[str, Any]:
        """All stages in order; ``finish`` makes the result of what they gave (``outcome.result``)."""
        self.workplace.save_state()
        self.progress.stage(f"measuring the baseline network on {self.profile.name}, before any training")
        survey = take_survey(self.bench, self.task, self.cost_model, self.settings)
        if survey.paced_line is not None:
            self.state["paced_line"] = survey.paced_line
        _require_prunable(self.task, survey)
        if self.settings.widths is not None:
            groups_of(self.settings.widths, survey.template, survey.tables.largest)
        budget, self.state["reachable"] = feasible_budget(survey, self.settings)
        self._announce(budget)
        check_task(self.task, self.task.model())
        self.bench.patience_s = PATIENCE_S
        baseline = self.baseline()
        self.workplace.note("baseline", baseline)
        baseline_path = self.run.path / "artifacts" / "baseline.onnx"
        export.save_checked(baseline, self.task.input_shape, baseline_path)
        factors = self._corrections(survey, budget, FIRST_MARGIN)
        found = self.method.search(self.workplace, baseline, survey, budget.scaled(dict(factors)))
        candidate, paths, trial = self.confirmed(found, survey, budget, factors, (baseline, baseline_path))
        again = self.retrained(candidate, found)
        return finish(self, Outcome(survey, budget, baseline, found, candidate, trial, paths, *again))

    def _announce(self, budget: Budget) -> None:
        for bound in budget.bounds:
            low, high = self.state["reachable"][bound.name]
            rate = f" at {bound.fps:g} fps" if bound.fps else ""
            self.progress.stage(
                f"target {bound.quantity} ≤ {bound.limit:.4g} {bound.unit}{rate}: baseline {high:.4g}, reachable "
                f"{low:.4g} to {high:.4g} {bound.unit} (predicted): feasible"
            )


def outdated(run: Run) -> bool:
    """Whether a run was begun by another version of the loop: what it found or keeps means something else today."""
    kept = _kept(run)
    begun = bool(kept) or (run.path / "stages").exists()
    return begun and kept.get("version") != STATE_VERSION


def _kept(run: Run) -> dict[str, Any]:
    return dict(run.read_json("state.json")) if (run.path / "state.json").exists() else {}


def _state_of(run: Run) -> dict[str, Any]:
    """The decisions kept so far; raises BadInputError where they are of an earlier version of the loop."""
    if outdated(run):
        raise BadInputError(
            f"run {run.id} was begun by an earlier version of the loop, whose checkpoints mean something else",
            "leave --resume out; the trained baseline is found again",
        )
    return {**_kept(run), "version": STATE_VERSION}


def finetune_rate(network: nn.Module, steps: float) -> float:
    """The rate of learning of fine-tuning in so many steps.

    Where there is time, training anew at the rate that the weights were trained at ends better than gentle fine-tuning
    (Renda et al., ICLR 2020, arXiv 2003.02389, rewinding of the learning rate).
    """
    if not has_norms(network):
        return PLAIN_FINETUNE_RATE
    return LONG_RATE if steps >= LONG_STEPS else FINETUNE_RATE


def _without(found: Found, put_back: Mapping[str, str]) -> Found:
    """What was found, less the blocks that have to stay."""
    template = found.template
    return found._replace(
        template=template._replace(blocks=[b for b in template.blocks if b.name not in put_back]),
        removed=[name for name in found.removed if name not in put_back],
    )


def _require_prunable(task: Task, survey: Survey) -> None:
    """Raise ModelError where no channel of the network may go, with the reasons."""
    groups = survey.template.groups
    if not any(g.prunable for g in groups):
        why = "; ".join(f"{g.name}: {g.why_fixed}" for g in groups) or "it has no convolution or linear layer"
        raise ModelError(
            f"nothing of {task.model_name} can be pruned ({why})", "see docs/writing-a-task.md, What can be shrunk"
        )
