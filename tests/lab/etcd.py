"""Real etcd members of our own: started on loopback, frozen, killed and brought back by a test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ETCD = "/usr/bin/etcd"
#: What the contract allows in one transaction; etcd's own default is 128.
MAX_TXN_OPS = 10_000


@dataclass(frozen=True)
class TlsFiles:
    """In PEM: who is trusted, and what a member shows."""

    ca: Path
    cert: Path
    key: Path


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports nobody listens at just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((address, 0))
        return [one.getsockname()[1] for one in sockets]


class EtcdMember:
    """One etcd process. ``launch`` is put before its command line (as ``nsenter --net=…``)."""

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        tls: TlsFiles | None = None,
        flags: Sequence[str] = (),
        launch: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.directory = directory
        self.tls = tls
        self.flags = list(flags)
        self.launch = list(launch)
        client, peer, metrics = free_ports(3, address)
        self.endpoint = f"{'https' if tls else 'http'}://{address}:{client}"
        self.peer = f"http://{address}:{peer}"
        self.metrics = f"http://{address}:{metrics}"
        self.members = f"{name}={self.peer}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or start again with the same data; returns at once."""
        assert self._process is None, f"{self.name} runs"
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        tls = []
        if self.tls is not None:
            tls = [
                f"--cert-file={self.tls.cert}",
                f"--key-file={self.tls.key}",
                f"--trusted-ca-file={self.tls.ca}",
                "--client-cert-auth",
            ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self.launch,
                    ETCD,
                    f"--name={self.name}",
                    f"--data-dir={self.directory / 'data'}",
                    f"--listen-client-urls={self.endpoint}",
                    f"--advertise-client-urls={self.endpoint}",
                    f"--listen-peer-urls={self.peer}",
                    f"--initial-advertise-peer-urls={self.peer}",
                    f"--initial-cluster={self.members}",
                    f"--listen-metrics-urls={self.metrics}",
                    f"--max-txn-ops={MAX_TXN_OPS}",
                    "--logger=zap",
                    *tls,
                    *self.flags,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"]},
            )

    @property
    def running(self) -> bool:
        return self._process is not None

    def healthy(self) -> bool:
        """Whether it serves and its cluster has a leader."""
        try:
            with urllib.request.urlopen(f"{self.metrics}/health", timeout=2) as reply:
                return reply.status == 200 and b'"true"' in reply.read()
        except (urllib.error.URLError, OSError):
            return False

    def wait_healthy(self, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not self.healthy():
            assert self._process is not None, f"{self.name} was stopped"
            code = self._process.poll()
            assert code is None, f"{self.name} ended with {code}: {self.log()[-2000:]}"
            assert time.monotonic() < end, f"{self.name} is not healthy: {self.log()[-2000:]}"
            time.sleep(0.05)

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def is_leader(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.metrics}/metrics", timeout=2) as reply:
                return b"\netcd_server_is_leader 1" in reply.read()
        except (urllib.error.URLError, OSError):
            return False

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a power cut: nothing is said or written any more."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In good order, however it was left."""
        if self._process is not None:
            self.thaw()
            self._end(signal.SIGTERM)

    def forget(self) -> None:
        """Its data are gone."""
        shutil.rmtree(self.directory / "data")

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        self._signal(number)
        process, self._process = self._process, None
        assert process is not None
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class EtcdCluster:
    """``size`` members that form one cluster; running from ``with`` on."""

    def __init__(
        self,
        directory: Path,
        size: int = 1,
        *,
        tls: TlsFiles | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        self.members = [
            EtcdMember(f"etcd{number}", directory / f"etcd{number}", tls=tls, flags=flags)
            for number in range(size)
        ]
        for member in self.members:
            member.members = ",".join(f"{one.name}={one.peer}" for one in self.members)

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def at(self, endpoint: str) -> EtcdMember:
        return next(member for member in self.members if member.endpoint == endpoint)

    def leader(self) -> EtcdMember:
        end = time.monotonic() + 30
        while True:
            for member in self.members:
                if member.running and member.is_leader():
                    return member
            assert time.monotonic() < end, "no leader"
            time.sleep(0.05)

    def start(self) -> None:
        """Start whoever does not run, and wait until all are healthy."""
        for member in self.members:
            if not member.running:
                member.start()
        for member in self.members:
            member.wait_healthy()

    def stop(self) -> None:
        for member in self.members:
            member.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @contextlib.contextmanager
    def frozen(self, member: EtcdMember) -> Iterator[None]:
        member.freeze()
        try:
            yield
        finally:
            member.thaw()
