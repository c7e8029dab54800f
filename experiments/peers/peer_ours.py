"""Rows of the rig's own methods: a ``rig optimize`` run each, as a person would start it; or finished earlier."""

from __future__ import annotations

from typing import Any

from equal_cost import interval, is_void
from peer_ground import ground_of
from peer_pieces import LIMITED, VARIANTS, Piece

from experiments.shared.pieces import Row
from experiments.shared.stored_runs import optimized
from rig.commands.options import OptimizeOptions
from rig.units import Quantity


def ours(piece: Piece) -> Row:
    """The row of a ``rig optimize`` run: finished earlier, resumed, or new."""
    ground = ground_of(piece.device, piece.network, piece.variant)
    reference = ground.reference(piece.seed)
    return our_row(piece, optimized(options_of(piece)), ground.accuracies(reference, "baseline"))


def options_of(piece: Piece) -> OptimizeOptions:
    """What ``rig optimize`` is asked for a piece of ours."""
    size = VARIANTS[piece.variant]
    target = {f"target_{LIMITED[piece.quantity]}": f"{piece.budget}%"}
    epochs = dict(zip(("epochs_baseline", "epochs_shrink", "epochs_finetune"), piece.plan.epochs, strict=True))
    return OptimizeOptions(
        piece.device, size.task, piece.network, seed=piece.seed, method=piece.peer, **epochs, **target
    )


def our_row(piece: Piece, result: dict[str, Any], reference: Row) -> Row:
    """What the comparison needs of a result of ``rig optimize``; the share is of the confirmation's turns.

    reference: accuracies of the baseline that every row is compared with; the run's own had fewer epochs.
    """
    before, after = result["baseline"], result["result"]
    used = Quantity.from_json(result["usage"][LIMITED[piece.quantity]])
    share = used.scaled(piece.goal)
    stages = {stage["name"]: stage for stage in result["stages"]}
    # One that missed as confirmed was cut and fine-tuned anew: what was spent counts, not what is left of it.
    finetunings = sum(stage["name"] == "fine-tune" for stage in result["stages"])
    return {
        **piece._asdict(),
        "kind": result["kind"],
        "void": is_void(share, piece.goal, ours=True),
        "share": interval(share),
        "planned": None,
        "aligned": None,
        "modes": None,
        **reference,
        "result_val": stages["fine-tune"]["accuracy_val"],
        "result_test": after["accuracy_test"]["value"],
        "images": after["accuracy_test"]["n"],
        "epochs": piece.plan.total_epochs + piece.plan.epochs[2] * (finetunings - 1),
        "macs_share": after["macs"] / before["macs"],
        "params": after["params"],
        "made": f"rig optimize, method {piece.peer}, {result['run_id']}",
        "removed": list(result["blocks"]["removed"]),
        "widths": result["widths"],
        "looks": len(result["rounds"]),
        "verdict": result["verdict"],
        "seconds": sum(stage["seconds"] for stage in result["stages"] if stage["name"] != "baseline"),
    }
