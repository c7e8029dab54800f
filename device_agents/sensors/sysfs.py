"""Attributes of the kernel's file trees, as the sensors read them."""


def text(path: str) -> str:
    """What an attribute says; OSError where it cannot be read, UnicodeDecodeError (a ValueError) for garbage."""
    with open(path, encoding="ascii") as file:
        return file.read().strip()
