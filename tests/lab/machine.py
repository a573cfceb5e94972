"""A machine of the lab: namespaces, a root of its own, sshd and Docker as on a real one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.network import Namespace, Switch
from tests.lab.root import Build, prepare

_BOOT = str(Path(__file__).with_name("boot.sh"))
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Starts every machine. A machine dies with the thread that started it, so that no end of this
#: process, however hard, leaves one behind; this thread lives as long as the process.
_STARTER = ThreadPoolExecutor(1, "lab-starter")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Service:
    """A daemon that the test itself runs on a host; started again when the host boots."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class Machine:
    """One machine; ``directory`` is its disk, ``switch`` what its cable leads to.

    ``power_on`` returns at once; ``wait_booted`` when sshd listens and Docker answers.

    ``shares``: folders of the real machine that show here too, at the same place. ``disks``:
    folder → size in MiB, each a disk of its own.
    """

    def __init__(
        self,
        switch: Switch,
        directory: Path,
        address: str,
        build: Build,
        *,
        shares: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        disks: Mapping[str, int] | None = None,
    ) -> None:
        self.switch = switch
        self.directory = directory
        self.address = address
        self.build = build
        self.name = build.name
        self.namespace = Namespace(build.name)
        self.port = ""  # the switch's end of the cable
        self.services: dict[str, Service] = {}
        self._shares = shares
        self._environment = dict(environment or {})
        self.disks = dict(disks or {})
        self._init: subprocess.Popen[bytes] | None = None
        self._pid = 0

    # -- life

    def prepare(self) -> None:
        self.directory.mkdir(parents=True)
        prepare(self.directory, self.build)
        for number, size in enumerate(self.disks.values()):
            image = self.directory / f"disk{number}"
            with image.open("wb") as file:
                file.truncate(size << 20)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)

    def power_on(self) -> None:
        """Plug in and boot."""
        self.namespace.__enter__()
        self.port = self.switch.connect(self.namespace, f"{self.address}/24")
        for hierarchy in _hierarchies():
            _make_group(hierarchy / self.namespace.name)
        shares = [f"{path}:{path}" for path in self._shares]
        disks = [f"{self.directory}/disk{n}:{path}" for n, path in enumerate(self.disks)]
        words = [
            *("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.namespace.path}"),
            *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
            *(_BOOT, str(self.directory), self.name, self.namespace.name, *shares, *disks),
        ]
        self._init = _STARTER.submit(_daemon, words, self.directory / "console.log").result()
        self._pid = 0

    def power_off(self) -> None:
        """Everything that runs here ends at once, nothing is told; the disk stays."""
        if self._init is not None:
            # The first process takes its whole namespace along, and unshare has waited for it.
            with contextlib.suppress(ProcessLookupError, AssertionError, FileNotFoundError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._init.wait(10)
            self._init.kill()  # it never got as far, or does not end: --kill-child
            self._init.wait()
            self._init = None
        self._pid = 0
        if not Path(self.namespace.path).exists():
            return
        remove_groups(self.namespace.name)
        self.namespace.__exit__(None, None, None)

    def remove(self) -> None:
        self.power_off()
        shutil.rmtree(self.directory, ignore_errors=True)

    def wait_booted(self, seconds: float = 90) -> None:
        self.until(lambda: self.path("/run/booted").exists(), "boots", seconds)
        if self.build.docker:
            self.until(self.docker_answers, "has Docker running", seconds)
        for name in self.services:
            self.start_service(name)

    def until(self, condition: Any, what: str, seconds: float = 30) -> None:
        """Wait for a condition; fails with what this host did not do in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self._init is not None and self._init.poll() is not None:
                console = (self.directory / "console.log").read_text(errors="replace")
                raise AssertionError(f"{self.name} is down; its console:\n{console[-2000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: not within {seconds:g} s that it {what}")
            time.sleep(0.05)

    # -- inside

    @property
    def pid(self) -> int:
        """The pid, on the machine, of this host's first process."""
        if not self._pid:
            assert self._init is not None, f"{self.name} is off"
            children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
            deadline = time.monotonic() + 10
            while not (words := children.read_text().split()):
                assert time.monotonic() < deadline, f"{self.name} has no first process"
                time.sleep(0.01)
            self._pid = int(words[0])
        return self._pid

    def path(self, inside: str) -> Path:
        """The machine's path of a file of this host."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def inside(self, *words: str) -> list[str]:
        """The command line that runs ``words`` in here, as root."""
        environment = {
            "PATH": _PATH,
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **self._environment,
        }
        return [
            *("nsenter", "--target", str(self.pid), "--all"),
            *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
            *words,
        ]

    def run(self, *words: str, check: bool = True, **options: Any) -> str:
        """Run a command to its end; its output. A failure shows the command's own words."""
        options.setdefault("timeout", 300)
        done = subprocess.run(
            self.inside(*words), capture_output=True, text=True, check=False, **options
        )
        if check and done.returncode:
            raise AssertionError(
                f"{self.name}: {' '.join(words)} exited {done.returncode}\n"
                f"{done.stdout}\n{done.stderr}"
            )
        return done.stdout

    def sh(self, line: str, check: bool = True, **options: Any) -> str:
        return self.run("sh", "-c", line, check=check, **options)

    def processes(self) -> dict[int, str]:
        """pid (on the machine) → command line of what runs here; containers are not included."""
        mine = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(folder / "ns/pid") == mine:
                    words = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                    found[int(folder.name)] = b" ".join(words).decode(errors="replace")
        return found

    # -- Docker

    @property
    def docker_url(self) -> str:
        """Docker's socket as the machine reaches it."""
        return f"unix://{self.path('/run/docker.sock')}"

    def docker_answers(self) -> bool:
        return not subprocess.run(
            ["docker", "-H", self.docker_url, "version"], capture_output=True, check=False
        ).returncode

    def docker(self, *words: str) -> str:
        return self.run("docker", *words).strip()

    # -- daemons of the test's own

    def serve(self, name: str, *words: str, **environment: str) -> None:
        """Run a daemon, its output in /var/log/NAME.log; it comes back when the host boots."""
        self.services[name] = Service(words, environment)
        self.start_service(name)

    def start_service(self, name: str) -> None:
        service = self.services[name]
        settings = [f"{key}={value}" for key, value in service.environment.items()]
        with self.path(f"/var/log/{name}.log").open("ab") as log:
            subprocess.run(
                self.inside("env", *settings, "setsid", "--fork", *service.words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
            )

    def log(self, name: str) -> str:
        path = self.path(f"/var/log/{name}.log")
        return path.read_text(errors="replace") if path.exists() else ""


def _daemon(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def _hierarchies() -> list[Path]:
    """The root of every cgroup hierarchy of the machine."""
    if (_CGROUPS / "cgroup.procs").exists():
        return [_CGROUPS]
    return [path for path in _CGROUPS.iterdir() if (path / "cgroup.procs").exists()]


def _make_group(group: Path) -> None:
    group.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):  # a new group of version 1 has neither
        if (group / name).exists() and not (group / name).read_text().strip():
            (group / name).write_text((group.parent / name).read_text())


def remove_groups(name: str) -> None:
    """Remove a machine's groups from every hierarchy."""
    for hierarchy in _hierarchies():
        _remove_group(hierarchy / name)


def _remove_group(group: Path) -> None:
    """Remove a group and those below it; their last processes may take a moment to be gone."""
    deadline = time.monotonic() + 10
    while group.exists():
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if group.exists():
            assert time.monotonic() < deadline, f"{group} still holds processes"
            time.sleep(0.02)
