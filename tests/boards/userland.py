"""Builds a real arm64 userland (sshd, Python, ONNX Runtime) that runs on this computer in software emulation.

     the machine's own apt sources ─► arm64 .deb files ─► unpacked into one root (no maintainer scripts run)
     pip's own configuration       ─► aarch64 wheels   ─► its dist-packages          ─► checked by importing them there

    python -m tests.boards.userland          builds unless it is there; prints the folder

The cache is ``$RIG_BOARD_CACHE``, or the user's own; a changed recipe makes a new folder. Nothing is installed on this
machine: it needs proot, qemu-user-static and dpkg. Building needs no rights beyond the cache folder's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

QEMU = "qemu-aarch64-static"
TOOLS = {
    "proot": "proot",
    QEMU: "qemu-user-static",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "tar": "tar",
    "ssh-keygen": "openssh-client",
}
RECIPE = 1  # of this file, to be raised when what it does changes
CPU = "cortex-a72"  # a Raspberry Pi 4's

PACKAGES = (
    "base-files",
    "bash",
    "coreutils",
    "dash",
    "libc-bin",
    "libstdc++6",
    "openssh-server",
    "openssh-sftp-server",
    "python3",
)
# ONNX Runtime 1.31 crashes under the QEMU of Debian 12; NumPy as a Pi has it.
WHEELS = ("onnxruntime==1.23.2", "numpy==1.26.4")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
LEFT_OUT = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./boot/*", "./dev/*")

# The account "pi" has the rights that proot makes up: sshd and its sessions are one user to this computer.
PASSWD = """\
root:x:0:0:root:/root:/bin/bash
pi:x:0:0:board:/home/pi:/bin/bash
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = "root:x:0:\nnogroup:x:65534:\n"


class CannotBuild(Exception):
    """What is missing or failed, and what to do."""


def cache_folder() -> Path:
    """``$RIG_BOARD_CACHE``, or ``boards`` in the user's cache."""
    chosen = os.environ.get("RIG_BOARD_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("rig")) / "boards"


def userland(cache: Path | None = None) -> Path:
    """The folder of the built userland: ``root`` and ``contents.json``. Raises CannotBuild."""
    cache = cache or cache_folder()
    recipe = json.dumps([RECIPE, PACKAGES, WHEELS, PLATFORMS, LEFT_OUT, PASSWD, GROUP])
    target = cache / f"arm64-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if target.is_dir():
        return target
    _require_tools()
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
    try:
        debs = _fetch_packages(work / "apt")
        root = work / "root"
        _unpack(debs, root)
        wheels = _fetch_wheels(work / "wheels", _python_version(root))
        _install_wheels(wheels, root)
        contents = {"packages": sorted(deb.name for deb in debs), "wheels": sorted(wheel.name for wheel in wheels)}
        (work / "contents.json").write_text(json.dumps(contents, indent=1))
        _check(root)
        shutil.rmtree(work / "apt")
        shutil.rmtree(work / "wheels")
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return target


def emulated(root: Path, *binds: str) -> list[str]:
    """The start of a command that runs a program of ``root``; ``binds`` are proot's, as ``FOLDER:PLACE``."""
    command = ["proot", "-r", str(root), "-q", QEMU, "-0", "-w", "/", "-b", "/dev", "-b", "/proc"]
    for bind in binds:
        command += ["-b", bind]
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
    return [*command, "/usr/bin/env", "-i", f"PATH={path}", f"QEMU_CPU={CPU}"]


def environment() -> dict[str, str]:
    """Of the emulator: which CPU it is, and proot's older way of tracing, which works inside containers too."""
    return {**os.environ, "QEMU_CPU": CPU, "PROOT_NO_SECCOMP": "1"}


def _require_tools() -> None:
    sbin = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=sbin) is None})
    if missing:
        raise CannotBuild(f"not installed: {', '.join(missing)}; apt-get install {' '.join(missing)}")


def _run(command: list[str], **more: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise CannotBuild(f"{' '.join(command[:6])} … ended with status {done.returncode}:\n{tail}")
    return str(done.stdout)


def _fetch_packages(state: Path) -> list[Path]:
    """The packages and what they depend on, for arm64, by apt itself in a state of its own (signatures are checked)."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state / "cache",
        "Dir::Cache::archives": state / "cache/archives",
    }
    apt = ["apt-get", "-qq", "--yes"]
    for name, value in options.items():
        apt += ["-o", f"{name}={value}"]
    # Of this machine's configuration only where packages come from counts, not what is run after an update.
    apt += ["-o", "APT::Update::Post-Invoke::=true", "-o", "APT::Keep-Downloaded-Packages=true"]
    _run([*apt, "update"])
    _run([*apt, "install", "--download-only", "--no-install-recommends", *PACKAGES])
    found = sorted((state / "cache/archives").glob("*.deb"))
    if not found:
        raise CannotBuild(f"apt fetched no package into {state / 'cache/archives'}")
    return found


def _unpack(debs: list[Path], root: Path) -> None:
    root.mkdir()
    for name in ("bin", "sbin", "lib"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    exclude = [f"--exclude={pattern}" for pattern in LEFT_OUT]
    for deb in debs:
        whole = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
        _run(
            ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", *exclude, "-C", str(root)], stdin=whole.stdout
        )
        if whole.stdout is not None:
            whole.stdout.close()
        if whole.wait():
            raise CannotBuild(f"{deb.name} cannot be unpacked")
    for folder in ("dev", "proc", "sys", "tmp", "run", "home", "root", "board", "etc"):
        (root / folder).mkdir(exist_ok=True)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    if not (root / "usr/bin/sh").exists():
        (root / "usr/bin/sh").symlink_to("dash")


def _python_version(root: Path) -> str:
    """Such as 3.11, from what /usr/bin/python3 leads to."""
    return os.readlink(root / "usr/bin/python3").rpartition("python")[2]


def _fetch_wheels(folder: Path, python: str) -> list[Path]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    _run([*command, "--implementation", "cp", "--python-version", python, "--dest", str(folder), *WHEELS])
    return sorted(folder.glob("*.whl"))


def _install_wheels(wheels: list[Path], root: Path) -> None:
    packages = root / "usr/lib/python3/dist-packages"
    packages.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)


def _check(root: Path) -> None:
    """It runs, and the libraries load; this also leaves the compiled modules there, which saves start-up time."""
    code = "import ctypes, json, platform, onnxruntime; print(platform.machine(), onnxruntime.__version__)"
    said = _run([*emulated(root, "/sys"), "HOME=/root", "/usr/bin/python3", "-I", "-c", code], env=environment())
    wanted = f"aarch64 {WHEELS[0].partition('==')[2]}"
    if said.strip() != wanted:
        raise CannotBuild(f"the userland says {said!r}, not {wanted!r}")


def main() -> int:
    """Build and print the folder; 1 and the reason where that is impossible."""
    try:
        print(userland())
    except CannotBuild as problem:
        sys.stderr.write(f"the arm64 userland cannot be built: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
