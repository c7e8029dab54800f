"""What the pieces of one device and network share: its survey, the baselines, and looks at untrained candidates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from equal_cost import Candidate
from peer_pieces import COUNTED, LIMITED, PLACE, VARIANTS
from torch import nn

from experiments.shared import stored_runs
from rig.compression import export
from rig.compression.baseline import trained_baseline
from rig.compression.bench import Bench
from rig.compression.survey import Settings, Survey, take_survey
from rig.compression.tasks import load_task
from rig.compression.training import TrainingPlan, train
from rig.cost_models import load_cost_model
from rig.measurement import Measurement
from rig.profiles import load_profile
from rig.quality.verdict import compare
from rig.store.store import Run, Store
from rig.units import Quantity, parse_limit


def own_store() -> Store:
    """The study's own store below the user's: its runs are none of ``rig report``'s."""
    return Store(Store().root / "peers")


def run_of(words: Sequence[str], device: str) -> Run:
    """The run of these words: the one that is there, or a new one."""
    return stored_runs.run_of(own_store(), words, device)


class Ground:
    """A device and a network, before any piece: ``survey`` holds tables, template and the measured baseline."""

    def __init__(self, device: str, network: str, variant: str) -> None:
        self.size = VARIANTS[variant]
        self.plan = next(one for one in self.size.networks if one.name == network)
        self.quantity = COUNTED[device]
        self.place = PLACE[self.quantity]
        self.profile = load_profile(device)
        self.profile.require_host()
        self.task = load_task(self.size.task, network)
        self.cost_model = load_cost_model(Store(), device)
        self.run = run_of(["peers", "ground", device, network, variant], device)
        self.bench = self.bench_of(self.run)
        self.survey: Survey = take_survey(self.bench, self.task, self.cost_model, self.settings(0))
        self.run.update(state="done")

    def bench_of(self, run: Run) -> Bench:
        """A bench whose records go into a run; it waits for a device that somebody else holds."""
        bench = Bench(self.profile, run, lambda text: None)
        bench.patience_s = 1800.0
        return bench

    def settings(self, seed: int, **fields: Any) -> Settings:
        """What ``rig optimize`` would be asked; ``limits`` are those of the counted cost unless given."""
        baseline, search, finetune = self.plan.epochs
        usual = (parse_limit(LIMITED[self.quantity], "50%"),)
        return Settings(
            limits=fields.pop("limits", usual),
            fps=None,
            seed=seed,
            epochs_baseline=baseline,
            epochs_shrink=search,
            epochs_finetune=finetune,
            rounds=1,
            **fields,
        )

    # --- baselines --------------------------------------------------------------------------------------------------

    def reference(self, seed: int) -> nn.Module:
        """The trained baseline of a seed that every row is compared with; trained if it is not there."""
        return self._baseline(seed, self.plan.reference)

    def start(self, seed: int) -> nn.Module:
        """The shorter trained baseline that is cut, the same that ``rig optimize`` starts from."""
        return self._baseline(seed, self.plan.epochs[0])

    def _baseline(self, seed: int, epochs: int) -> nn.Module:
        plan = TrainingPlan(epochs, seed=seed)
        checkpoint = self.run.path / "stages" / f"baseline-{epochs}-{seed}.pt"
        return trained_baseline(
            self.task, plan, Store().root / "baselines", lambda net: _train(net, self, plan, checkpoint)
        )

    def reference_onnx(self, seed: int) -> Path:
        """The reference, exported."""
        path = self.run.path / "artifacts" / f"baseline-{seed}.onnx"
        if not path.exists():
            export.save_checked(self.reference(seed), self.task.input_shape, path)
        return path

    def accuracies(self, network: nn.Module, name: str) -> dict[str, float]:
        """A row's two accuracies of a network; the test set is used here."""
        return {f"{name}_{split}": self.task.evaluate(network, split) for split in ("val", "test")}

    # --- measuring --------------------------------------------------------------------------------------------------

    def build(self, candidate: Candidate) -> nn.Module:
        """A candidate's network, untrained; the same weights each time."""
        torch.manual_seed(0)
        return self.task.model(self.table(candidate))

    def table(self, candidate: Candidate) -> dict[str, int]:
        """The table of widths that rebuilds a candidate."""
        return self.survey.template.layer_widths(candidate.widths, candidate.removed)

    def look(self, candidate: Candidate) -> Quantity:
        """A candidate's share of the baseline's cost, measured in turns; taken from the store where it was measured."""
        path = self.run.path / "artifacts" / f"look-{candidate.key}.onnx"
        if not path.exists():
            export.save_checked(self.build(candidate), self.task.input_shape, path)
        networks = {"baseline": self.survey.path, "candidate": path}
        before, after = self.in_turn(self.bench, networks, f"look-{candidate.key}", self.size.rounds[0])
        return compare(before, after, self.quantity)

    def in_turn(
        self, bench: Bench, networks: dict[str, Path], tag: str, rounds: int
    ) -> tuple[list[Measurement], list[Measurement]]:
        """Two networks, the first of them the baseline, back to back in turns."""
        with bench:
            if self.quantity.startswith("energy"):
                bench.need_power()
            found = bench.in_turn(networks, tag, [None], rounds)
        first, second = networks
        return found[first, None], found[second, None]


def _train(network: nn.Module, ground: Ground, plan: TrainingPlan, checkpoint: Path) -> None:
    print(f"training the baseline, {plan.epochs:g} epochs, seed {plan.seed}", flush=True)
    train(network, ground.task, plan, checkpoint=checkpoint)


@cache
def ground_of(device: str, network: str, variant: str) -> Ground:
    """The ground of a device and a network, surveyed once."""
    return Ground(device, network, variant)
