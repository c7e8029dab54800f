"""Accuracy before and after removal alone, from the checkpoints of finished runs: ``python removal.py RUN…``.

Dead channels and removed blocks are taken out of the shrunk network; nothing is rounded, corrected or fine-tuned.
On the steering split.
"""

from __future__ import annotations

import json
import sys

import torch

from power_models.kernels import kernel_graph
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.surgery import bare_network
from rig.compression.cutting.template import make_template
from rig.compression.tasks import load_task
from rig.compression.training import load_state
from rig.store.store import Store


def main() -> None:
    """One line of JSON a run."""
    for run_id in sys.argv[1:]:
        run = Store().open_run(run_id)
        result = run.read_json("result.json")
        task = load_task(result["task"], result["model"])
        shrunk = task.model()
        shrunk.load_state_dict(load_state(run.path / "stages" / "shrink.pt")["model"])
        rules = result["device"]["runtime"]
        groups = find_groups(shrunk, torch.zeros(1, *task.input_shape))
        template = make_template(kernel_graph(run.path / "artifacts" / "seed.onnx", rules), groups)
        bare, _ = bare_network(shrunk, task, template, result["blocks"]["removed"])
        before, after = (task.evaluate(network, "val") for network in (shrunk, bare))
        shown = {"run": run_id, "device": result["device"]["name"], "seed": result["seed"]}
        print(json.dumps({**shown, "shrunk": before, "removed": after, "drop_points": 100 * (before - after)}))


if __name__ == "__main__":
    main()
