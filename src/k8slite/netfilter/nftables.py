"""Portal rules in nftables one by one, over netlink (nf_tables.h), in iptables-nft's own form.

``iptables-nft-restore`` reads a whole chain to find the rule it shall delete. The kernel does not
need that: a rule has a handle, and a transaction names handles. So a change among N rules costs
what it changes (and the kernel a copy of the chain's table of rules). The transaction names the
generation that it was made for; when anybody else changed anything meanwhile, the kernel refuses.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping

from k8slite.netfilter.nft import expressions as x
from k8slite.netfilter.nft import netlink as nl
from k8slite.netfilter.nft.netlink import Link, Message, attribute, attributes, text, word
from k8slite.netfilter.portals import Change
from k8slite.netfilter.rules import COMMENT_BYTES, Rule

_HANDLE, _EXPRESSIONS = 3, 4  # NFTA_RULE_*

#: Above so many edits one restore of the whole set is the better tool.
MOST_EDITS = 256

Handles = dict[Rule, int]


class Nftables:
    """nftables in this network namespace; belongs on one thread. Raises Unsupported where the
    kernel has none."""

    def __init__(self) -> None:
        self._link = Link()

    def close(self) -> None:
        self._link.close()

    def generation(self) -> bytes:
        """A number that grows with every change of nftables in this network namespace."""
        return self._link.generation()

    def handles(self, rules: Mapping[str, Iterable[Rule]]) -> Handles:
        """The handle of each of ``rules`` (by chain) that the kernel has in iptables-nft's form."""
        found: Handles = {}
        for chain, wanted in rules.items():
            known = {_expressions(rule): rule for rule in wanted}
            for listed in self._link.dump(nl.GETRULE, nl.IPV4, _place(chain)):
                parts = dict(attributes(listed))
                rule = known.get(_without_counter(parts.get(_EXPRESSIONS, b"")))
                if rule is not None:
                    found[rule] = int.from_bytes(parts[_HANDLE], "big")
        return found

    def apply(self, change: Change, handles: Handles, generation: bytes) -> None:
        """Make ``change`` in one transaction and keep ``handles`` up to date. Raises Drifted when
        the kernel is not at ``generation`` any more; then nothing was changed."""
        messages = []
        for rule in change.remove:
            body = _place(rule.chain) + attribute(_HANDLE, handles[rule].to_bytes(8, "big"))
            messages.append(Message(nl.DELRULE, nl.IPV4, 0, body, str(rule)))
        flags = nl.CREATE | nl.APPEND | nl.ECHO
        for rule in change.add:
            body = _place(rule.chain) + attribute(_EXPRESSIONS, _expressions(rule, counter=True))
            messages.append(Message(nl.NEWRULE, nl.IPV4, flags, body, str(rule)))
        echoes = self._link.commit(messages, generation)
        for rule in change.remove:
            del handles[rule]
        for at, rule in enumerate(change.add, len(change.remove)):
            handles[rule] = int.from_bytes(dict(attributes(echoes[at]))[_HANDLE], "big")

    def delete_table(self, table: str, generation: bytes) -> None:
        """Delete the table ``ip <table>``, unless something changed since ``generation``."""
        name = attribute(1, text(table))
        self._link.commit([Message(nl.DELTABLE, nl.IPV4, 0, name, f"table {table}")], generation)


def following(generation: bytes) -> bytes:
    """The generation after one change (the kernel passes over zero)."""
    number = (int.from_bytes(generation, "big") + 1) % (1 << 32) or 1
    return number.to_bytes(4, "big")


def _place(chain: str) -> bytes:
    return attribute(1, text("nat")) + attribute(2, text(chain))


_LOAD_ADDRESS = x.network(16, 4, 1)  # the destination
_PROTOCOLS = {"tcp": x.equals(1, b"\x06"), "udp": x.equals(1, b"\x11")}


def _expressions(rule: Rule, *, counter: bool = False) -> bytes:
    """The rule as iptables-nft writes it, in the order and form in which the kernel lists it."""
    comment = rule.comment.encode()[: COMMENT_BYTES - 1].ljust(COMMENT_BYTES, b"\0")
    return b"".join(
        (
            x.protocol(1),
            _PROTOCOLS[rule.protocol],
            _LOAD_ADDRESS + x.equals(1, socket.inet_aton(rule.address)) if rule.address else b"",
            x.expression("match", (1, b"comment\0"), (2, word(0)), (3, comment)),
            x.target_port(1),
            x.equals(1, struct.pack("!H", rule.port)),
            x.counter() if counter else b"",
            _target(rule),
        )
    )


def _target(rule: Rule) -> bytes:
    """REDIRECT of revision 0 (struct nf_nat_ipv4_multi_range_compat) or DNAT of revision 2
    (struct nf_nat_range2), padded as xtables wants it."""
    address, _, port = rule.to.rpartition(":")
    ports = struct.pack("!HH", int(port), int(port))
    if rule.target == "REDIRECT":
        info = struct.pack("=IIII", 1, 2, 0, 0) + ports + bytes(4)
        return x.expression("target", (1, b"REDIRECT\0"), (2, word(0)), (3, info))
    ip = socket.inet_aton(address).ljust(16, b"\0")
    info = struct.pack("=I", 3) + ip + ip + ports + bytes(8)
    return x.expression("target", (1, b"DNAT\0"), (2, word(2)), (3, info))


def _without_counter(expressions: bytes) -> bytes:
    return b"".join(
        attribute(1, body)
        for _, body in attributes(expressions)
        if not body.startswith(b"\x0c\x00\x01\x00counter\0")
    )
