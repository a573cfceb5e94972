"""A Docker engine of our own in a network namespace: its socket, data and life are the test's."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.network import Namespace

BUSYBOX = "busybox:1"
_CLONE_NEWNET = 0x40000000
_APPLETS = (
    "sh", "ash", "cat", "chmod", "date", "dd", "echo", "env", "false", "grep", "head", "hostname",
    "httpd", "id", "ip", "kill", "ls", "mkdir", "mount", "nc", "ping", "ps", "pwd", "readlink",
    "rm", "sed", "seq", "sleep", "stat", "sync", "tail", "test", "touch", "tr", "true", "uname",
    "usleep", "wc", "wget", "yes",
)  # fmt: skip


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """This thread (and those it starts) in the namespace's network: pods can be reached."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> int:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
        return handle

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(enter(namespace.path))
        yield
    finally:
        libc.setns(home, _CLONE_NEWNET)
        os.close(home)


class DockerHost:
    """``dockerd`` in ``namespace``; everything it keeps lies under ``directory``."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.namespace = namespace
        self.directory = directory
        self.socket = directory / "docker.sock"
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            ids = self.docker("ps", "-aq").split()
            if ids:
                self.docker("rm", "-f", *ids)
        self.stop()
        for mount in sorted(_mounts_below(self.directory), reverse=True):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        where = self.directory
        self._daemon = self.namespace.start(
            *("dockerd", "--host", self.url, "--data-root", f"{where}/data"),
            *("--exec-root", f"{where}/exec", "--pidfile", f"{where}/docker.pid"),
            *("--shutdown-timeout", "1"),
            log=where / "dockerd.log",
        )
        deadline = time.monotonic() + 60
        while True:
            answer = subprocess.run(
                ["docker", "-H", self.url, "info"], capture_output=True, check=False
            )
            if answer.returncode == 0:
                return
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"dockerd did not start: see {where}/dockerd.log")
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._daemon is None:
            return
        self._daemon.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._daemon.wait(30)
        if self._daemon.poll() is None:
            self._daemon.kill()
            self._daemon.wait()
        self._daemon = None

    def freeze(self) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGCONT)

    def docker(self, *words: str, stdin: bytes | None = None) -> str:
        """One command of Docker's own client; its output."""
        done = subprocess.run(
            ["docker", "-H", self.url, *words],
            input=stdin, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"docker {' '.join(words)}: {done.stderr.decode().strip()}")
        return done.stdout.decode().strip()

    def import_busybox(self, *names: str) -> None:
        """An image of Debian's busybox-static under each name, with no registry."""
        archive = busybox_tar()
        for name in names or (BUSYBOX,):
            self.docker("import", "-", name, stdin=archive)


def busybox_tar() -> bytes:
    """A root file system of one static program and its links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add("/bin/busybox", "bin/busybox")
        for name in _APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for folder in ("tmp", "etc", "var"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        users = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
        for name, data in (("etc/passwd", users), ("etc/group", b"root:x:0:\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _mounts_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return [point for point in points if point.startswith(f"{directory}/")]
