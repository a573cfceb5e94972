"""The edge to the site's routers: ExaBGP, a child of this process.

It ends with us however we end (the kernel sends it SIGTERM when its parent dies, on which it closes
its sessions, so routers forget our routes at once), it is started again when it dies, and it runs
as a user that may do nothing here. Its only file lies in a folder of ours and goes with us.
"""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

import structlog

from k8slite.decide.outside import Peer
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.network.bgp import configuration
from k8slite.network.voice import CannotAnnounce

log = structlog.get_logger()

PROGRAM = "exabgp"
_MISSING = "exabgp is not installed: apt-get install exabgp, or use --announce arp"
#: Of its output: it has read its configuration, and from now on SIGUSR1 does not end it.
_LOADED = b"loaded new configuration"
_BACKOFF = Backoff(initial=0.5, maximum=15.0)
#: Seconds that it may take to close its sessions.
_PARTING = 2.0
#: It ran for so many seconds: its next end is a first failure again.
_SOUND = 60.0


class ExaBgp:
    """A ``Voice`` that tells ``peers``. ``number``: our AS; ``folder``: for its configuration."""

    def __init__(
        self, node_ip: str, number: int, peers: Sequence[Peer], folder: Path, clock: Clock
    ) -> None:
        self._node_ip = node_ip
        self._number = number
        self._peers = tuple(peers)
        self._folder = folder
        self._clock = clock
        self._addresses: frozenset[str] = frozenset()
        self._wanted: str | None = None  # the configuration that it shall have
        self._told = ""  # the one that it has read, or is told to read
        self._changed = asyncio.Event()
        self._child: Process | None = None
        self._loaded = False
        self._said = b""

    @property
    def where(self) -> str:
        return f"AS {self._number} to {', '.join(peer.address for peer in self._peers)}"

    async def say(self, addresses: frozenset[str]) -> None:
        if shutil.which(PROGRAM) is None:
            raise CannotAnnounce(_MISSING)
        self._addresses = addresses
        local = {p.address: ours for p in self._peers if (ours := self._local(p.address))}
        if not local:
            raise CannotAnnounce(
                f"no route to any of {', '.join(p.address for p in self._peers)}: "
                "mend the route, or --bgp-peer"
            )
        wanted = configuration(self._node_ip, self._number, self._peers, local, addresses)
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    def renew(self, addresses: Iterable[str]) -> None:
        """A router forgets nothing while its session stands."""

    async def run(self) -> None:
        """Keep a child that has the configuration of now, until cancelled."""
        failures = 0
        try:
            while True:
                while self._wanted is None:
                    await self._changed.wait()
                    self._changed.clear()
                began = self._clock.monotonic()
                try:
                    await self._live()
                except OSError as error:
                    log.warning("exabgp not started", role="announcer", error=str(error))
                failures = 1 if self._clock.monotonic() - began > _SOUND else failures + 1
                delay = _BACKOFF.delay(failures)
                log.warning("exabgp ended", role="announcer", retry_in=delay)
                await self._clock.sleep(delay)
        finally:
            await asyncio.shield(self._end())

    async def close(self) -> None:
        await self._end()
        await asyncio.to_thread(remove, self._folder)

    async def _live(self) -> None:
        """One life of the child."""
        path = await asyncio.to_thread(self._write)
        self._loaded = False
        child = self._child = await asyncio.create_subprocess_exec(
            *_command(path), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=_environment()
        )
        telling = asyncio.create_task(self._keep_told(child), name="exabgp-told")
        try:
            assert child.stdout is not None
            async for line in child.stdout:
                self._hear(line)
            await child.wait()
        finally:
            telling.cancel()
            await asyncio.wait({telling})
            await self._end()

    async def _keep_told(self, child: Process) -> None:
        """Write what changes, and tell the child to read it."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not self._loaded or self._told == self._wanted:
                continue
            await asyncio.to_thread(self._write)
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGUSR1)

    def _hear(self, line: bytes) -> None:
        """A line of the child's log: time, pid, part, text."""
        if _LOADED in line:
            self._loaded = True
            self._changed.set()  # it may have changed since it was started
        text = line.rpartition(b"|")[2].strip()
        if text and text != self._said:
            self._said = text
            log.debug("exabgp", role="announcer", says=text.decode(errors="replace")[:500])

    def _write(self) -> Path:
        """Its configuration, where its own user can read it."""
        wanted = self._wanted or ""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "exabgp.conf"
        part = path.with_suffix(".part")
        part.write_text(wanted)
        part.chmod(0o644)
        part.replace(path)
        self._told = wanted
        return path

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(_PARTING):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()

    def _local(self, peer: str) -> str:
        """Our address on the way to ``peer``; "" when there is no way. Nothing is sent."""
        version = ip_address(peer).version
        if version == 4:
            return self._node_ip
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((peer, 179))
            except OSError:
                return ""
            return str(probe.getsockname()[0])


def remove(folder: Path) -> bool:
    """Take away what a child that was killed left; whether there was anything."""
    if not folder.is_dir():
        return False
    for name in ("exabgp.conf", "exabgp.part"):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
    return True


def _user() -> pwd.struct_passwd:
    """Debian's package makes a user for it."""
    try:
        return pwd.getpwnam("exabgp")
    except KeyError:
        return pwd.getpwnam("nobody")


def _command(path: Path) -> list[str]:
    # The user is changed first: a change of it would make the kernel forget the signal.
    user = _user()
    return [
        "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
        "--pdeathsig=TERM", PROGRAM, str(path),
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONUNBUFFERED": "1",
        "exabgp.daemon.user": _user().pw_name,
        "exabgp.api.cli": "false",
        "exabgp.log.destination": "stdout",
        "exabgp.tcp.bind": "",
    }
