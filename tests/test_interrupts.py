"""Ctrl-C at the places where Python or an extension module would drop it, in a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SIGNAL = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"

PROGRAM = """
import signal, sys, time
from rig import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background
sys.argv = ["rig", "devices"]

class Command:
    @staticmethod
    def run(options):
        {body}
        for _ in range(200):
            time.sleep(0.05)
        raise AssertionError("the interrupt was lost")

sys.modules["rig.commands.devices"] = Command
sys.exit(cli.main())
"""

IN_DESTRUCTOR = """
        class Thing:
            def __del__(self):
                {signal}
        Thing()
"""

IN_CONSTRUCTOR = """
        class Thing:
            def __init__(self):
                {signal}
                self.made = True
            def __del__(self):
                self.made
        Thing()
"""

IN_IMPORT = """
        sys.path.insert(0, {folder!r})
        import swallows
        assert swallows.whole
"""

SWALLOWS = """
try:
    {signal}
except BaseException:  # what an extension module does that clears every error
    pass
whole = True
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(body=body.strip())
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("place", ["body", "destructor", "constructor", "import"])
def test_interrupt_ends_the_command(place: str, tmp_path: Path) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS.format(signal=SIGNAL))
    body = {
        "body": SIGNAL,
        "destructor": IN_DESTRUCTOR.format(signal=SIGNAL),
        "constructor": IN_CONSTRUCTOR.format(signal=SIGNAL),
        "import": IN_IMPORT.format(folder=str(tmp_path)),
    }[place]
    done = run(body)
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


def test_other_errors_that_nobody_can_catch_are_still_said() -> None:
    done = run("class Thing:\n            def __del__(self): self.missing\n        Thing(); sys.exit(0)")
    assert "has no attribute 'missing'" in done.stderr
