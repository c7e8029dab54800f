"""Attributes of the kernel's file trees, as the sensors read them."""

from device_agents.sensors import raw


def text(path: str) -> str:
    """What an attribute says; OSError where it cannot be read, UnicodeDecodeError (a ValueError) for garbage."""
    with open(path, encoding="ascii") as file:
        said = file.read().strip()
    raw.note(path, said)
    return said
