"""The edge to this machine: commands, long-lived processes, Docker's engine, sysctls."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from k8slite.deploy import footprint
from k8slite.kit.clock import Clock

#: Kernel settings that starting Docker may change.
SYSCTLS = ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables")


class HostError(Exception):
    """Something on this machine stands in the way; the message says what to do about it."""


@dataclass(slots=True)
class DockerConfig:
    """daemon.json as it was and as we left it; None: there was no such file."""

    before: str | None
    after: str
    changed: list[str]
    folder: bool  # was there /etc/docker?


@dataclass(slots=True)
class HostRecord:
    """What ``up`` found and started, kept on disk so that ``down`` can put it back."""

    dockerd_pid: int = 0  # 0: Docker was running before us
    dockerd_unit: bool = False  # started through systemd
    iptables: str = ""
    sysctls: dict[str, str] = field(default_factory=dict)
    had_docker0: bool = False
    agent_pid: int = 0
    settings: dict[str, Any] = field(default_factory=dict)  # what the agent was started with
    agent_started: str = ""  # the kernel's start time of the pid, so that no stranger is killed
    # Of a host of a cluster from a file:
    docker_script: bool = False  # started through /etc/init.d
    docker_service: bool = False  # started by a service of ours
    docker_config: DockerConfig | None = None  # where daemon.json was changed
    mounts: list[str] = field(default_factory=list)  # below the data folder, before us

    @classmethod
    def load(cls, path: Path) -> HostRecord | None:
        try:
            record = cls(**json.loads(path.read_text()))
            if isinstance(record.docker_config, dict):
                record.docker_config = DockerConfig(**record.docker_config)
            return record
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HostError(
                f"{path} cannot be read ({error.strerror}): give the cluster's --data-dir, as root"
            ) from None
        except (ValueError, TypeError) as error:
            raise HostError(
                f"{path} cannot be read ({error}): move it away and run again"
            ) from None

    def save(self, path: Path) -> None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1))
        part.replace(path)


def command(*words: str, stdin: str = "") -> str:
    """Run a command to its end; its output. Raises HostError with its own words."""
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HostError(f"{words[0]} is not installed: apt-get install {words[0]}") from None
    if done.returncode != 0:
        why = (done.stderr or done.stdout).strip().splitlines()
        raise HostError(f"{' '.join(words)}: {why[-1] if why else done.returncode}")
    return done.stdout


def taken(port: int) -> bool:
    """Does somebody listen on this TCP port, on any address?"""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        return False


def start_time(pid: int) -> str:
    """The kernel's start time of a process ("" when there is none): a pid's second half."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def spawn(words: list[str], logfile: Path, pidfile: Path | None = None) -> int:
    """Start a process in a session of its own, its output in ``logfile``; its pid."""
    logfile.parent.mkdir(parents=True, exist_ok=True)
    with logfile.open("ab") as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    if pidfile is not None:
        pidfile.write_text(str(process.pid))
    return process.pid


async def end(pid: int, started: str, clock: Clock, grace: float = 20.0) -> bool:
    """SIGTERM, then SIGKILL after ``grace`` seconds; False when it was gone before."""
    if not pid or not started or start_time(pid) != started:
        return False
    deadline = clock.monotonic() + grace
    os.kill(pid, signal.SIGTERM)
    killed = False
    while start_time(pid) == started:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if not killed and clock.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            killed = True
        await clock.sleep(0.05)
    return True


class Engine:
    """Docker's engine on this machine, at ``docker_host`` (``unix:///…``)."""

    def __init__(self, docker_host: str, clock: Clock) -> None:
        self.docker_host = docker_host
        self._clock = clock

    async def answers(self) -> str:
        """The engine's version, or "" when nobody answers."""
        path = self.docker_host.removeprefix("unix://")
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n")
                answer = await reader.read()
                writer.close()
        except (OSError, TimeoutError):
            return ""
        body = answer.partition(b"\r\n\r\n")[2]
        try:
            return str(json.loads(body)["Version"])
        except (ValueError, KeyError, TypeError):
            return ""

    async def start(self, record: HostRecord, logfile: Path) -> str:
        """Start the engine, note in ``record`` what was there before; its version.

        Raises HostError with the last lines of its log when it does not come up in 60 s.
        """
        remember(record)
        if Path("/run/systemd/system").exists() and self.docker_host.endswith("/run/docker.sock"):
            command("systemctl", "start", "docker")
            record.dockerd_unit = True
        else:
            if shutil.which("dockerd") is None:
                raise HostError("dockerd is not installed: apt-get install docker.io")
            options = shlex.split(os.environ.get("DOCKER_OPTS", ""))  # the article's variable
            record.dockerd_pid = spawn(["dockerd", "--host", self.docker_host, *options], logfile)
        deadline = self._clock.monotonic() + 60
        while not (version := await self.answers()):
            gone = record.dockerd_pid and not start_time(record.dockerd_pid)
            if gone or self._clock.monotonic() > deadline:
                tail = logfile.read_text(errors="replace").strip().splitlines()[-1:] or [""]
                raise HostError(f"dockerd does not start: {tail[0]} (log: {logfile})")
            await self._clock.sleep(0.05)
        return version

    async def stop(self, record: HostRecord) -> bool:
        """Stop the engine if ``record`` says that we started it, and take away its traces."""
        if record.dockerd_unit:
            command("systemctl", "stop", "docker.socket", "docker", "containerd")
        elif record.dockerd_pid:
            await end(record.dockerd_pid, start_time(record.dockerd_pid), self._clock)
        else:
            return False
        restore(record)
        return True


def has_link(name: str) -> bool:
    """Asked of the kernel and not of /sys, which may show another network namespace."""
    return any(link == name for _, link in socket.if_nameindex())


def remember(record: HostRecord) -> None:
    """Note what of the host Docker is going to change."""
    record.iptables = command("iptables-save")
    record.had_docker0 = has_link("docker0")
    for name in SYSCTLS:
        path = Path("/proc/sys") / name
        if path.exists():
            record.sysctls[name] = path.read_text().strip()


def restore(record: HostRecord) -> None:
    """Put back what ``remember`` noted. What others changed meanwhile stays."""
    if not record.had_docker0 and has_link("docker0"):
        command("ip", "link", "delete", "docker0")
    plan = footprint.removal(record.iptables, command("iptables-save"))
    if plan.script:
        command("iptables-restore", "--noflush", stdin=plan.script)
    if plan.tables and shutil.which("nft"):
        for table in plan.tables:
            with contextlib.suppress(HostError):  # a legacy kernel table has no nft name
                command("nft", "delete", "table", "ip", table)
    for name, value in record.sysctls.items():
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)
