"""Ctrl-C that ends a command wherever it falls: never lost, never with Python's words about half-made objects."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_RETRY_S = 0.05


def watch() -> None:
    """Take over SIGINT for this process, unless it is ignored (as behind nohup) or somebody else has it.

    - While a module is imported the interrupt waits: extension modules clear it or turn it into an ImportError.
    - Inside a destructor or a callback Python drops it: it is raised again.
    - Inside a constructor it leaves an object whose destructor fails: that tells nobody anything, and is not printed.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if _importing(frame):
            _again_soon()
            return
        interrupted = True
        signal.default_int_handler(number, frame)

    def unraisable(lost: UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            _again_soon()  # not at once: this hook's own exceptions are dropped too
        elif not interrupted:
            sys.__unraisablehook__(lost)

    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = unraisable


def _again_soon() -> None:
    retry = threading.Timer(_RETRY_S, os.kill, (os.getpid(), signal.SIGINT))
    retry.daemon = True
    retry.start()


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
