"""What a host is, before anything is changed there: a read-only ``sh`` script and its reader. Pure.

The script needs no more than POSIX tools; run as root it can also tell who holds a port. Its output
is sections of ``@@name`` lines followed by what the host says, raw; all understanding is here.
"""

from __future__ import annotations

import ipaddress
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PREFIX = "/opt/k8slite"
CONFIG = "/etc/k8slite"
RECORD = f"{CONFIG}/cluster.json"
DONE = f"{CONFIG}/plan.sha256"
DATA = "/var/lib/k8slite"

SCRIPT = f"""\
LC_ALL=C; export LC_ALL
PATH="$PATH:/usr/sbin:/sbin:/usr/local/sbin:/usr/local/bin"
s() {{ echo "@@$1"; }}
s uid; id -u
s now; date +%s
s arch; uname -m
s kernel; uname -r
s hostname; cat /proc/sys/kernel/hostname
s libc; getconf GNU_LIBC_VERSION 2>/dev/null || ldd --version 2>&1 | head -n 1
s init; if [ -d /run/systemd/system ]; then echo systemd; else echo sysv; fi
s tools; for t in tar gzip iptables setsid mkdir ln rm cat exabgp; do
command -v $t >/dev/null || echo $t; done
s dockerd; command -v dockerd >/dev/null && dockerd --version
s docker; if [ -S /var/run/docker.sock ]; then
if command -v docker >/dev/null; then
docker -H unix:///var/run/docker.sock version --format '{{{{.Server.Version}}}}' 2>&1 | head -n 1
else echo answers; fi; fi
s daemonjson; cat /etc/docker/daemon.json 2>/dev/null; echo
s routes; cat /proc/net/route
s addresses; cat /proc/net/fib_trie
s disk; for d in /opt /var/lib /var/lib/docker; do w=$d
while [ ! -d "$w" ]; do w=$(dirname "$w"); done
echo "$d $(df -Pk "$w" | tail -n 1)"; done
s tcp; cat /proc/net/tcp /proc/net/tcp6 2>/dev/null
s udp; cat /proc/net/udp /proc/net/udp6 2>/dev/null
s sockets; ls -l /proc/[0-9]*/fd 2>/dev/null | grep -e '^/proc' -e 'socket:'
s names; grep -H . /proc/[0-9]*/comm 2>/dev/null
s exes; ls -l /proc/[0-9]*/exe 2>/dev/null | grep {PREFIX}/
s runtime; readlink {PREFIX}/current
s runtimes; ls {PREFIX} 2>/dev/null
s record; cat {RECORD} 2>/dev/null; echo
s done; cat {DONE} 2>/dev/null
s data; ls {DATA} 2>/dev/null
s end
"""

#: Links of the cluster's own; their routes clash with nothing.
OUR_LINKS = frozenset(("k8slite0", "k8slite-vx"))


@dataclass(frozen=True, slots=True)
class Listener:
    """Somebody who has a port. ``address`` is ``0.0.0.0`` for any; ``who`` as ``nginx (pid 7)``."""

    protocol: str
    port: int
    address: str = "0.0.0.0"
    who: str = ""
    ours: bool = False  # runs from our own folder


@dataclass(frozen=True, slots=True)
class Route:
    network: str  # CIDR
    link: str


@dataclass(frozen=True, slots=True)
class Record:
    """``/etc/k8slite/cluster.json``: which cluster this host is in."""

    id: str
    masters: tuple[str, ...]
    nodes: tuple[dict[str, str], ...] = ()  # user, address, roles
    networks: tuple[tuple[str, str], ...] = ()  # PORTAL_NET and FLANNEL_NET, by name
    installer: str = ""  # address of the machine that installed, where that is no node


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the script found. Sizes in bytes, times in seconds."""

    uid: int = -1
    now: float = 0.0
    arch: str = ""
    kernel: str = ""
    hostname: str = ""
    libc: str = ""  # as 2.36; "" where it is not glibc
    libc_said: str = ""
    systemd: bool = False
    missing_tools: tuple[str, ...] = ()  # exabgp too, which few need
    dockerd: str = ""  # version of the installed daemon
    docker: str = ""  # version of the running one
    docker_said: str = ""  # why it does not answer
    daemon_json: str = ""
    routes: tuple[Route, ...] = ()
    default_route: bool = False
    addresses: tuple[str, ...] = ()
    free: dict[str, int] = field(default_factory=dict)  # folder → bytes
    listeners: tuple[Listener, ...] = ()
    ours_running: bool = False
    runtime: str = ""  # digest of the installed runtime
    runtimes: tuple[str, ...] = ()
    record: Record | None = None
    record_damaged: bool = False
    done: str = ""  # digest of the plan that was last carried out whole
    data: tuple[str, ...] = ()


def parse(text: str) -> HostFacts:
    """The script's output. Raises ValueError when it broke off."""
    parts = _sections(text)
    if "end" not in parts:
        raise ValueError("the host's answer broke off")

    def first(name: str) -> str:
        return next((line.strip() for line in parts.get(name, ()) if line.strip()), "")

    libc = re.search(r"(?:glibc|GNU libc|GLIBC)\D*(\d+\.\d+)", first("libc"))
    docker_said = first("docker")
    version = _version(docker_said) if re.match(r"v?\d", docker_said) else ""
    record, damaged = _record("\n".join(parts.get("record", ())))
    routes, default = _routes(parts.get("routes", ()))
    running = (re.search(r"/proc/(\d+)/exe", line) for line in parts.get("exes", ()))
    exes = {match[1] for match in running if match}
    return HostFacts(
        uid=_number(first("uid"), -1),
        now=float(_number(first("now"), 0)),
        arch=first("arch"),
        kernel=first("kernel"),
        hostname=first("hostname"),
        libc=libc[1] if libc else "",
        libc_said=first("libc"),
        systemd=first("init") == "systemd",
        missing_tools=tuple(line.strip() for line in parts.get("tools", ()) if line.strip()),
        dockerd=_version(first("dockerd")),
        docker=version or ("unknown" if docker_said == "answers" else ""),
        docker_said="" if version else docker_said,
        daemon_json="\n".join(parts.get("daemonjson", ())).strip(),
        routes=routes,
        default_route=default,
        addresses=_addresses(parts.get("addresses", ())),
        free=_disk(parts.get("disk", ())),
        listeners=_listeners(parts, exes),
        ours_running=bool(exes),
        runtime=first("runtime"),
        runtimes=tuple(line.strip() for line in parts.get("runtimes", ())),
        record=record,
        record_damaged=damaged,
        done=first("done"),
        data=tuple(line.strip() for line in parts.get("data", ()) if line.strip()),
    )


def _sections(text: str) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("@@"):
            current = parts.setdefault(line[2:], [])
        else:
            current.append(line)
    return parts


def _number(text: str, otherwise: int) -> int:
    return int(text) if re.fullmatch(r"\d{1,15}", text) else otherwise


def _version(text: str) -> str:
    match = re.search(r"(\d+\.\d+[0-9A-Za-z.~+-]*)", text)
    return match[1] if match else ""


def _record(text: str) -> tuple[Record | None, bool]:
    """The record, and whether there is one that cannot be read."""
    if not text.strip():
        return None, False
    try:
        document = json.loads(text)
        nodes = tuple({str(k): str(v) for k, v in node.items()} for node in document["nodes"])
        networks = {str(k): str(v) for k, v in (document.get("networks") or {}).items()}
        masters = tuple(map(str, document["masters"]))
        installer = str(document.get("installer") or "")
        found = Record(str(document["id"]), masters, nodes, tuple(networks.items()), installer)
        return found, False
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, True


def _routes(lines: list[str] | tuple[()]) -> tuple[tuple[Route, ...], bool]:
    """Routes of ``/proc/net/route`` and whether there is a default one."""
    routes, default = [], False
    for line in lines:
        words = line.split()
        if len(words) < 8 or words[0] == "Iface":
            continue
        try:
            target, mask = int(words[1], 16), int(words[7], 16)
        except ValueError:
            continue
        if not mask:
            default = True
        else:
            address = ipaddress.IPv4Address(struct.pack("<I", target))
            routes.append(Route(f"{address}/{mask.bit_count()}", words[0]))
    return tuple(dict.fromkeys(routes)), default


def _addresses(lines: list[str] | tuple[()]) -> tuple[str, ...]:
    """The host's own addresses, from ``/proc/net/fib_trie``."""
    found: dict[str, None] = {}
    last = ""
    for line in lines:
        if match := re.search(r"\|-- (\S+)", line):
            last = match[1]
        elif "/32 host LOCAL" in line and not last.startswith("127."):
            found[last] = None
    return tuple(found)


def _disk(lines: list[str] | tuple[()]) -> dict[str, int]:
    """Free bytes by folder: each line is a folder and what ``df -Pk`` says of its file system."""
    rows = [line.split() for line in lines]
    return {row[0]: int(row[4]) * 1024 for row in rows if len(row) >= 7 and row[4].isdigit()}


def _listeners(parts: dict[str, list[str]], ours: set[str]) -> tuple[Listener, ...]:
    owners = _owners(parts.get("sockets", []))
    names: dict[str, str] = {}
    for line in parts.get("names", ()):
        path, _, name = line.partition(":")
        names[path.split("/")[2] if path.count("/") >= 2 else ""] = name
    found: dict[Listener, None] = {}
    for protocol, state in (("tcp", "0A"), ("udp", "07")):
        for line in parts.get(protocol, ()):
            words = line.split()
            if len(words) < 10 or words[3] != state or ":" not in words[1]:
                continue
            address, _, port = words[1].rpartition(":")
            pid = owners.get(words[9], "")
            who = f"{names.get(pid, 'pid')} (pid {pid})" if pid else ""
            listener = Listener(protocol, int(port, 16), _text(address), who, pid in ours)
            found[listener] = None
    return tuple(found)


def _text(address: str) -> str:
    """An address of /proc/net: words of 32 bits, each in the machine's order."""
    try:
        words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
        raw = b"".join(struct.pack("<I", word) for word in words)
        text = str(ipaddress.ip_address(raw))
    except ValueError:
        return address
    return "0.0.0.0" if text == "::" else text


def _owners(lines: list[str]) -> dict[str, str]:
    """Socket's inode → pid."""
    found: dict[str, str] = {}
    pid = ""
    for line in lines:
        if match := re.match(r"/proc/(\d+)/fd:", line):
            pid = match[1]
        elif match := re.search(r"socket:\[(\d+)\]", line):
            found.setdefault(match[1], pid)
    return found


def record_text(
    identity: str,
    nodes: list[dict[str, Any]],
    networks: Mapping[str, str] | None = None,
    installer: str = "",
) -> str:
    """The text of ``cluster.json``."""
    document = {
        "id": identity,
        "masters": [node["address"] for node in nodes if "a" in node["roles"]],
        "nodes": nodes,
        "networks": dict(networks or {}),
        "installer": installer,
    }
    return json.dumps(document, indent=1) + "\n"
