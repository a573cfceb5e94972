"""What netfilter must let pass, and what it must disguise, for the pod network. Pure.

- ``K8SLITE-FORWARD``, first in FORWARD: what comes from a pod or goes to one passes. Docker's
  policy there is DROP, its isolation chains part networks, and br_netfilter sends even traffic
  between two pods of one bridge through it. Nothing is forwarded to a master's port without
  authentication: masqueraded, a pod or any other container would pass there for this node.
- ``K8SLITE-MASQ``, first in nat's POSTROUTING: what leaves the pod network takes the node's
  address; within the pod network everybody sees a pod's own. ACCEPT ends the matter for traffic
  that leaves the bridge for another node: a Docker network of an earlier day may masquerade it.

Texts are those of iptables-save, which both variants of the tools print alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

FORWARD = "K8SLITE-FORWARD"
MASQUERADE = "K8SLITE-MASQ"


class Chain(NamedTuple):
    """A chain of ours in ``table``, jumped to first from ``builtin``; ``rules`` as printed."""

    name: str
    table: str
    builtin: str
    rules: tuple[str, ...]

    @property
    def jump(self) -> str:
        return f"-A {self.builtin} -j {self.name}"


def forward(net: str, masters: Sequence[str] = (), port: int = 0, mark: int = 0) -> Chain:
    """Let pass what comes from or goes to ``net`` (as 172.16.0.0/16), and nothing to ``port`` of
    ``masters`` (addresses). Connections with the bits ``mark`` (0: none) pass too: they came to a
    portal, and its endpoint may be no pod."""
    refused = (
        f"-A {FORWARD} -d {master}/32 -p tcp -m tcp --dport {port} "
        "-j REJECT --reject-with tcp-reset"
        for master in masters
        if ":" not in master  # pods speak IPv4
    )
    passed = (f"-A {FORWARD} -s {net} -j ACCEPT", f"-A {FORWARD} -d {net} -j ACCEPT")
    marked = (f"-A {FORWARD} -m connmark --mark {mark:#x}/{mark:#x} -j ACCEPT",) if mark else ()
    return Chain(FORWARD, "filter", "FORWARD", (*refused, *passed, *marked))


def masquerade(net: str, bridge: str) -> Chain:
    """Masquerade what leaves ``net``; ``bridge`` is the interface of this node's pods."""
    rules = (
        f"-A {MASQUERADE} -s {net} -d {net} ! -o {bridge} -j ACCEPT",
        f"-A {MASQUERADE} -s {net} ! -d {net} -j MASQUERADE",
    )
    return Chain(MASQUERADE, "nat", "POSTROUTING", rules)


def edits(listing: str, chain: Chain) -> list[str]:
    """Lines for ``iptables-restore --noflush`` that make ``chain`` right in a table that lists as
    ``listing`` (iptables-save); none when it is."""
    lines = listing.splitlines()
    made: list[str] = []
    declared = any(line.startswith(f":{chain.name} ") for line in lines)
    present = tuple(line for line in lines if line.startswith(f"-A {chain.name} "))
    if not declared or present != chain.rules:
        made += [f":{chain.name} - [0:0]", *chain.rules]  # makes it, or empties it first
    callers = [line for line in lines if line.startswith(f"-A {chain.builtin} ")]
    if callers[:1] != [chain.jump] or callers.count(chain.jump) != 1:
        made += [f"-D {chain.jump[3:]}"] * callers.count(chain.jump)
        made.append(f"-I {chain.builtin} 1 -j {chain.name}")
    return made


def removal(listing: str, chain: Chain) -> list[str]:
    """Lines that take the chain and every jump to it away; none when it is not there."""
    lines = listing.splitlines()
    made = [
        f"-D {line[3:]}"
        for line in lines
        if line.startswith("-A ") and line.split()[-2:] == ["-j", chain.name]
    ]
    if any(line.startswith(f":{chain.name} ") for line in lines):
        made += [f":{chain.name} - [0:0]", f"-X {chain.name}"]
    return made


def script(table: str, lines: Iterable[str]) -> str:
    """The text that iptables-restore reads."""
    return "\n".join((f"*{table}", *lines, "COMMIT", ""))


def bare(listing: str) -> bool:
    """Whether the table holds nothing: built-in chains that let everything pass, no rule."""
    lines: Sequence[str] = listing.splitlines()
    policies = {line.split()[1] for line in lines if line.startswith(":")}
    return policies <= {"ACCEPT"} and not any(line.startswith("-A ") for line in lines)
