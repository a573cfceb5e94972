"""Questions to the kernel's connection tracking, over netlink (ctnetlink, nfnetlink_conntrack.h).

A UDP socket cannot tell whether a datagram came through a portal rule: its destination is
rewritten before the socket sees it, and SO_ORIGINAL_DST exists for TCP alone. Connection tracking
knows: the flow's original destination is that of the portal, or, for a stranger who sent straight
to the port, the port itself. Asking costs about 10 µs and is done once per client.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from k8slite.netfilter.edge import NetfilterError, NotPermitted, Unsupported
from k8slite.netfilter.local import is_of_this_host

_NETLINK_NETFILTER = 12
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_NESTED = 0x8000
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_*
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SOURCE, _DESTINATION = 1, 2  # CTA_IP_V4_*
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # CTA_PROTO_*

Address = tuple[str, int]


class Flow(NamedTuple):
    """One tracked flow. ``source`` sent to ``target``; answers leave from ``server`` to
    ``client``. Without any rewriting server is target and client is source."""

    source: Address
    target: Address
    server: Address
    client: Address


class Conntrack:
    """A netlink socket to connection tracking in this network namespace. Calls never wait: the
    kernel answers within the send. Raises Unsupported where it has no ctnetlink."""

    def __init__(self) -> None:
        try:
            self._link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._link.bind((0, 0))
        except OSError as error:
            raise Unsupported(f"no netfilter netlink here: {error.strerror}") from error
        self._link.setblocking(False)
        self._sequence = 0

    def close(self) -> None:
        self._link.close()

    def original_target(self, server: Address, client: Address) -> Address | None:
        """Where ``client`` addressed the UDP flow that reached ``server``; None when the flow is
        not tracked. Raises NetfilterError."""
        for payload in self._ask(_GET, 0, _tuple(_REPLY, server, client)):
            return _flow(payload).target
        return None

    def udp_flows(self) -> list[Flow]:
        """Every UDP flow of this network namespace."""
        flows = []
        for payload in self._ask(_GET, _NLM_F_DUMP, b""):
            try:
                flows.append(_flow(payload))
            except KeyError:
                continue  # another protocol, or IPv6
        return flows

    def forget(self, flow: Flow) -> None:
        """Drop a flow, so that its next datagram meets the rules anew. A flow that is gone
        already is no error."""
        for _ in self._ask(_DELETE, _NLM_F_ACK, _tuple(_ORIGINAL, flow.source, flow.target)):
            pass

    def _ask(self, kind: int, flags: int, attributes: bytes) -> Iterator[bytes]:
        """Send a request; yield the attributes of every answer (none when there is no entry)."""
        self._sequence += 1
        head = struct.pack(
            "=IHHIIBBH",
            20 + len(attributes), kind, _NLM_F_REQUEST | flags, self._sequence, 0,
            socket.AF_INET, 0, 0,
        )  # fmt: skip
        self._link.sendto(head + attributes, (0, 0))
        while True:
            try:
                data = self._link.recv(1 << 17)
            except BlockingIOError:
                return
            at = 0
            while at + 16 <= len(data):
                size, answer, _, sequence = struct.unpack_from("=IHHI", data, at)
                body = data[at + 16 : at + size]
                at += (size + 3) & ~3
                if sequence != self._sequence:
                    continue  # left over from a question whose answer was not read to its end
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    _raise_for(-struct.unpack_from("=i", body)[0])
                    return
                yield body[4:]
                if not flags & _NLM_F_DUMP:
                    return


def forget_flows(portals: Mapping[Address, int]) -> None:
    """Drop the UDP flows to each portal that are not answered from its listener's port. A portal
    without an address is a node port: any address of this host. Reads all flows: on a busy router
    that takes a while. Raises NetfilterError."""
    conntrack = Conntrack()
    try:
        for flow in conntrack.udp_flows():
            port = portals.get(flow.target)
            if port is None:
                port = portals.get(("", flow.target[1]))
                if port is None or not is_of_this_host(flow.target[0]):
                    continue
            if flow.server[1] != port:
                conntrack.forget(flow)
    finally:
        conntrack.close()


def _raise_for(code: int) -> None:
    if code in (0, errno.ENOENT):
        return
    text = f"connection tracking: {os.strerror(code)}"
    if code in (errno.EPERM, errno.EACCES):
        raise NotPermitted(f"{text}; it needs root or CAP_NET_ADMIN")
    if code in (errno.EINVAL, errno.EOPNOTSUPP):
        raise Unsupported(f"{text}; the kernel needs nf_conntrack_netlink")
    raise NetfilterError(text)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _tuple(direction: int, source: Address, destination: Address) -> bytes:
    ip = _attribute(_SOURCE, socket.inet_aton(source[0]))
    ip += _attribute(_DESTINATION, socket.inet_aton(destination[0]))
    proto = _attribute(_NUMBER, bytes([socket.IPPROTO_UDP]))
    proto += _attribute(_SOURCE_PORT, struct.pack("!H", source[1]))
    proto += _attribute(_DESTINATION_PORT, struct.pack("!H", destination[1]))
    nested = _attribute(_TUPLE_IP | _NESTED, ip) + _attribute(_TUPLE_PROTO | _NESTED, proto)
    return _attribute(direction | _NESTED, nested)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += (size + 3) & ~3
    return found


def _flow(payload: bytes) -> Flow:
    """Raises KeyError when it is not UDP over IPv4."""
    parts = _attributes(payload)
    source, target = _ends(parts[_ORIGINAL])
    server, client = _ends(parts[_REPLY])
    return Flow(source, target, server, client)


def _ends(data: bytes) -> tuple[Address, Address]:
    parts = _attributes(data)
    ip, proto = _attributes(parts[_TUPLE_IP]), _attributes(parts[_TUPLE_PROTO])
    if proto[_NUMBER][0] != socket.IPPROTO_UDP:
        raise KeyError("not UDP")
    return (
        (socket.inet_ntoa(ip[_SOURCE]), _port(proto[_SOURCE_PORT])),
        (socket.inet_ntoa(ip[_DESTINATION]), _port(proto[_DESTINATION_PORT])),
    )


def _port(data: bytes) -> int:
    return int(struct.unpack("!H", data[:2])[0])
