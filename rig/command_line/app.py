"""What all command lines share: the app, help that starts with examples, and options that several commands take.

A command is a function whose parameters are its options and whose docstring is its help; it returns what was asked
(``Asked``), and does nothing. ``rig.cli`` adds the functions to the app, and calls what does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rig import __version__
from rig.command_line.examples import EXAMPLES


@dataclass(frozen=True)
class Asked:
    """What the command line asked for."""

    command: str
    options: Any


class _ExamplesFirst:
    """Help that starts with examples; plain text, so that it needs no rich."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in EXAMPLES[self.name or "rig"]))  # type: ignore[attr-defined]
        formatter.write_paragraph()
        super().format_help(ctx, formatter)  # type: ignore[misc]


class _Command(_ExamplesFirst, TyperCommand):
    pass


class _Group(_ExamplesFirst, TyperGroup):
    pass


app = typer.Typer(cls=_Group, name="rig", rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str, typer.Option("--device", help="A device profile; `rig devices` lists them.")]


def add(command: Callable[..., Asked]) -> None:
    """Make a function a command of the app, by its own name."""
    app.command(name=command.__name__.strip("_").replace("_", "-"), cls=_Command)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rig {__version__}")
        raise typer.Exit


@app.callback()
def rig(
    json: Json = False,
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Measure, predict and cut the power a CNN needs on a board, a GPU or this computer."""
