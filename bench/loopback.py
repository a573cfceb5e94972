"""A node on loopback for the proxy benches: a network namespace, programs in it, their costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.network import Namespace
from tests.proxy.world import NODE

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

_TICKS = os.sysconf("SC_CLK_TCK")


def missing(*programs: str) -> list[str]:
    """Those of the programs that are not installed; ``nginx`` means with its stream module."""
    absent = [name for name in programs if not shutil.which(name)]
    if "nginx" in programs and not STREAM_MODULE.exists():
        absent.append("libnginx-mod-stream")
    return absent


def compiled(source: str, folder: Path) -> str:
    """The program of ``bench/<source>``, compiled into ``folder``."""
    program = folder / Path(source).stem
    path = Path(__file__).with_name(source)
    subprocess.run(["cc", "-O2", "-o", str(program), str(path)], check=True)
    return str(program)


@contextmanager
def node(label: str) -> Iterator[Namespace]:
    """A namespace that is the tests' node, with nothing but loopback."""
    with Namespace(label) as site:
        site.ip("addr", "add", f"{NODE}/24", "dev", "lo")
        site.ip("route", "add", "default", "dev", "lo")
        yield site


@contextmanager
def serving(site: Namespace, module: str, *arguments: str) -> Iterator[int]:
    """``python -m module arguments`` in ``site``: begins when it has said "ready", and ends it by
    the end of its standard input. Gives its process id."""
    proxy = subprocess.Popen(
        site.inside(sys.executable, "-m", module, *arguments),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert proxy.stdout is not None
        while (line := proxy.stdout.readline()) != "ready\n":
            if not line:
                raise RuntimeError(f"{module} ended before it was ready: {proxy.wait()}")
        yield proxy.pid
    finally:
        proxy.communicate("")


def child(pid: int) -> int:
    """The one child of a process (nginx' worker), or itself when it has none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, in seconds; steps of 10 ms."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICKS


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


#: Slabs of which every connection takes some: sockets, their files, what watches and tracks them.
_SLABS = ("TCP", "sock_inode_cache", "filp", "eventpoll_epi", "nf_conntrack")


def kernel_memory() -> int:
    """Bytes that the machine's kernel holds for TCP connections; what others do counts too."""
    total = 0
    for line in Path("/proc/slabinfo").read_text().splitlines():
        name, active, _, size, *_ = [*line.split(), "", "", "", ""]
        if name in _SLABS:
            total += int(active) * int(size)
    return total
