"""The loop that closes on the device.

    seed network, untrained ──► measured: P0, latency, energy        (costs do not depend on the values of weights)
    feasibility               ──► said before anything is trained
    baseline, trained         ──► shrink (regularizer under its controller) ──► blocks removed
    widths to the budget      ──► narrow network ──► measured beside the baseline ──► corrected (``rounds``)
    fine-tuned, exported      ──► fresh confirmation beside the baseline ──► verdict

Training is checkpointed by epoch, measurements are found again by id, decisions are kept in ``state.json``: a stopped
run continues where it was.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from power_models.kernel_cost import KernelCostModel
from power_models.regularizer import CostRegularizer
from power_models.tables import Array
from rig.compression import blocks, export
from rig.compression.baseline import trained_baseline
from rig.compression.bench import Bench
from rig.compression.budget import Budget
from rig.compression.controller import StrengthController
from rig.compression.groups import ChannelGroup, find_groups
from rig.compression.importance import taylor
from rig.compression.morphnet import Shrinker
from rig.compression.surgery import bare_network, keep_channels, narrow, reestimate_norms
from rig.compression.survey import Settings, Survey, feasible_budget, rates_of, take_survey
from rig.compression.tasks import Task
from rig.compression.template import Template
from rig.compression.training import TrainingPlan, train
from rig.compression.trial import Trial, judge
from rig.compression.widths import WidthChooser
from rig.profiles import DeviceProfile
from rig.store.store import Run
from rig.workloads.network_file import read_kernels

SHRINK_RATE, FINETUNE_RATE = 0.05, 0.05
WELL_USED = 0.955  # of the active budget: below it there is room worth another round
CANDIDATE_ROUNDS, CONFIRM_ROUNDS, CONFIRM_ROUNDS_MOST = 5, 6, 15
FIRST_MARGIN = 0.012  # of the active budget, left free for what prediction and measurement may err
LAST_MARGIN = 0.02  # where no round is left to correct in
NORM_BATCHES = 20  # training batches to estimate batch-norm statistics from
PATIENCE_S = 1800.0  # for a device that somebody else holds, once training has been invested


class Candidate(NamedTuple):
    """Widths that were built and measured in one round."""

    round: int
    widths: dict[str, int]
    network: nn.Module
    path: Path
    predicted: Array
    trial: Trial
    accuracy_val: float


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
        self.example = torch.zeros(1, *task.input_shape)
        self.stages: list[dict[str, Any]] = []
        self.rounds: list[Candidate] = []
        self.groups: list[ChannelGroup] = []
        self.held_out: list[dict[str, Any]] = []
        self.state: dict[str, Any] = self._read_state()

    # --- training and shrinking -------------------------------------------------------------------------------------

    def baseline(self) -> nn.Module:
        """The seed network, trained once per task, network, epochs and seed, and kept for other runs."""
        plan = TrainingPlan(self.settings.epochs_baseline, seed=self.settings.seed)

        def fresh(network: nn.Module) -> None:
            self._train("baseline", network, plan, self.run.path / "stages" / "baseline.pt")

        return trained_baseline(self.task, plan, self.baselines, fresh)

    def _train(
        self,
        name: str,
        network: nn.Module,
        plan: TrainingPlan,
        checkpoint: Path,
        hook: Any = None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.progress.stage(f"{name}: training {plan.epochs:g} epochs")
        start = time.monotonic()

        def report(step: int, total: int, loss: float) -> None:
            left = (time.monotonic() - start) / step * (total - step)
            self.progress.update(f"step {step} of {total}, loss {loss:.3f}, {left:.0f} s left")

        train(network, self.task, plan, hook=hook, checkpoint=checkpoint, progress=report, teacher=teacher)
        self.stages.append({"name": name, "seconds": time.monotonic() - start})

    def shrink(self, baseline: nn.Module, survey: Survey, budget: Budget) -> tuple[nn.Module, Shrinker, Template]:
        """MorphNet's shrinking from the trained baseline, until the predicted cost is at the target."""
        network = copy.deepcopy(baseline)
        groups = find_groups(network, self.example)
        template = survey.template._replace(groups=groups)
        self.groups = groups
        aimed = budget.scaled(self._corrections(survey, budget, FIRST_MARGIN))
        regularizer = CostRegularizer(groups, survey.tables, aimed.gradient)
        start = aimed.usage(survey.predicted)
        shrinker = Shrinker(regularizer, aimed, StrengthController(start, 1.0), self.settings.gradient_on)
        plan = TrainingPlan(
            self.settings.epochs_shrink, SHRINK_RATE, warmup_share=0.1, final_share=0.1, seed=self.settings.seed + 1
        )
        self._train("shrink", network, plan, self.run.path / "stages" / "shrink.pt", shrinker)
        reached = aimed.usage(regularizer.cost())
        self._note("shrink", network, reached=(start - reached) / (start - 1.0), usage=reached)
        return network, shrinker, template

    def _corrections(self, survey: Survey, budget: Budget, margin: float) -> dict[str, float]:
        """Per bound, the factor on its active part that turns a measured limit into a predicted one, less a margin."""
        found = {}
        for bound in budget.bounds:
            ratio = bound.used(bound.value(survey.measured)) / bound.used(bound.value(survey.predicted))
            found[bound.name] = (1.0 - margin) / ratio
        return found

    def remove_blocks(
        self, network: nn.Module, template: Template, survey: Survey, budget: Budget, shrinker: Shrinker
    ) -> tuple[list[str], dict[str, Tensor]]:
        """Blocks whose removal is cheaper than narrowing, and the importance of every channel."""
        importance = taylor(network, self.task, template.groups)
        if "removed" not in self.state:
            self.progress.stage("blocks: trying removal against narrowing")
            alive = shrinker.regularizer.widths()
            removed, trials = blocks.remove_blocks(
                network, self.task, template, survey.tables, shrinker.budget, alive, importance
            )
            self.state.update(removed=removed, trials=[t._asdict() for t in trials], alive=alive)
            self.save_state()
        return list(self.state["removed"]), importance

    # --- widths, device, fine-tuning --------------------------------------------------------------------------------

    def candidates(
        self,
        network: nn.Module,
        template: Template,
        survey: Survey,
        budget: Budget,
        importance: Mapping[str, Tensor],
        factors: dict[str, float],
    ) -> Candidate:
        """Choose widths, build, measure beside the baseline, correct: until met and well used, or out of rounds."""
        removed = list(self.state["removed"])
        best: Candidate | None = None
        while True:
            candidate = self._candidate(network, template, survey, budget, importance, factors, removed)
            self.rounds.append(candidate)
            usage = max(candidate.trial.usages.values(), key=lambda q: q.value or 0.0)
            met = candidate.trial.verdict == "met"
            if met and (best is None or best.trial.most_used() < candidate.trial.most_used()):
                best = candidate
            if (met and (usage.value or 0.0) >= WELL_USED) or len(self.rounds) >= self.settings.rounds:
                return best or candidate
            last = len(self.rounds) + 1 >= self.settings.rounds
            for bound in budget.bounds:
                seen = candidate.trial.usages[bound.name]
                predicted = bound.used(bound.value(candidate.predicted))
                margin = max(LAST_MARGIN if last else 0.008, 1.2 * (seen.half_width or 0.0) + 0.002)
                factors[bound.name] = (1.0 - margin) * predicted / max(seen.value or 0.0, 1e-9)

    def _candidate(
        self,
        network: nn.Module,
        template: Template,
        survey: Survey,
        budget: Budget,
        importance: Mapping[str, Tensor],
        factors: Mapping[str, float],
        removed: list[str],
    ) -> Candidate:
        number = len(self.rounds) + 1
        self.progress.stage(f"round {number}: choosing widths, measuring beside the baseline")
        frozen = frozenset(g for b in template.blocks if b.name in removed for g in b.inner)
        chooser = WidthChooser(
            survey.tables,
            budget.scaled(dict(factors)),
            importance,
            template.seed_widths(),
            template.removed_kernels(removed),
            frozen,
        )
        widths = chooser.choose(self.state["alive"])
        kept = {}
        for group in template.groups:
            if group.prunable and group.name not in frozen:
                # Dead channels have no importance; among the living the Taylor score decides.
                score = importance[group.name] + 1e-6 * (group.norms().detach() > 0)
                kept[group.name] = keep_channels(group, score, widths[group.name])
        narrowed = narrow(network, self.task.model, template, kept, widths, removed, self.example)
        batches = itertools.islice(iter(self.task.loaders("train")), NORM_BATCHES)
        reestimate_norms(narrowed, (inputs for inputs, _ in batches))
        path = self.run.path / "artifacts" / f"candidate-{number}.onnx"
        export.save_checked(narrowed, self.task.input_shape, path)
        predicted = survey.tables.totals(widths, template.removed_kernels(removed))
        with self.bench as bench:
            trial = Trial.measure(
                bench,
                {"baseline": survey.path, "candidate": path},
                f"round{number}",
                self._rates(float(survey.measured[0])),
                CANDIDATE_ROUNDS,
            )
        trial = judge(trial, budget, "candidate", self.counts(narrowed, path))
        accuracy = self.task.evaluate(narrowed, "val")
        self.progress.update(f"round {number}: {trial.verdict}, {100 * trial.most_used():.1f} % of the active budget")
        return Candidate(number, widths, narrowed, path, predicted, trial, accuracy)

    def _rates(self, baseline_s: float) -> list[float | None]:
        return rates_of(self.settings, baseline_s, self.bench)

    def counts(self, network: nn.Module, path: Path) -> tuple[int, int]:
        """(MACs of an inference, parameters) of a network and its exported file."""
        nodes = read_kernels(path, self.profile.runtime.name, block=self.cost_model.layout_block)
        return sum(n.spec.macs for n in nodes), sum(p.numel() for p in network.parameters())

    def finetune(self, candidate: Candidate, baseline: nn.Module) -> Path:
        """Train the narrow network on, taught by the baseline, and export it; returns the ONNX file."""
        plan = TrainingPlan(self.settings.epochs_finetune, FINETUNE_RATE, seed=self.settings.seed + 2)
        checkpoint = self.run.path / "stages" / f"finetune-{candidate.round}.pt"
        self._train("fine-tune", candidate.network, plan, checkpoint, teacher=baseline)
        path = self.run.path / "artifacts" / "compressed.onnx"
        difference = export.save_checked(candidate.network, self.task.input_shape, path)
        self._note("fine-tune", candidate.network, onnx_difference=difference)
        return path

    def confirm(self, baseline: Path, result: Path, budget: Budget, network: nn.Module, turn: int) -> Trial:
        """A fresh measurement of the fine-tuned network beside the trained baseline, until the verdict is clear."""
        self.progress.stage(f"confirmation: measuring on {self.profile.name}")
        counts = self.counts(network, result)

        def enough(found: Any) -> bool:
            judged = judge(Trial(found), budget, "result", counts)
            return (
                judged.verdict != "undecided"
                and all((q.relative or 0.0) <= 0.03 for q in judged.usages.values())
                and (len(next(iter(found.values()))) >= CONFIRM_ROUNDS)
            )

        networks = {"baseline": baseline, "result": result}
        with self.bench as bench:
            rates = self._rates(self._baseline_latency_s)
            trial = Trial.measure(bench, networks, f"confirm{turn}", rates, CONFIRM_ROUNDS_MOST, enough)
        return judge(trial, budget, "result", counts)

    # --- the whole line ---------------------------------------------------------------------------------------------

    def go(self, finish: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """All stages in order; ``finish`` makes the result of what they gave (``outcome.result``)."""
        self.progress.stage(f"measuring the baseline network on {self.profile.name}, before any training")
        survey = take_survey(self.bench, self.task, self.cost_model, self.settings)
        self._baseline_latency_s = float(survey.measured[0])
        if survey.paced_line is not None:
            self.state["paced_line"] = survey.paced_line
        budget, self.state["reachable"] = feasible_budget(survey, self.settings)
        self._announce(budget)
        self.bench.patience_s = PATIENCE_S
        baseline = self.baseline()
        self._note("baseline", baseline)
        baseline_path = self.run.path / "artifacts" / "baseline.onnx"
        export.save_checked(baseline, self.task.input_shape, baseline_path)
        shrunk, shrinker, template = self.shrink(baseline, survey, budget)
        removed, importance = self.remove_blocks(shrunk, template, survey, budget, shrinker)
        self._note_removal(shrunk, template, removed)
        factors = self._corrections(survey, budget, FIRST_MARGIN)
        while True:
            candidate = self.candidates(shrunk, template, survey, budget, importance, factors)
            path = self.finetune(candidate, baseline)
            trial = self.confirm(baseline_path, path, budget, candidate.network, candidate.round)
            if trial.verdict == "met" or len(self.rounds) >= self.settings.rounds:
                break
            for bound in budget.bounds:
                factors[bound.name] *= (1.0 - FIRST_MARGIN) / max(trial.usages[bound.name].hi or 1.0, 1e-9)
        return finish(
            loop=self,
            survey=survey,
            budget=budget,
            baseline=baseline,
            shrinker=shrinker,
            template=template,
            removed=removed,
            candidate=candidate,
            trial=trial,
            paths=(baseline_path, path),
        )

    def _announce(self, budget: Budget) -> None:
        for bound in budget.bounds:
            low, high = self.state["reachable"][bound.name]
            rate = f" at {bound.fps:g} fps" if bound.fps else ""
            self.progress.stage(
                f"target {bound.quantity} ≤ {bound.limit:.4g} {bound.unit}{rate}: baseline {high:.4g}, reachable "
                f"{low:.4g} to {high:.4g} {bound.unit} (predicted): feasible"
            )

    def _note(self, name: str, network: nn.Module, **facts: float) -> None:
        accuracy = self.task.evaluate(network, "val")
        entry = next((s for s in self.stages if s["name"] == name), None)
        if entry is None:
            entry = {"name": name, "seconds": 0.0}
            self.stages.append(entry)
        entry.update(accuracy_val=accuracy, **facts)

    def _note_removal(self, shrunk: nn.Module, template: Template, removed: list[str]) -> None:
        """What accuracy the removal itself costs: dead channels and blocks out, nothing rounded or corrected."""
        bare, alive = bare_network(shrunk, self.task, template, removed)
        before, after = (self.task.evaluate(network, "val") for network in (shrunk, bare))
        self.stages.append(
            {"name": "removal", "seconds": 0.0, "accuracy_val": after, "accuracy_drop": before - after, "widths": alive}
        )

    def _read_state(self) -> dict[str, Any]:
        return dict(self.run.read_json("state.json")) if (self.run.path / "state.json").exists() else {}

    def save_state(self) -> None:
        """Write the decisions made so far into the run folder."""
        from rig.output import plain

        self.run.write_json("state.json", plain(self.state))
