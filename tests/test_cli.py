"""The contract of the command line: streams, exit codes, the JSON object, the last line, what a mistake is told."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rig import __version__, cli, output
from rig import errors as rig_errors
from rig.commands.options import MeasureOptions
from rig.errors import BadInputError, RigError
from rig.output import Interrupted, plain, to_text, warning
from rig.units import Quantity

MODEL = "any.onnx"


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        assert self.out.count("\n") == 1, "one object and nothing else"
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path / "config"))


@pytest.fixture
def rig(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*words: str) -> Said:
        code = cli.main(words)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Any], Any]], None]]:
    """Put a function in place of what ``rig measure`` does."""

    def replace(run: Callable[[Any], Any]) -> None:
        module = types.ModuleType("measure_in_test")
        module.run = run  # type: ignore[attr-defined]
        module.show = lambda result, console: console.line(f"shown {result['device']}")  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "measure", (module.__name__, module.__name__))

    return replace


def raising(error: BaseException) -> Callable[[Any], Any]:
    def run(options: Any) -> Any:
        raise error

    return run


def every_error(root: type[RigError] = RigError) -> list[type[RigError]]:
    return [root, *(found for sub in root.__subclasses__() for found in every_error(sub))]


MEASURE = ("measure", MODEL, "--device", "local")


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_error_becomes_its_exit_code(rig: Any, measuring: Any, kind: type[RigError]) -> None:
    measuring(raising(kind("what was seen", fix="what to do")))
    said = rig(*MEASURE)
    assert said == Said(kind.exit_code, "", "Error: what was seen\nFix: what to do\n")


@pytest.mark.parametrize("place", [("--json", *MEASURE), (*MEASURE, "--json")], ids=["before", "after"])
def test_error_as_json(rig: Any, measuring: Any, place: tuple[str, ...]) -> None:
    measuring(raising(rig_errors.DeviceBusyError("held by bob", fix="wait")))
    said = rig(*place)
    assert (said.code, said.err) == (3, "")
    assert said.json == {
        "schema": "rig.error/1",
        "command": "measure",
        "rig_version": __version__,
        "error": {"code": "device-busy", "message": "held by bob", "fix": "wait"},
    }


def test_result_warnings_and_next_in_order(rig: Any, measuring: Any) -> None:
    notes = [warning("a", "first", "do this"), warning("b", "second"), warning("a", "first", "do this")]
    measuring(lambda options: {"device": "local", "warnings": notes, "next": "rig report m-0001"})
    said = rig(*MEASURE)
    assert said.code == 0
    assert said.out.splitlines() == ["shown local", "Next: rig report m-0001"]
    assert said.err == "Warning: first\nFix: do this\nWarning: second\n"


def test_json_result_has_every_common_key(rig: Any, measuring: Any) -> None:
    measuring(lambda options: {"device": "local", "power_w": Quantity(float("nan")), "kind": "measured"})
    data = rig(*MEASURE, "--json").json
    common = ["schema", "command", "rig_version", "run_id", "device", "kind", "warnings", "artifacts", "next"]
    assert list(data)[: len(common)] == common
    assert data["schema"] == "rig.measure/1"
    assert data["power_w"]["value"] is None


@pytest.mark.parametrize(("verdict", "code"), [("met", 0), ("missed", 5), ("undecided", 6)])
def test_verdict_decides_the_exit_code(rig: Any, measuring: Any, verdict: str, code: int) -> None:
    measuring(lambda options: {"device": "local", "verdict": verdict})
    assert rig(*MEASURE).code == code


def test_interrupt_says_how_to_resume(rig: Any, measuring: Any) -> None:
    measuring(raising(Interrupted("stopped after 3 of 9; saved as c-0001", resume="rig calibrate --device local")))
    said = rig(*MEASURE)
    assert said == Said(130, "", "Error: stopped after 3 of 9; saved as c-0001\nFix: rig calibrate --device local\n")


def test_plain_interrupt_gives_the_same_command_again(rig: Any, measuring: Any) -> None:
    measuring(raising(KeyboardInterrupt()))
    said = rig(*MEASURE, "--json")
    assert said.code == 130
    assert said.json["error"]["fix"] == "rig measure any.onnx --device local --json"


def test_disk_full_outside_the_store_is_told_too(rig: Any, measuring: Any) -> None:
    measuring(raising(OSError(errno.ENOSPC, "No space left on device", "report.html")))
    said = rig(*MEASURE)
    assert said.code == 3
    assert "report.html: No space left on device" in said.err
    assert "Fix: free some space" in said.err


def test_debug_shows_the_traceback(rig: Any, measuring: Any) -> None:
    measuring(raising(BadInputError("no")))
    assert "Traceback" not in rig(*MEASURE).err
    assert "Traceback" in rig(*MEASURE, "--debug").err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("measur",), "measure"),
        (("measure", MODEL), "--device"),
        (("measure", "--device", "local"), "MODEL.onnx"),
        (("measure", MODEL, "--device", "local", "--fsp", "3"), "--fps"),
        (("calibrate", "--device", "local", "--kernels", "many"), "--kernels"),
        (("calibrate", "--device", "local", "--kernels", "0"), "--kernels"),
        (("optimize", "--device", "local", "--task", "digits"), "--target-power"),
    ],
)
def test_wrong_command_line_is_bad_input(rig: Any, words: tuple[str, ...], hint: str) -> None:
    said = rig(*words)
    assert (said.code, said.out) == (2, "")
    assert hint in said.err
    assert "--help" in said.err.splitlines()[-1]
    assert "Traceback" not in said.err


def test_no_words_at_all_show_the_help(rig: Any) -> None:
    assert rig() == rig("--help")
    assert rig().code == 0


def test_version(rig: Any) -> None:
    assert rig("--version") == Said(0, f"rig {__version__}\n", "")


def test_options_reach_the_command(rig: Any, measuring: Any) -> None:
    seen = []
    measuring(lambda options: seen.append(options) or {"device": options.device})
    rig("measure", "net.onnx", "--device", "pi4", "--fps", "60", "--shape", "1,3,8,8", "--explain")
    (options,) = seen
    assert options == MeasureOptions(Path("net.onnx"), "pi4", "60", "1,3,8,8", True, False)


def test_defect_is_one_line_without_traceback(tmp_path: Path) -> None:
    script = (
        "import sys, types\nfrom rig import cli\n"
        "module = types.ModuleType('m'); module.run = lambda options: 1 / 0\n"
        "sys.modules['m'] = module; cli.COMMANDS['report'] = ('m', 'm')\n"
        "sys.argv = ['rig', 'report']\nsys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "Error: defect in rig: ZeroDivisionError: division by zero",
        "Fix: report it with rig report --debug",
    ]


def test_reader_that_goes_away_is_no_defect() -> None:
    command = f"{sys.executable} -m rig.cli --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_json_of_numbers_is_standard() -> None:
    assert to_text({"a": float("inf"), "b": (1, 2.5), "c": Path("x")}) == '{"a": null, "b": [1, 2.5], "c": "x"}'
    with pytest.raises(TypeError, match="set has no JSON form"):
        plain({"a": {1, 2}})


def test_numpy_values_have_a_json_form() -> None:
    numpy = pytest.importorskip("numpy")
    assert plain({"a": numpy.float64(1.5), "b": numpy.arange(2), "c": numpy.bool_(True)}) == {
        "a": 1.5,
        "b": [0, 1],
        "c": True,
    }


def test_envelope_keeps_what_the_command_says() -> None:
    made = output.envelope("measure", {"run_id": "m-0001", "extra": 1})
    assert (made["run_id"], made["extra"], made["next"]) == ("m-0001", 1, None)
