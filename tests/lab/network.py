"""Namespaces and the switch that joins them."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self


def ip(*words: str) -> str:
    """One ``ip`` command in the machine's own namespace; raises with its words when it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Namespace:
    """A network namespace with loopback up; leaving ends whatever still runs in it."""

    def __init__(self, label: str) -> None:
        self.name = f"k8slite-{label}-{secrets.token_hex(2)}"

    def __enter__(self) -> Self:
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end_processes()
        ip("netns", "delete", self.name)

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def ip(self, *words: str) -> str:
        return ip("-n", self.name, *words)

    def inside(self, *words: str) -> list[str]:
        """The command line that runs ``words`` in here."""
        return ["nsenter", f"--net={self.path}", *words]

    def run(self, *words: str, check: bool = True, **options: Any) -> str:
        """Run a command to its end; its output. A failure shows the command's own words."""
        options.setdefault("timeout", 300)
        done = subprocess.run(
            self.inside(*words), capture_output=True, text=True, check=False, **options
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(words)} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done.stdout

    def start(self, *words: str, log: Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start a daemon in here, its output in ``log``."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.inside(*words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **options,
            )

    def pids(self) -> list[int]:
        return [int(word) for word in ip("netns", "pids", self.name).split()]

    def end_processes(self, grace: float = 10.0) -> None:
        """SIGTERM to all that run in here, SIGKILL to what is left after ``grace`` seconds."""
        deadline = time.monotonic() + grace
        first = True
        while pids := self.pids():
            number = signal.SIGTERM if first or time.monotonic() < deadline else signal.SIGKILL
            for pid in pids if first or number == signal.SIGKILL else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            first = False
            time.sleep(0.05)


class Switch(Namespace):
    """A bridge in a namespace of its own: the machine's FORWARD policy has no say here."""

    def __init__(self) -> None:
        super().__init__("switch")
        self._ports = 0

    def __enter__(self) -> Self:
        super().__enter__()
        self.ip("link", "add", "lan", "type", "bridge")
        self.ip("link", "set", "lan", "up")
        return self

    def connect(self, host: Namespace, address: str) -> str:
        """A cable from ``host`` (interface eth0 at ``address``, as 192.168.0.10/24); our port.

        The interface's hardware address is made of ``address``: a host that is plugged in again is
        the same to its neighbours.
        """
        self._ports += 1
        port = f"port{self._ports}"
        ip(
            *("link", "add", port, "netns", self.name, "type", "veth"),
            *("peer", "name", "eth0", "netns", host.name, "address", _hardware(address)),
        )
        self.ip("link", "set", port, "master", "lan", "up")
        host.ip("addr", "add", address, "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        # A default route, so that the host has an idea where portal IPs would be.
        host.ip("route", "add", "default", "dev", "eth0")
        return port


def _hardware(address: str) -> str:
    """A locally administered hardware address that holds the IPv4 address."""
    octets = ipaddress.IPv4Interface(address).ip.packed
    return ":".join(["02", "00", *(f"{octet:02x}" for octet in octets)])
