"""The article's portal rules: chains of the table ``nat``, as ``iptables-save`` prints them. Pure.

The form is the article's and kube-proxy's of those days (``iptables-save`` at the end of the
article; node ports: v0.18, pkg/proxy/userspace/proxier.go). A service port has a pair of rules for
each of its addresses, and one for its node port:

- ``KUBE-PORTALS-CONTAINER``, jumped to from PREROUTING, redirects what comes from containers and
  from the network to the proxy's listener on the interface it came in by;
- ``KUBE-PORTALS-HOST``, jumped to from OUTPUT, sends what the host itself asks for to the
  listener at the node's address;
- ``KUBE-NODEPORT-CONTAINER`` and ``KUBE-NODEPORT-HOST`` do the same for what is addressed to any
  address of this host; they come last in the built-in chains. They match so broadly that they must
  come after the portals, and they are there only while there is a node port: the listing of a
  cluster without any is the article's.

Nothing here touches a kernel. ``netfilter.iptables`` and ``netfilter.restore`` do.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import NamedTuple

CONTAINER = "KUBE-PORTALS-CONTAINER"
HOST = "KUBE-PORTALS-HOST"
NODEPORT_CONTAINER = "KUBE-NODEPORT-CONTAINER"
NODEPORT_HOST = "KUBE-NODEPORT-HOST"

#: Chains that redirect; the others rewrite to an address.
_REDIRECTING = (CONTAINER, NODEPORT_CONTAINER)

#: What kube-proxy says beside its jumps to the chains of node ports.
NODEPORT_COMMENT = "handle service NodePorts; NOTE: this must be the last rule in the chain"


class Jump(NamedTuple):
    """The rule of a built-in chain that leads to ``chain``: the first there, or the last."""

    builtin: str
    chain: str
    node_ports: bool = False

    @property
    def body(self) -> str:
        """The rule as ``iptables-save`` prints it, without ``-A``."""
        matches = ""
        if self.node_ports:
            matches = f'-m addrtype --dst-type LOCAL -m comment --comment "{NODEPORT_COMMENT}" '
        return f"{self.builtin} {matches}-j {self.chain}"


#: The jump to each chain of ours.
JUMPS: Mapping[str, Jump] = {
    CONTAINER: Jump("PREROUTING", CONTAINER),
    HOST: Jump("OUTPUT", HOST),
    NODEPORT_CONTAINER: Jump("PREROUTING", NODEPORT_CONTAINER, node_ports=True),
    NODEPORT_HOST: Jump("OUTPUT", NODEPORT_HOST, node_ports=True),
}
CHAINS = tuple(JUMPS)


def stands(chain: str, rules: Collection[Rule]) -> bool:
    """Whether a chain with these rules, and the jump to it, are there at all."""
    return bool(rules) or not JUMPS[chain].node_ports


#: What the comment match holds, its closing NUL included (xt_comment.h, XT_MAX_COMMENT_LEN).
COMMENT_BYTES = 256


class Rule(NamedTuple):
    """One rule of one of our chains. ``to`` is a port for REDIRECT, address:port for DNAT.
    ``address`` is "" in the chains of node ports."""

    chain: str
    address: str
    protocol: str  # tcp or udp
    comment: str
    port: int
    to: str

    @property
    def target(self) -> str:
        return "REDIRECT" if self.chain in _REDIRECTING else "DNAT"

    @property
    def body(self) -> str:
        """The rule as ``iptables-save`` prints it, without ``-A chain``."""
        option = "--to-ports" if self.chain in _REDIRECTING else "--to-destination"
        destination = f"-d {self.address}/32 " if self.address else ""
        return (
            f"{destination}-p {self.protocol} -m comment --comment "
            f'"{self.comment}" -m {self.protocol} --dport {self.port} '
            f"-j {self.target} {option} {self.to}"
        )

    def __str__(self) -> str:
        return f"-A {self.chain} {self.body}"


def parse(line: str) -> Rule | None:
    """The inverse of ``str(rule)``; None when the line is no rule of our form."""
    try:
        words = shlex.split(line)
    except ValueError:
        return None
    match words:
        case ["-A", chain, "-d", address, *rest] if chain in (CONTAINER, HOST):
            pass
        case ["-A", chain, *rest] if chain in (NODEPORT_CONTAINER, NODEPORT_HOST):
            address = ""
        case _:
            return None
    match rest:
        case [
            "-p", protocol, "-m", "comment", "--comment", comment,
            "-m", module, "--dport", port, "-j", _, _, to,
        ] if port.isdecimal() and module == protocol:  # fmt: skip
            rule = Rule(chain, address.removesuffix("/32"), protocol, comment, int(port), to)
            return rule if str(rule) == line.strip() else None
    return None


def rules_of(
    name: str, protocol: str, address: str, port: int, listener: int, node_ip: str
) -> tuple[Rule, Rule]:
    """The pair of rules that bring what asks for ``address`` ("": any of this host) and ``port``
    to the local port ``listener``. ``name`` is ``namespace/service:portname``."""
    head = (address, protocol, name[: COMMENT_BYTES - 1], port)
    chains = (CONTAINER, HOST) if address else (NODEPORT_CONTAINER, NODEPORT_HOST)
    return (
        Rule(chains[0], *head, str(listener)),
        Rule(chains[1], *head, f"{node_ip}:{listener}"),
    )
