"""Every command has help that starts with examples, and is in the README; every file the docs name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rig.cli import COMMANDS, app, main
from rig.command_line.examples import EXAMPLES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_registry_is_the_command_line() -> None:
    named = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert named == set(COMMANDS)
    assert set(EXAMPLES) == {"rig", *COMMANDS}


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_starts_with_examples(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*([command] if command else []), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Examples:"
    assert lines[1].startswith(f"  rig {command}" if command else "  rig ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    shown = capsys.readouterr().out.split("Options:")[1]
    bare = [line for line in shown.splitlines() if re.fullmatch(r"\s+--[\w-]+( <\w+>)?", line)]
    assert [line for line in bare if not continues(shown, line)] == []


def continues(text: str, line: str) -> bool:
    """Whether the help of a long option stands on the line below it."""
    following = text.split(line + "\n", 1)[1].splitlines()[0]
    return following.startswith("      ")


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_parse(line: str) -> None:
    words = shlex.split(line)[1:]
    asked = app(args=words, prog_name="rig", standalone_mode=False)
    assert asked.command == words[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_shows_the_command(command: str) -> None:
    assert f"rig {command}" in README


def test_readme_starts_with_what_it_does_and_the_two_commands() -> None:
    start = "\n".join(README.splitlines()[:25])
    assert "rig calibrate --device virtual-pi4" in start
    assert "rig optimize --device virtual-pi4" in start


@pytest.mark.parametrize("document", ["README.md", "docs/README.md", "docs/writing-a-task.md", "experiments/README.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_readme_lists_every_exit_code() -> None:
    table = README.split("## Exit codes")[1].split("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) ", table, re.MULTILINE)} == {0, 1, 2, 3, 4, 5, 6, 130}


def test_design_names_every_folder_of_the_host() -> None:
    folders = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("## Folders")[1].split("\n## ")[0]
    packages = [path.parent.name for path in (ROOT / "rig").glob("*/__init__.py")]
    assert [name for name in packages if f"{name}/" not in folders] == []
