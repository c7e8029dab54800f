"""Unpacks a tree of small text files from ttar's form, as prometheus/node_exporter keeps its recorded sysfs."""

from __future__ import annotations

from pathlib import Path


def unpack(archive: Path, folder: Path) -> Path:
    """Write the archive's folders and files below ``folder``, and return that."""
    lines = iter(archive.read_text(encoding="ascii").splitlines())
    path, links = folder, []
    for line in lines:
        key, _, value = line.partition(": ")
        if key == "Directory":
            (folder / value).mkdir(parents=True, exist_ok=True)
        elif key == "Path":
            path = folder / value
            path.parent.mkdir(parents=True, exist_ok=True)
        elif key == "SymlinkTo":
            links.append((path, value))
        elif key == "Lines":
            path.write_text("".join(next(lines) + "\n" for _ in range(int(value))), encoding="ascii")
    for link, target in links:
        link.symlink_to(target)
    return folder
