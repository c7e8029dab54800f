"""Attributes of the kernel's file trees, as the sensors read them."""

import os

from device_agents.sensors import raw

MOST_BYTES = 4096  # an attribute is one page


def text(path: str) -> str:
    """What an attribute says; OSError where it cannot be read, UnicodeDecodeError (a ValueError) for garbage."""
    number = os.open(path, os.O_RDONLY)  # a file object costs four times as much, a hundred times a second
    try:
        said = os.read(number, MOST_BYTES).decode("ascii").strip()
    finally:
        os.close(number)
    raw.note(path, said)
    return said
