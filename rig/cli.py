"""The command line: parse, call one command, turn a RigError into its exit code. Commands are imported when called.

Their options and help are in ``rig.command_line``, what they do in ``rig.commands``.
"""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import typer

from rig import interrupts
from rig.command_line import devices, networks, runs, tables
from rig.command_line.app import Asked, add, app
from rig.commands import follow
from rig.errors import EXIT_INTERRUPTED, BadInputError, RigError, StoreError

# name -> (module with run(options) -> dict, module with show(result, console))
COMMANDS = {
    "devices": ("rig.commands.devices", "rig.commands.devices"),
    "doctor": ("rig.commands.doctor", "rig.commands.doctor"),
    "calibrate-sensor": ("rig.commands.calibrate_sensor", "rig.commands.calibrate_sensor"),
    "calibrate": ("rig.commands.calibrate", "rig.commands.calibrate_summary"),
    "fit": ("rig.commands.fit", "rig.commands.fit"),
    "evaluate": ("rig.commands.evaluate", "rig.commands.evaluate"),
    "measure": ("rig.commands.measure", "rig.commands.measure"),
    "predict": ("rig.commands.predict", "rig.commands.predict"),
    "optimize": ("rig.commands.optimize", "rig.commands.optimize_summary"),
    "report": ("rig.commands.report", "rig.commands.report"),
    "compare": ("rig.commands.compare", "rig.commands.compare"),
    "import": ("rig.commands.import_mlperf", "rig.commands.import_mlperf"),
    "replay": ("rig.commands.replay", "rig.commands.replay"),
}

for _command in (*devices.COMMANDS, *tables.COMMANDS, *networks.COMMANDS, *runs.COMMANDS):  # as ``rig --help`` has them
    add(_command)

# What typer raises for a wrong command line: its home moved between typer's versions, its place in the tree did not.
_ClickException = typer.BadParameter.__mro__[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (0 done, 2 to 6 by error, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    failure = _Failure(arguments)
    if argv is None and not failure.debug:
        sys.excepthook = failure.unexpected
        interrupts.watch()
    try:
        return _execute(arguments)
    except RigError as error:
        return failure.rig_error(error)
    except _ClickException as error:
        return failure.usage(error)
    except KeyboardInterrupt as interrupt:
        return failure.interrupted(interrupt)
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        message = f"cannot write {error.filename or 'to disk'}: {error.strerror}"
        return failure.rig_error(StoreError(message, fix="free some space, then give the same command again"))


def _execute(arguments: Sequence[str]) -> int:
    # Not app(...): that would put typer's own exception hook in place of ours.
    command_line = typer.main.get_command(app)
    asked = command_line.main(args=list(arguments), prog_name="rig", standalone_mode=False)
    if not isinstance(asked, Asked):  # --help, --version
        return int(asked or 0)
    if follow.asked():
        return follow.run(asked.command, asked.options)
    run_module, show_module = COMMANDS[asked.command]
    result = importlib.import_module(run_module).run(asked.options)
    from rig import output

    complete = output.envelope(asked.command, result)
    if _wants_json(arguments):
        print(output.to_text(complete), flush=True)
    else:
        _show(complete, importlib.import_module(show_module))
    return output.exit_code(complete)


def _show(result: Mapping[str, Any], module: Any) -> None:
    from rig.console import Console

    console = Console()
    module.show(result, console)
    console.warnings(result["warnings"])
    console.next(result["next"])


def _wants_json(arguments: Sequence[str]) -> bool:
    return "--json" in arguments


class _Failure:
    """How a command line that did not succeed ends: words or JSON, traceback only with ``--debug``."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)
        self.debug = "--debug" in arguments

    def rig_error(self, error: RigError) -> int:
        if self.debug:
            traceback.print_exception(error)
        self._tell(error.code, error.message, error.fix)
        return error.exit_code

    def usage(self, error: BaseException) -> int:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        command = self._command()
        self._tell(BadInputError.code, message, f"rig {command} --help" if command else "rig --help")
        return BadInputError.exit_code

    def interrupted(self, interrupt: KeyboardInterrupt) -> int:
        message = getattr(interrupt, "message", "interrupted; what was finished is saved")
        self._tell("interrupted", message, getattr(interrupt, "resume", None) or self._again())
        return EXIT_INTERRUPTED

    def unexpected(self, kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        """Stands in for ``sys.excepthook``: a defect of the rig, said in one line (Python then exits with 1)."""
        if isinstance(error, KeyboardInterrupt):  # a second Ctrl-C, while the first was being told
            self.interrupted(error)
            return
        self._tell("internal", f"defect in rig: {kind.__name__}: {error}", f"report it with {self._again()} --debug")

    def _tell(self, code: str, message: str, fix: str | None) -> None:
        if _wants_json(self._arguments):
            from rig import output

            print(output.to_text(output.error_envelope(self._command(), code, message, fix)), flush=True)
            return
        from rig.console import Console

        Console().problem(message, fix)

    def _command(self) -> str | None:
        return next((word for word in self._arguments if word in COMMANDS), None)

    def _again(self) -> str:
        words = [word for word in self._arguments if word != "--debug"]
        if self._command() == "optimize" and "--resume" not in words:
            words.append("--resume")
        return shlex.join(["rig", *words])


if __name__ == "__main__":
    sys.exit(main())
