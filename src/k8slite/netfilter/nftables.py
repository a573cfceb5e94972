"""Portal rules in nftables one by one, over netlink (nf_tables.h), in iptables-nft's own form.

``iptables-nft-restore`` reads a whole chain to find the rule it shall delete. The kernel does not
need that: a rule has a handle, and a transaction names handles. So a change among N rules costs
what it changes (and the kernel a copy of the chain's table of rules). The transaction names the
generation that it was made for; when anybody else changed anything meanwhile, the kernel refuses.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping

from k8slite.netfilter.edge import Drifted, NetfilterError, NotPermitted, Unsupported
from k8slite.netfilter.portals import Change
from k8slite.netfilter.rules import COMMENT_BYTES, Rule

_NETLINK_NETFILTER = 12
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _ECHO, _DUMP, _CREATE, _APPEND = 0x1, 0x4, 0x8, 0x300, 0x400, 0x800
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES = 10
_DELTABLE, _NEWRULE, _GETRULE, _DELRULE, _GETGEN = (_NFTABLES << 8 | n for n in (2, 6, 7, 8, 16))
_IPV4 = 2  # NFPROTO_IPV4
_TABLE, _CHAIN, _HANDLE, _EXPRESSIONS = 1, 2, 3, 4  # NFTA_RULE_*

#: Above so many edits one restore of the whole set is the better tool.
MOST_EDITS = 256

Handles = dict[Rule, int]


class Nftables:
    """A netlink socket to nftables in this network namespace; belongs on one thread. Raises
    Unsupported where the kernel has no nftables."""

    def __init__(self) -> None:
        try:
            self._link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._link.bind((0, 0))
            self._link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        except OSError as error:
            raise Unsupported(f"no netfilter netlink here: {error.strerror}") from error
        self._link.setblocking(False)
        self._sequence = 0

    def close(self) -> None:
        self._link.close()

    def generation(self) -> bytes:
        """A number that grows with every change of nftables in this network namespace."""
        self._link.send(self._message(_GETGEN, 0, b""))
        for _, payload in self._answers():
            return payload[8:12]  # the first attribute: NFTA_GEN_ID
        raise Unsupported("this kernel has no nftables")

    def handles(self, rules: Mapping[str, Iterable[Rule]]) -> Handles:
        """The handle of each of ``rules`` (by chain) that the kernel has in iptables-nft's form."""
        found: Handles = {}
        for chain, wanted in rules.items():
            known = {_expressions(rule): rule for rule in wanted}
            place = _attribute(_TABLE, b"nat\0") + _attribute(_CHAIN, chain.encode() + b"\0")
            self._link.send(self._message(_GETRULE, _DUMP, place))
            for kind, payload in self._answers():
                if kind != _NEWRULE:
                    continue
                parts = dict(_attributes(payload[4:]))
                rule = known.get(_without_counter(parts.get(_EXPRESSIONS, b"")))
                if rule is not None:
                    found[rule] = int.from_bytes(parts[_HANDLE], "big")
        return found

    def apply(self, change: Change, handles: Handles, generation: bytes) -> None:
        """Make ``change`` in one transaction and keep ``handles`` up to date. Raises Drifted when
        the kernel is not at ``generation`` any more; then nothing was changed."""
        messages = [self._bracket(_BATCH_BEGIN, _attribute(1, generation))]
        for rule in change.remove:
            place = _place(rule) + _attribute(_HANDLE, handles[rule].to_bytes(8, "big"))
            messages.append(self._message(_DELRULE, _ACK, place))
        pending = {}
        for rule in change.add:
            body = _place(rule) + _attribute(_EXPRESSIONS, _expressions(rule, counter=True))
            messages.append(self._message(_NEWRULE, _CREATE | _APPEND | _ECHO | _ACK, body))
            pending[self._sequence] = rule
        messages.append(self._bracket(_BATCH_END, b""))
        self._link.send(b"".join(messages))
        added: Handles = {}
        for kind, payload, sequence in self._events():
            if kind == _NLMSG_ERROR:
                _raise_for(-struct.unpack_from("=i", payload)[0])
            elif kind == _NEWRULE and sequence in pending:
                parts = dict(_attributes(payload[4:]))
                added[pending[sequence]] = int.from_bytes(parts[_HANDLE], "big")
        for rule in change.remove:
            del handles[rule]
        handles.update(added)

    def delete_table(self, table: str, generation: bytes) -> None:
        """Delete the table ``ip <table>``, unless something changed since ``generation``."""
        name = _attribute(_TABLE, table.encode() + b"\0")
        begin = self._bracket(_BATCH_BEGIN, _attribute(1, generation))
        delete = self._message(_DELTABLE, _ACK, name)
        self._link.send(begin + delete + self._bracket(_BATCH_END, b""))
        for kind, payload, _ in self._events():
            if kind == _NLMSG_ERROR:
                _raise_for(-struct.unpack_from("=i", payload)[0])

    def _message(self, kind: int, flags: int, attributes: bytes) -> bytes:
        self._sequence += 1
        size = 20 + len(attributes)
        head = struct.pack(
            "=IHHIIBBH", size, kind, _REQUEST | flags, self._sequence, 0, _IPV4, 0, 0
        )
        return head + attributes

    def _bracket(self, kind: int, attributes: bytes) -> bytes:
        self._sequence += 1
        size = 20 + len(attributes)
        subsystem = socket.htons(_NFTABLES)
        head = struct.pack("=IHHIIBBH", size, kind, _REQUEST, self._sequence, 0, 0, 0, subsystem)
        return head + attributes

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        """Type and payload of each answer to the last question. Raises NetfilterError."""
        for kind, payload, sequence in self._events():
            if sequence != self._sequence:
                continue
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                _raise_for(-struct.unpack_from("=i", payload)[0])
            yield kind, payload

    def _events(self) -> Iterator[tuple[int, bytes, int]]:
        """Everything there is to read: the kernel answers before ``send`` returns."""
        while True:
            try:
                data = self._link.recv(1 << 17)
            except BlockingIOError:
                return
            at = 0
            while at + 16 <= len(data):
                size, kind, _, sequence = struct.unpack_from("=IHHI", data, at)
                yield kind, data[at + 16 : at + size], sequence
                at += (size + 3) & ~3


def following(generation: bytes) -> bytes:
    """The generation after one change (the kernel passes over zero)."""
    number = (int.from_bytes(generation, "big") + 1) % (1 << 32) or 1
    return number.to_bytes(4, "big")


def _raise_for(code: int) -> None:
    if code == 0:
        return
    text = f"nftables: {os.strerror(code)}"
    if code in (errno.ERESTART, errno.ENOENT, errno.EEXIST):
        raise Drifted(text)
    if code in (errno.EPERM, errno.EACCES):
        raise NotPermitted(f"{text}; it needs root or CAP_NET_ADMIN")
    raise NetfilterError(text)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def _place(rule: Rule) -> bytes:
    return _attribute(_TABLE, b"nat\0") + _attribute(_CHAIN, rule.chain.encode() + b"\0")


def _expression(name: bytes, *values: tuple[int, bytes]) -> bytes:
    data = b"".join(_attribute(kind, value) for kind, value in values)
    return _attribute(1, _attribute(1, name + b"\0") + _attribute(2, data))


def _word(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _equals(value: bytes) -> bytes:
    return _expression(b"cmp", (1, _word(1)), (2, _word(0)), (3, _attribute(1, value)))


def _load(base: int, offset: int, size: int) -> bytes:
    fields = (base, offset, size)
    return _expression(
        b"payload", (1, _word(1)), *((n, _word(value)) for n, value in enumerate(fields, 2))
    )


_LOAD_PROTOCOL = _expression(b"meta", (2, _word(16)), (1, _word(1)))  # NFT_META_L4PROTO
_LOAD_ADDRESS = _load(1, 16, 4)  # the network header's destination
_LOAD_PORT = _load(2, 2, 2)  # the transport header's destination
_COUNTER = _expression(b"counter", (1, bytes(8)), (2, bytes(8)))
_PROTOCOLS = {"tcp": _equals(b"\x06"), "udp": _equals(b"\x11")}


def _expressions(rule: Rule, *, counter: bool = False) -> bytes:
    """The rule as iptables-nft writes it, in the order and form in which the kernel lists it."""
    comment = rule.comment.encode()[: COMMENT_BYTES - 1].ljust(COMMENT_BYTES, b"\0")
    return b"".join(
        (
            _LOAD_PROTOCOL,
            _PROTOCOLS[rule.protocol],
            _LOAD_ADDRESS + _equals(socket.inet_aton(rule.address)) if rule.address else b"",
            _expression(b"match", (1, b"comment\0"), (2, _word(0)), (3, comment)),
            _LOAD_PORT,
            _equals(struct.pack("!H", rule.port)),
            _COUNTER if counter else b"",
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
        return _expression(b"target", (1, b"REDIRECT\0"), (2, _word(0)), (3, info))
    ip = socket.inet_aton(address).ljust(16, b"\0")
    info = struct.pack("=I", 3) + ip + ip + ports + bytes(8)
    return _expression(b"target", (1, b"DNAT\0"), (2, _word(2)), (3, info))


def _without_counter(expressions: bytes) -> bytes:
    return b"".join(
        _attribute(1, body)
        for _, body in _attributes(expressions)
        if not body.startswith(b"\x0c\x00\x01\x00counter\0")
    )
