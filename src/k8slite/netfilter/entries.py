"""Portal rules as the legacy tables hold them: struct ipt_entry, its matches and its target.

python-iptables takes 0.4 ms to build a rule. A template of each shape is built once; a rule is made
from it in 3 µs, and an entry of the kernel's is recognised as quickly.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Any

from k8slite.netfilter.legacy import ENTRY_BYTES, IP_BYTES
from k8slite.netfilter.rules import COMMENT_BYTES, NODEPORT_COMMENT, Jump, Rule

_TARGET_OFFSET = 88  # in struct ipt_entry


class Template:
    """One shape of rule, built once by python-iptables with marks where the values go."""

    _ADDRESS, _COMMENT, _PORT = "1.2.3.4", "k8slite-mark", 0x5A5A
    _TO_ADDRESS, _TO_PORT = "5.6.7.8", 0x6B6B

    def __init__(self, iptc: Any, shape: Rule) -> None:
        """``shape`` is any rule of the chain and the protocol."""
        self._chain = shape.chain
        self._protocol = shape.protocol
        rule = iptc.Rule()
        rule.protocol = shape.protocol
        if shape.address:
            rule.dst = f"{self._ADDRESS}/32"
        rule.create_match("comment").comment = self._COMMENT
        rule.create_match(shape.protocol).dport = str(self._PORT)
        target = rule.create_target(shape.target)
        if shape.target == "DNAT":
            target.to_destination = f"{self._TO_ADDRESS}:{self._TO_PORT}"
        else:
            target.to_ports = str(self._TO_PORT)
        rule.final_check()
        self._entry = bytes(rule.rule)
        self._address = self._marks(socket.inet_aton(self._ADDRESS))
        self._comment = self._marks(self._COMMENT.encode())
        self._port = self._marks(struct.pack("=H", self._PORT))
        self._to_address = self._marks(socket.inet_aton(self._TO_ADDRESS))
        self._to_port = self._marks(struct.pack("!H", self._TO_PORT))

    def _marks(self, mark: bytes) -> list[slice]:
        """Where ``mark`` stands (a range of ports or addresses has it twice)."""
        found, at = [], self._entry.find(mark)
        while at >= 0:
            found.append(slice(at, at + len(mark)))
            at = self._entry.find(mark, at + len(mark))
        return found

    def fill(self, rule: Rule) -> bytes:
        entry = bytearray(self._entry)
        address, _, port = rule.to.rpartition(":")
        if rule.address:
            self._put(entry, self._address, socket.inet_aton(rule.address))
        self._put(entry, self._port, struct.pack("=H", rule.port))
        self._put(entry, self._to_port, struct.pack("!H", int(port)))
        if address:
            self._put(entry, self._to_address, socket.inet_aton(address))
        start = self._comment[0].start
        comment = rule.comment.encode()[: COMMENT_BYTES - 1].ljust(COMMENT_BYTES, b"\0")
        entry[start : start + COMMENT_BYTES] = comment
        return bytes(entry)

    def read(self, entry: bytes) -> Rule | None:
        """The rule that fills the template to ``entry``, or None."""
        if len(entry) != len(self._entry):
            return None
        start = self._comment[0].start
        comment = entry[start : start + COMMENT_BYTES].split(b"\0", 1)[0]
        to = str(int.from_bytes(entry[self._to_port[0]], "big"))
        if self._to_address:
            to = f"{socket.inet_ntoa(entry[self._to_address[0]])}:{to}"
        rule = Rule(
            self._chain,
            socket.inet_ntoa(entry[self._address[0]]) if self._address else "",
            self._protocol,
            comment.decode(errors="replace"),
            struct.unpack("=H", entry[self._port[0]])[0],
            to,
        )
        return rule if essence(self.fill(rule)) == essence(entry) else None

    @staticmethod
    def _put(entry: bytearray, places: list[slice], value: bytes) -> None:
        for place in places:
            entry[place] = value


def jump_rule(iptc: Any, jump: Jump) -> Any:
    """The jump as a rule of python-iptables."""
    rule = iptc.Rule()
    if jump.node_ports:
        rule.create_match("addrtype").dst_type = "LOCAL"
        rule.create_match("comment").comment = NODEPORT_COMMENT
    rule.create_target(jump.chain)
    return rule


def buffer(data: bytes) -> ctypes.Array[ctypes.c_ubyte]:
    return (ctypes.c_ubyte * len(data)).from_buffer_copy(data)


def essence(entry: bytes) -> tuple[bytes, ...]:
    """What makes two entries the same rule: addresses, matches and target, without counters,
    kernel marks and whatever follows the end of a name."""
    return (entry[:IP_BYTES], *_parts(entry, len(entry)))


def matches(entry: bytes) -> tuple[bytes, ...]:
    """The same without the target, which for a jump says where the chain lies at the moment."""
    (target,) = struct.unpack_from("=H", entry, _TARGET_OFFSET)
    return (entry[:IP_BYTES], *_parts(entry, target))


def _parts(entry: bytes, end: int) -> list[bytes]:
    parts: list[bytes] = []
    at = ENTRY_BYTES
    while at < end:
        (size,) = struct.unpack_from("=H", entry, at)
        name = entry[at + 2 : at + 31].split(b"\0", 1)[0]
        data = entry[at + 32 : at + size]
        parts += (name, entry[at + 31 : at + 32], data.rstrip(b"\0"))
        at += size
    return parts
