"""A machine that things happen to: each verb has another that undoes exactly what it did."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab.machine import Machine
from tests.lab.site import ROOT

#: Part → its command line.
PARTS = {
    "agent": re.compile(r"^(?!\S*sh )\S.*\bk8slite\b.* agent( |$)"),
    "etcd": re.compile(r"^(\S*/)?etcd( |$)"),
    "dockerd": re.compile(r"^(\S*/)?dockerd( |$)"),
    "sshd": re.compile(r"^sshd: \S*sshd .listener"),
}
#: Part → the script that starts it where it was installed.
_SCRIPTS = {"agent": "k8slite", "etcd": "k8slite-etcd", "dockerd": "docker", "sshd": "ssh"}
_FILLER = ".filler"
_CLOCK = "/etc/faketimerc"


class Host(Machine):
    """One machine of the lab, with its verbs."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._frozen: dict[str, list[int]] = {}
        self._relay: subprocess.Popen[bytes] | None = None

    # -- parts

    def pids(self, part: str) -> list[int]:
        """The part's processes, as the machine numbers them."""
        return [pid for pid, line in self.processes().items() if PARTS[part].search(line)]

    def freeze(self, part: str) -> None:
        """Stop the part and all that it started, where they stand. The kernel stops a process once
        each of its threads comes by; that is waited for."""
        assert part not in self._frozen, f"{part} is frozen already"
        tree = _descendants(self.pids(part), set(self.processes()))
        assert tree, f"no {part} runs on {self.name}"
        self._frozen[part] = tree
        _signal(tree, signal.SIGSTOP)
        self.until(lambda: all(map(_stands, tree)), f"stopped its {part}")

    def thaw(self, part: str) -> None:
        _signal(self._frozen.pop(part), signal.SIGCONT)

    def kill(self, part: str) -> None:
        """``kill -9``; what the part started goes on."""
        pids = self.pids(part)
        assert pids, f"no {part} runs on {self.name}"
        _signal(pids, signal.SIGKILL)
        self.until(lambda: not set(pids) & set(self.pids(part)), f"lost its {part}")

    def start(self, part: str) -> None:
        """Start a part again that was killed."""
        if part in self.services:
            self.start_service(part)
        else:
            self.run(f"/etc/init.d/{_SCRIPTS[part]}", "start")
        if part == "dockerd":
            self.until(self.docker_answers, "has Docker running")

    def restart_docker(self) -> None:
        self.run("/etc/init.d/docker", "restart")
        self.until(self.docker_answers, "has Docker running")

    def reboot(self) -> None:
        """As if the power failed for a moment: everything ends at once, then it boots."""
        self._frozen.clear()
        self.fast()
        self.power_off()
        self.power_on()
        self.wait_booted()

    def power_off(self) -> None:
        self.fast()
        super().power_off()

    def mend(self) -> None:
        """Undo whatever is still done to this host, parts that were killed excepted."""
        for part in list(self._frozen):
            self.thaw(part)
        self.heal()
        self.fast()
        for folder in self.disks:
            self.path(f"{folder}/{_FILLER}").unlink(missing_ok=True)
        if self.path(_CLOCK).exists():
            self.jump_clock(0)

    # -- the cable

    def cut(self) -> None:
        """Pull the cable out of the switch."""
        self.switch.ip("link", "set", self.port, "down")

    def heal(self) -> None:
        self.switch.ip("link", "set", self.port, "up")

    def slow(self, delay: float = 0.0, loss: float = 0.0, rate: float = 0.0) -> None:
        """A bad cable, in each direction: ``delay`` in seconds, ``loss`` from 0 to 1, ``rate`` in
        bytes a second (0: as fast as it goes)."""
        assert self._relay is None, f"{self.name}'s cable is slow already"
        near, far = f"{self.port}-near", f"{self.port}-far"
        self.switch.ip("link", "add", near, "type", "veth", "peer", "name", far)
        self.switch.ip("link", "set", far, "master", "lan", "up")
        self.switch.ip("link", "set", near, "up")
        self.switch.ip("link", "set", self.port, "nomaster")
        numbers = (str(delay), str(loss), str(rate))
        log = self.directory / "cable.log"
        self._relay = self.switch.start(
            *(sys.executable, "-m", "tests.lab.slow_cable", self.port, near, *numbers),
            log=log,
            cwd=ROOT,
        )
        self.until(lambda: "ready" in log.read_text(), "has a slow cable")

    def fast(self) -> None:
        """The good cable again."""
        if self._relay is None:
            return
        self._relay.kill()
        self._relay.wait()
        self._relay = None
        (self.directory / "cable.log").unlink()
        self.switch.ip("link", "set", self.port, "master", "lan")
        self.switch.ip("link", "delete", f"{self.port}-near")

    # -- disk and clock

    def fill_disk(self, folder: str) -> None:
        """Leave no byte free on the disk of this folder, which is one of ``disks``."""
        assert folder in self.disks, f"{folder} is no disk of its own"
        with self.path(f"{folder}/{_FILLER}").open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def free_disk(self, folder: str) -> None:
        self.path(f"{folder}/{_FILLER}").unlink()

    @property
    def own_clock(self) -> dict[str, str]:
        """Environment of a daemon that is to live by this host's clock (and not by the machine's).

        Only the time of day can jump; monotonic time goes on, as it does on a real machine.
        """
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not self.path(_CLOCK).exists():
            self.jump_clock(0)
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": _CLOCK,
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump_clock(self, seconds: float) -> None:
        """Put the time of day this far from the machine's, within a second; 0 puts it right."""
        part = self.path(f"{_CLOCK}.part")
        part.write_text(f"{seconds:+g}\n")
        part.replace(self.path(_CLOCK))


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _stands(pid: int) -> bool:
    """Whether a process is stopped; one that is gone does nothing any more either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _descendants(pids: list[int], within: set[int]) -> list[int]:
    """The processes and those they started, parents first."""
    found = list(pids)
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                born = (int(word) for word in children.read_text().split())
                found.extend(child for child in born if child in within and child not in found)
    return found
