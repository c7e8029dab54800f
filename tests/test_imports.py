"""Imports point one way, heavy ones stay lazy, and the command line starts without them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rig.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PACKAGES = ("rig", "device_agents", "power_models")


class Import(NamedTuple):
    file: str  # relative to the root, with forward slashes
    line: int
    module: str
    at_start: bool  # runs when the file is imported (not inside a function, not for type checkers alone)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def imports_of(tree: ast.AST, file: str, at_start: bool = True) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, at_start)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(file, node)
            yield Import(file, node.lineno, base, at_start)
            for alias in node.names:
                yield Import(file, node.lineno, f"{base}.{alias.name}", at_start)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_typing_block(node)
            yield from imports_of(node, file, at_start and not inside)


def is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def absolute(file: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = list(Path(file).parts[: -node.level])
    return ".".join([*package, *((node.module or "").split(".") if node.module else [])])


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            found += list(imports_of(ast.parse(path.read_text(encoding="utf-8")), name))
    return found


def offenders(imports: list[Import], module: str, allowed: tuple[str, ...]) -> list[str]:
    return [str(i) for i in imports if i.top == module and not i.file.startswith(allowed)]


def test_packages_import_one_way(imports: list[Import]) -> None:
    wrong = [
        str(i)
        for i in imports
        if (i.file.startswith("device_agents/") and i.top in ("rig", "power_models", "experiments"))
        or (i.file.startswith("power_models/") and i.top in ("rig", "experiments"))
        or (i.file.startswith("rig/") and i.top == "experiments")
    ]
    assert wrong == []


def test_power_models_know_the_records_only(imports: list[Import]) -> None:
    of_agents = [i for i in imports if i.file.startswith("power_models/") and i.top == "device_agents"]
    wrong = [str(i) for i in of_agents if i.module != "device_agents" and not is_records(i.module)]
    assert wrong == []


def is_records(module: str) -> bool:
    return module == "device_agents.records" or module.startswith("device_agents.records.")


def test_virtual_board_is_reached_through_its_runtime_and_sensor_only(imports: list[Import]) -> None:
    doors = ("device_agents/virtual_board/", "device_agents/runtimes/virtual", "device_agents/sensors/virtual")
    inside = [i for i in imports if i.module.startswith("device_agents.virtual_board")]
    assert [str(i) for i in inside if not i.file.startswith(doors)] == []


def test_agent_is_standard_library_only(imports: list[Import]) -> None:
    of_agent = [i for i in imports if i.file.startswith("device_agents/") and i.top != "device_agents"]
    foreign = [i for i in of_agent if i.top not in sys.stdlib_module_names]
    lazy_doors = ("device_agents/runtimes/", "device_agents/sensors/")
    wrong = [str(i) for i in foreign if i.at_start or not i.file.startswith(lazy_doors)]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "homes"),
    [
        ("torch", ("power_models/tables.py", "power_models/regularizer.py", "rig/compression/")),
        ("torch_pruning", ("rig/compression/",)),
        ("matplotlib", ("rig/plotting/",)),
        ("rich", ("rig/console.py",)),
        ("typer", ("rig/cli.py", "rig/command_line/")),
        ("paramiko", ("rig/connection/ssh.py",)),
        ("sklearn", ("power_models/", "rig/compression/datasets.py")),
        ("onnxruntime", ("device_agents/runtimes/", "rig/compression/")),
        ("pyvisa", ("rig/meters/scpi.py",)),
        ("pyvisa_py", ("rig/meters/scpi.py",)),
    ],
)
def test_each_heavy_library_has_its_homes(imports: list[Import], module: str, homes: tuple[str, ...]) -> None:
    assert offenders(imports, module, homes) == []


@pytest.mark.parametrize("module", ["sklearn", "onnxruntime", "pynvml", "smbus2", "pyvisa", "pyvisa_py"])
def test_is_imported_inside_functions_only(imports: list[Import], module: str) -> None:
    assert [str(i) for i in imports if i.top == module and i.at_start] == []


def loaded_by(code: str) -> set[str]:
    """The top-level modules that are loaded once ``code`` has run in an interpreter of its own."""
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}), file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {
    "torch",
    "onnxruntime",
    "matplotlib",
    "numpy",
    "scipy",
    "sklearn",
    "onnx",
    "paramiko",
    "pydantic",
    "rich",
    "pyvisa",
}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["optimize", "--help"]])
def test_help_starts_without_heavy_libraries(arguments: list[str]) -> None:
    loaded = loaded_by(f"from rig.cli import main\nif main({arguments!r}): raise SystemExit('failed')")
    of_typer = {"pydantic"} if arguments[0] in COMMANDS else set()  # it checks a command's number ranges with it
    assert loaded & HEAVY - of_typer == set()


def test_local_device_needs_no_ssh_library() -> None:
    loaded = loaded_by("import rig.connection.session, rig.connection.transport")
    assert loaded & {"paramiko", "torch", "onnxruntime", "matplotlib", "sklearn"} == set()


def test_profiles_load_without_numerics() -> None:
    loaded = loaded_by("from rig.profiles import load_profile\nload_profile('virtual-pi4')")
    assert loaded & (HEAVY - {"pydantic"}) == set()
