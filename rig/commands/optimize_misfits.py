"""Options of ``rig optimize`` that say nothing to each other: refused before anything is measured or trained."""

from __future__ import annotations

from rig.commands.options import OptimizeOptions
from rig.compression.methods import RACE_SHARE, SCORES, TRIAL_SHARE, WITHOUT_NORM, make_method
from rig.errors import BadInputError


def refuse_misfits(options: OptimizeOptions) -> None:
    """Raise BadInputError for an option that the method, or the widths that were given, have no use for."""
    _refuse_of_other_methods(options)
    if options.importance is not None and options.importance not in SCORES:
        raise BadInputError(f"unknown importance {options.importance!r}", f"known: {', '.join(SCORES)}")
    if options.without_norm is not None and options.without_norm not in WITHOUT_NORM:
        raise BadInputError(f"unknown --without-norm {options.without_norm!r}", f"known: {', '.join(WITHOUT_NORM)}")
    if options.widths is not None:
        _refuse_beside_widths(options)
    elif make_method(options.method).from_scratch:
        _refuse_from_scratch(options, f"--method {options.method}")


def require_epochs_to_prune_in(options: OptimizeOptions, epochs_shrink: int) -> None:
    """Raise BadInputError for a removal during training that would come at its end, where it comes anyway."""
    stretch = epochs_shrink * (1.0 - TRIAL_SHARE - RACE_SHARE) / options.morph_rounds
    if options.prune_every and options.prune_every >= stretch:
        raise BadInputError(
            f"--prune-every {options.prune_every} leaves nothing to get cheaper: a round of shrinking may have no more "
            f"than {stretch:g} epochs beside its trials, and at its end dead channels go in any case",
            "give a smaller number, or more --epochs-shrink",
        )


def _refuse_of_other_methods(options: OptimizeOptions) -> None:
    given = {
        ("--morph-rounds", "morphnet"): options.morph_rounds > 1,
        ("--prune-every", "morphnet"): bool(options.prune_every),
        ("--without-norm", "morphnet"): options.without_norm is not None,
        ("--importance", "allocate"): options.importance is not None,
    }
    for (word, method), asked in given.items():
        if asked and options.method != method:
            cuts = word == "--prune-every" and options.method == "allocate"
            why = ", which cuts before each of its trainings anyway" if cuts else ""
            fix = f"leave it out, or give --method {method}"
            raise BadInputError(f"{word} says nothing to the method {options.method}{why}", fix)


def _refuse_from_scratch(options: OptimizeOptions, asked: str) -> None:
    if options.retrain:
        raise BadInputError(f"{asked} trains from scratch already", "leave --retrain out")
    idle = {"--ema": bool(options.ema), "--label-smoothing": bool(options.label_smoothing)}
    said = [word for word, given in idle.items() if given]
    if said:
        raise BadInputError(
            f"{asked} trains from scratch: {', '.join(said)}, of fine-tuning, would say nothing to it",
            f"leave {', '.join(said)} out",
        )


def _refuse_beside_widths(options: OptimizeOptions) -> None:
    """Options of a search or of fine-tuning: widths that were given need neither."""
    if options.retrain:
        raise BadInputError("--widths trains from scratch already", "leave --retrain out")
    idle = {
        "--method": options.method != OptimizeOptions.method,
        "--morph-rounds": options.morph_rounds > 1,
        "--importance": options.importance is not None,
        "--rounds": options.rounds is not None,
        "--ema": bool(options.ema),
        "--label-smoothing": bool(options.label_smoothing),
        "--prune-every": bool(options.prune_every),
        "--without-norm": options.without_norm is not None,
    }
    said = [word for word, given in idle.items() if given]
    if said:
        raise BadInputError(
            f"--widths trains the network of that file from scratch: {', '.join(said)} would say nothing to it",
            f"leave {', '.join(said)} out",
        )
