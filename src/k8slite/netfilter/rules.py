"""The portal rules that the host should have: a pure set with a memory of what changed.

The form is the article's and kube-proxy v0.17's (``iptables-save`` at the end of the article).
A service port has a pair of rules for each of its addresses, both in the table ``nat``:

- ``KUBE-PORTALS-CONTAINER``, jumped to from PREROUTING, redirects what comes from containers and
  from the network to the proxy's listener on the interface it came in by;
- ``KUBE-PORTALS-HOST``, jumped to from OUTPUT, sends what the host itself asks for to the
  listener at the node's address.

Nothing here touches a kernel. ``netfilter.iptables`` and ``netfilter.nft`` do.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

CONTAINER = "KUBE-PORTALS-CONTAINER"
HOST = "KUBE-PORTALS-HOST"

#: The built-in chain that jumps to each chain of ours.
JUMPS: Mapping[str, str] = {CONTAINER: "PREROUTING", HOST: "OUTPUT"}
CHAINS = tuple(JUMPS)

#: What the comment match holds, its closing NUL included (xt_comment.h, XT_MAX_COMMENT_LEN).
COMMENT_BYTES = 256


class Rule(NamedTuple):
    """One rule of one of our chains. ``to`` is a port for REDIRECT, address:port for DNAT."""

    chain: str
    address: str
    protocol: str  # tcp or udp
    comment: str
    port: int
    to: str

    @property
    def target(self) -> str:
        return "REDIRECT" if self.chain == CONTAINER else "DNAT"

    @property
    def body(self) -> str:
        """The rule as ``iptables-save`` prints it, without ``-A chain``."""
        option = "--to-ports" if self.chain == CONTAINER else "--to-destination"
        return (
            f"-d {self.address}/32 -p {self.protocol} -m comment --comment "
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
        case [
            "-A", (("KUBE-PORTALS-CONTAINER" | "KUBE-PORTALS-HOST") as chain),
            "-d", address, "-p", protocol, "-m", "comment", "--comment", comment,
            "-m", module, "--dport", port, "-j", _, _, to,
        ] if port.isdecimal() and module == protocol:  # fmt: skip
            rule = Rule(chain, address.removesuffix("/32"), protocol, comment, int(port), to)
            return rule if str(rule) == line.strip() else None
    return None


@dataclass(frozen=True, slots=True)
class Portal:
    """One port of one service, and the local port that its listener got.

    ``name`` is ``namespace/service:portname`` (the port name may be empty: the colon stays, as in
    the article). ``addresses`` are the portal address and the public ones, IPv4.
    """

    name: str
    protocol: str
    addresses: tuple[str, ...]
    port: int
    listener: int


class Claim(NamedTuple):
    """What only one portal may hold."""

    address: str
    protocol: str
    port: int


def rules_of(portal: Portal, address: str, node_ip: str) -> tuple[Rule, Rule]:
    """The pair of rules for one address of a portal."""
    head = (address, portal.protocol, portal.name[: COMMENT_BYTES - 1], portal.port)
    return (
        Rule(CONTAINER, *head, str(portal.listener)),
        Rule(HOST, *head, f"{node_ip}:{portal.listener}"),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What turns the rules of before into those of now."""

    remove: tuple[Rule, ...] = ()
    add: tuple[Rule, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.remove or self.add)


class DesiredRules:
    """All portal rules a node should have; every operation costs as much as what it changes.

    Two services may ask for the same address, protocol and port (two owners of one public
    address). The one that came first keeps it and the others wait; when it goes, the next in
    order of arrival gets it. ``put`` and ``remove`` say who lost to whom, because silence here
    would look like a broken network.
    """

    def __init__(self, node_ip: str) -> None:
        self.node_ip = node_ip
        self._portals: dict[str, Portal] = {}
        # First in each queue is the owner. Dicts keep the order of arrival.
        self._claims: dict[Claim, dict[str, None]] = {}
        self._rules: dict[Claim, tuple[Rule, Rule]] = {}
        self._removed: dict[Rule, None] = {}
        self._added: dict[Rule, None] = {}

    def __len__(self) -> int:
        return 2 * len(self._rules)

    def put(self, portal: Portal) -> dict[Claim, str]:
        """Want this portal. Returns what it may not have: the claim and the name of its owner."""
        old = self._portals.get(portal.name)
        if old != portal:
            self._portals[portal.name] = portal
            now = set(_claims(portal))
            for claim in _claims(old) if old else ():
                if claim not in now:
                    self._release(claim, portal.name)
            for claim in _claims(portal):
                self._claims.setdefault(claim, {}).setdefault(portal.name)
                self._refresh(claim)
        owners = {claim: next(iter(self._claims[claim])) for claim in _claims(portal)}
        return {claim: owner for claim, owner in owners.items() if owner != portal.name}

    def remove(self, name: str) -> None:
        """Want the portal of this name no longer. An unknown name is no error."""
        portal = self._portals.pop(name, None)
        for claim in _claims(portal) if portal else ():
            self._release(claim, name)

    def all(self) -> dict[str, tuple[Rule, ...]]:
        """The whole desired set, chain by chain."""
        pairs = self._rules.values()
        return {CONTAINER: tuple(p[0] for p in pairs), HOST: tuple(p[1] for p in pairs)}

    def take(self) -> Change:
        """What changed since the last ``take``; what came and went in between is left out."""
        change = Change(tuple(self._removed), tuple(self._added))
        self._removed, self._added = {}, {}
        return change

    def _release(self, claim: Claim, name: str) -> None:
        queue = self._claims.get(claim, {})
        queue.pop(name, None)
        if not queue:
            self._claims.pop(claim, None)
        self._refresh(claim)

    def _refresh(self, claim: Claim) -> None:
        """Make the rules of a claim those of its owner and note the difference."""
        queue = self._claims.get(claim)
        old = self._rules.get(claim, ())
        new: tuple[Rule, ...] = ()
        if queue:
            pair = rules_of(self._portals[next(iter(queue))], claim.address, self.node_ip)
            new = self._rules[claim] = pair
        else:
            self._rules.pop(claim, None)
        if old == new:
            return
        for rule in old:
            if rule in self._added:
                del self._added[rule]
            else:
                self._removed[rule] = None
        for rule in new:
            if rule in self._removed:
                del self._removed[rule]
            else:
                self._added[rule] = None


def _claims(portal: Portal) -> Iterable[Claim]:
    return dict.fromkeys(Claim(a, portal.protocol, portal.port) for a in portal.addresses)


def difference(desired: Iterable[Rule], present: Iterable[Rule]) -> Change:
    """What makes ``present`` rules ``desired`` ones. A rule present twice is removed once."""
    wanted = dict.fromkeys(desired)
    seen: set[Rule] = set()
    remove = []
    for rule in present:
        if rule in wanted and rule not in seen:
            seen.add(rule)
        else:
            remove.append(rule)
    return Change(tuple(remove), tuple(rule for rule in wanted if rule not in seen))
