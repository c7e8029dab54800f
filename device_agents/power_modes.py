"""How a power mode is set on the kinds of device there are, each with its own way to read, write and verify.

    what                                     value                   set by
    /sys/…/cpuN/cpufreq/scaling_governor     a governor's name       writing the file, or sudo -n tee
    nvpmodel                                 a mode's number         nvpmodel -m (Jetson), or sudo -n nvpmodel -m
    jetson_clocks                            on, off                 jetson_clocks, with its settings stored before

Nothing here is ever answered interactively: standard input is /dev/null and sudo is asked with -n. nvpmodel is given
only numbers that it lists itself. A mode that takes a reboot is refused: nvpmodel asks, gets no answer, and leaves the
mode as it was. Source: NVIDIA Jetson Linux Developer Guide, "Power Management" (nvpmodel, jetson_clocks).
"""

import glob
import os
import re
import subprocess
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from device_agents.board import read_text

NVPMODEL = "nvpmodel"
JETSON_CLOCKS = "jetson_clocks"

_GOVERNORS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq"
_COMMAND_S = 30.0
_MODE = re.compile(r"POWER_MODEL:?\s+ID=(\d+)\s+NAME=(\S+)")
_LOCKED = re.compile(r"^cpu\d+:.*?MinFreq=(\d+)\s+MaxFreq=(\d+)", re.MULTILINE)


class NotPinned(Exception):
    """Why a mode cannot be set, or was not taken; ``fix``: what a person can do about it."""

    def __init__(self, reason: str, fix: str = "") -> None:
        super(NotPinned, self).__init__(reason)
        self.reason = reason
        self.fix = fix


class Setting(NamedTuple):
    """One thing to set: a file's path, ``nvpmodel`` or ``jetson_clocks``, and the value wanted."""

    what: str
    value: str


class PowerModes(object):
    """``root``: the file system's root, ``is_root``: whether to go without sudo (tests hand in both)."""

    def __init__(self, root: str = "/", store_path: str = "", is_root: Optional[bool] = None) -> None:
        self._root = root
        self._store_path = store_path
        self._is_root = os.geteuid() == 0 if is_root is None else is_root

    def settings(self, part: str) -> List[Setting]:
        """What has to be set for one part of a power mode's name; NotPinned where the device does not offer it."""
        if part == JETSON_CLOCKS:
            self._tool(JETSON_CLOCKS)
            return [Setting(JETSON_CLOCKS, "on")]
        modes = self.nvpmodel_modes()
        for number, name in sorted(modes.items()):
            if part in (name, number):
                return [Setting(NVPMODEL, number)]
        folders = sorted(glob.glob(os.path.join(self._root, _GOVERNORS)))
        if not folders and not modes:
            raise NotPinned("the device has no cpufreq governors", "leave power_mode out of the device profile")
        found = []
        for folder in folders:
            offered = (read_text(os.path.join(folder, "scaling_available_governors")) or "").split()
            if part not in offered:
                raise NotPinned(self._offers(folder, offered, modes), "correct power_mode in the device profile")
            found.append(Setting(os.path.join(folder, "scaling_governor"), part))
        if not found:
            raise NotPinned(self._offers("the device", [], modes), "correct power_mode in the device profile")
        return found

    def read(self, what: str) -> str:
        """The value that is set now; NotPinned where it cannot be known."""
        if what == NVPMODEL:
            return self._nvpmodel_now()
        if what == JETSON_CLOCKS:
            return self._clocks_now()
        text = read_text(what)
        if text is None:
            raise NotPinned("%s cannot be read" % what)
        return text

    def before(self, what: str) -> str:
        """The value to write in order to put things back as they are now: what the journal keeps."""
        if what == JETSON_CLOCKS:
            self._ask(JETSON_CLOCKS, ["--store", self._store_path])
            return self._store_path
        return self.read(what)

    def write(self, what: str, value: str) -> None:
        """Set a value; NotPinned or OSError where the device does not take it."""
        if what == NVPMODEL:
            self._set_nvpmodel(value)
        elif what == JETSON_CLOCKS:
            self._ask(JETSON_CLOCKS, [] if value == "on" else ["--restore", value])
        else:
            self._write_file(what, value)

    def nvpmodel_modes(self) -> Dict[str, str]:
        """Number → name of the modes that nvpmodel has; empty on a device without it."""
        if self._path(NVPMODEL) is None:
            return {}
        listed = _MODE.findall(read_text(os.path.join(self._root, "etc/nvpmodel.conf")) or "")
        if not listed:
            listed = _MODE.findall(self._ask(NVPMODEL, ["-p", "--verbose"]))
        return dict(listed)

    def _nvpmodel_now(self) -> str:
        lines = [line.strip() for line in self._ask(NVPMODEL, ["-q"]).splitlines()]
        numbers = [line for line in lines if line.isdigit()]
        if not numbers:
            raise NotPinned("nvpmodel -q says %r" % " / ".join(lines[-3:]))
        return numbers[-1]

    def _set_nvpmodel(self, number: str) -> None:
        modes = self.nvpmodel_modes()
        if number not in modes:
            raise NotPinned("nvpmodel has no mode %s, only %s" % (number, _listed(modes)))
        said = self._ask(NVPMODEL, ["-m", number], may_fail=True)
        if "reboot required" in said.lower():
            raise NotPinned(
                "power mode %s (%s) takes effect only with a reboot" % (number, modes[number]),
                "on the device: sudo nvpmodel -m %s, answer YES, and measure when it is back" % number,
            )

    def _clocks_now(self) -> str:
        pairs = _LOCKED.findall(self._ask(JETSON_CLOCKS, ["--show"]))
        if not pairs:
            raise NotPinned("jetson_clocks --show tells no CPU clocks")
        return "on" if all(lowest == highest for lowest, highest in pairs) else "off"

    def _write_file(self, path: str, text: str) -> None:
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return
        except PermissionError:
            if self._is_root:
                raise
        status, said = _run(self._sudo() + ["tee", path], text)
        if status:
            rule = "%%sudo ALL=(root) NOPASSWD: /usr/bin/tee %s" % re.sub(r"cpu\d+", "cpu*", path)
            raise NotPinned("%s may be written by root only (%s)" % (path, said), "a line of sudoers: " + rule)

    def _ask(self, tool: str, arguments: List[str], may_fail: bool = False) -> str:
        """Run a tool, as it is and then through sudo -n where it refuses; its output."""
        path = self._tool(tool)
        status, said = _run([path] + arguments)
        if status and not self._is_root:
            refusal, refused = _run(self._sudo() + [path] + arguments)
            if refusal and "password" in refused:
                raise NotPinned(
                    "%s %s is for root only" % (tool, " ".join(arguments)),
                    "a line of sudoers on the device: %%sudo ALL=(root) NOPASSWD: %s" % path,
                )
            status, said = refusal, refused
        if status and not may_fail:
            raise NotPinned("%s %s: status %s: %s" % (tool, " ".join(arguments), status, said[-200:]))
        return said

    def _tool(self, name: str) -> str:
        path = self._path(name)
        if path is None:
            raise NotPinned("the device has no %s" % name, "correct power_mode in the device profile")
        return path

    def _path(self, name: str) -> Optional[str]:
        for folder in ("usr/sbin", "usr/bin"):
            path = os.path.join(self._root, folder, name)
            if os.access(path, os.X_OK):
                return path
        return None

    def _sudo(self) -> List[str]:
        path = self._path("sudo")
        if path is None:
            raise NotPinned("it takes root, and the device has no sudo", "run as root, or leave power_mode out")
        return [path, "-n"]

    @staticmethod
    def _offers(where: str, governors: List[str], modes: Dict[str, str]) -> str:
        offered = ["%s offers %s" % (where, " ".join(governors) or "no governors")]
        if modes:
            offered.append("nvpmodel has %s" % _listed(modes))
        return "; ".join(offered)


def gpu_clocks() -> Optional[List[str]]:
    """Each NVIDIA card's clocks and persistence mode as nvidia-smi says them (to lock them takes root: not done)."""
    path = next((p for p in ("/usr/bin/nvidia-smi", "/usr/sbin/nvidia-smi") if os.access(p, os.X_OK)), None)
    if path is None:
        return None
    fields = "index,clocks.sm,clocks.max.sm,clocks.mem,persistence_mode"
    try:
        status, said = _run([path, "--query-gpu=" + fields, "--format=csv,noheader"])
    except NotPinned as error:
        return [error.reason]
    return said.splitlines() if status == 0 else ["nvidia-smi: status %d" % status]


def _run(argv: List[str], text: str = "") -> Tuple[int, str]:
    """Exit status and output, both streams; nobody answers a question that is asked there."""
    fed: Dict[str, Any] = {"input": text} if text else {"stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
            timeout=_COMMAND_S,
            **fed,
        )
    except subprocess.TimeoutExpired:
        raise NotPinned("%s did not end within %.0f s" % (argv[0], _COMMAND_S)) from None
    except OSError as error:
        raise NotPinned("%s cannot be run: %s" % (argv[0], error.strerror)) from error
    return done.returncode, str(done.stdout).strip()


def _listed(modes: Dict[str, str]) -> str:
    return ", ".join("%s (%s)" % (name, number) for number, name in sorted(modes.items()))
