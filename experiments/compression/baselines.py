"""Train the baselines that the compression studies share, ahead of them: ``python baselines.py SEED…``.

The same as ``rig optimize`` does where it finds none in the store; useful to train several at once, a thread each.
"""

import sys

import torch

from rig.commands.optimize import USUAL_EPOCHS
from rig.compression.baseline import trained_baseline
from rig.compression.tasks import load_task
from rig.compression.training import TrainingPlan, train
from rig.store.store import Store


def main() -> None:
    """Train ResNet-20 on Fashion-MNIST for each seed given and print its accuracies."""
    task = load_task("fashion-mnist", "resnet20")
    folder = Store().root / "baselines"
    for seed in map(int, sys.argv[1:]):
        plan = TrainingPlan(USUAL_EPOCHS[0], seed=seed)

        def fresh(network: torch.nn.Module, plan: TrainingPlan = plan, seed: int = seed) -> None:
            checkpoint = folder / f"training-{seed}.pt"
            train(network, task, plan, checkpoint=checkpoint)
            checkpoint.unlink()

        network = trained_baseline(task, plan, folder, fresh)
        print(f"seed {seed}: steering split {task.evaluate(network, 'val'):.4f}", flush=True)


if __name__ == "__main__":
    main()
