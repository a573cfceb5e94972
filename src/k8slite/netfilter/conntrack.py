"""Questions to the kernel's connection tracking, over netlink (ctnetlink, nfnetlink_conntrack.h).

A UDP socket cannot tell whether a datagram came through a portal rule: its destination is
rewritten before the socket sees it, and SO_ORIGINAL_DST exists for TCP alone. Connection tracking
knows: the flow's original destination is that of the portal, or, for a stranger who sent straight
to the port, the port itself. Asking costs about 10 µs and is done once per client.

IPv4 and IPv6 alike: a flow is of the family that its addresses are of, and addresses are written
the way that ``inet_ntop`` writes them.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from k8slite.netfilter.edge import NetfilterError, NotPermitted, Unsupported
from k8slite.netfilter.local import is_of_this_host

_NETLINK_NETFILTER = 12
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_HEAD = struct.Struct("=IHHIIBBH")  # struct nlmsghdr and struct nfgenmsg
_ONE, _MANY = 1 << 13, 1 << 17  # bytes of an answer, of a part of a list
_NESTED = 0x8000
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_*
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP = {  # CTA_IP_V4_SRC and _DST, CTA_IP_V6_SRC and _DST
    socket.AF_INET: (1, 2),
    socket.AF_INET6: (3, 4),
}
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # CTA_PROTO_*
_FILTER, _FILTER_ORIGINAL = 25, 1  # CTA_FILTER, CTA_FILTER_ORIG_FLAGS
_BY_ADDRESS, _BY_PROTOCOL, _BY_PORT = 1 << 1, 1 << 3, 1 << 5  # CTA_FILTER_F_* (nf_internals.h)
#: The kernel walks through its whole table for every question; to read so many flows takes as long.
_A_WALK = 1_300
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")

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
            self._link.connect((0, 0))  # the kernel
        except OSError as error:
            raise Unsupported(f"no netfilter netlink here: {error.strerror}") from error
        self._link.setblocking(False)
        self._sequence = 0

    def close(self) -> None:
        self._link.close()

    def original_target(self, server: Address, client: Address) -> Address | None:
        """Where ``client`` addressed the UDP flow that reached ``server``; None when the flow is
        not tracked. Raises NetfilterError."""
        form = _form(server[0])
        for payload in self._ask(_GET, 0, form.write(_REPLY, server, client), form.family):
            return form.original_target(payload) or _flow(payload).target
        return None

    def flows(self, protocol: int, target: Address | None = None) -> list[Flow]:
        """The flows of a protocol (UDP or TCP) of this network namespace, or those of them that
        were sent to ``target``; without an address that is any with this port. The kernel picks
        them out; one that cannot yet (before 5.8) tells of all. Raises NetfilterError."""
        address, port = target or ("", 0)
        families = _IP if not address else (_form(address).family,)
        flows = []
        for family in families:
            picked = _picked(family, protocol, address, port)
            for payload in self._ask(_GET, _NLM_F_DUMP, picked, family):
                try:
                    flow = _flow(payload, protocol)
                except KeyError:
                    continue  # another protocol
                if target is None or flow.target == (address or flow.target[0], port):
                    flows.append(flow)
        return flows

    def forget(self, flow: Flow, protocol: int = socket.IPPROTO_UDP) -> None:
        """Drop a flow, so that its next packet meets the rules anew. A flow that is gone already
        is no error."""
        form = _form(flow.target[0], protocol)
        attributes = form.write(_ORIGINAL, flow.source, flow.target)
        for _ in self._ask(_DELETE, _NLM_F_ACK, attributes, form.family):
            pass

    def _ask(self, kind: int, flags: int, attributes: bytes, family: int) -> Iterator[bytes]:
        """Send a request; yield the attributes of every answer (none when there is no entry).
        Raises NetfilterError."""
        self._sequence += 1
        head = _HEAD.pack(
            _HEAD.size + len(attributes), kind, _NLM_F_REQUEST | flags, self._sequence, 0,
            family, 0, 0,
        )  # fmt: skip
        try:
            self._link.send(head + attributes)
        except OSError as error:
            _raise_for(error.errno or errno.EIO)
        while True:
            try:
                data = self._link.recv(_MANY if flags & _NLM_F_DUMP else _ONE)
            except BlockingIOError:
                return
            except OSError as error:  # the kernel has no memory for the answer
                _raise_for(error.errno or errno.EIO)
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


#: Who may answer a portal's flows: a listener's local port, or so many endpoints.
Servers = int | frozenset[Address]


def forget_flows(portals: Mapping[Address, Servers]) -> None:
    """Drop the UDP flows to each portal (address, port) that others answer than shall. A portal
    without an address is a node port: any address of this host. Raises NetfilterError."""
    portals = {
        (canonical(address), port): _canonical(servers)
        for (address, port), servers in portals.items()
    }
    conntrack = Conntrack()
    try:
        for flow in _flows_to(conntrack, socket.IPPROTO_UDP, portals):
            servers = portals.get(flow.target)
            if servers is None:
                servers = portals.get(("", flow.target[1]))
                if servers is None or not is_of_this_host(flow.target[0]):
                    continue
            if not _answers(flow.server, servers):
                conntrack.forget(flow)
    finally:
        conntrack.close()


def forget_strays(portals: Collection[Address]) -> None:
    """Drop the TCP flows to these (address, port; no node ports) that nothing rewrote: they began
    while there were no rules, and what the client sends again would never meet them. Raises
    NetfilterError."""
    wanted = {(canonical(address), port) for address, port in portals}
    conntrack = Conntrack()
    try:
        for flow in _flows_to(conntrack, socket.IPPROTO_TCP, wanted):
            if flow.server == flow.target and flow.target in wanted:
                conntrack.forget(flow, socket.IPPROTO_TCP)
    finally:
        conntrack.close()


def _flows_to(conntrack: Conntrack, protocol: int, portals: Collection[Address]) -> Iterator[Flow]:
    """The flows to these, perhaps more: whatever is sooner read."""
    walks = sum(1 if address else 2 for address, _ in portals)
    if walks <= 2 + _tracked() // _A_WALK:
        for portal in portals:
            yield from conntrack.flows(protocol, portal)
    else:
        yield from conntrack.flows(protocol)


def _tracked() -> int:
    """How many flows of any protocol there are, about."""
    try:
        return int(_COUNT.read_text())
    except (OSError, ValueError):
        return 0


def _answers(server: Address, servers: Servers) -> bool:
    return server[1] == servers if isinstance(servers, int) else server in servers


def _canonical(servers: Servers) -> Servers:
    if isinstance(servers, int):
        return servers
    return frozenset((canonical(address), port) for address, port in servers)


def canonical(address: str) -> str:
    """An address as it is written in flows; IPv6 has many ways to write the same."""
    if ":" not in address:
        return address
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))


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


def _picked(family: socket.AddressFamily, protocol: int, address: str, port: int) -> bytes:
    """What makes the kernel tell of these flows alone: a part of CTA_TUPLE_ORIG, and which. By
    addresses of IPv6 it picks all others (ctnetlink_filter_match_tuple, up to 6.18 at least)."""
    flags, parts = _BY_PROTOCOL, b""
    proto = _attribute(_NUMBER, bytes([protocol]))
    if address and family == socket.AF_INET:
        flags |= _BY_ADDRESS
        _, destination = _IP[family]
        ip = _attribute(destination, socket.inet_pton(family, address))
        parts = _attribute(_TUPLE_IP | _NESTED, ip)
    if port:
        flags |= _BY_PORT
        proto += _attribute(_DESTINATION_PORT, port.to_bytes(2, "big"))
    parts += _attribute(_TUPLE_PROTO | _NESTED, proto)
    which = _attribute(_FILTER_ORIGINAL, struct.pack("=I", flags))
    return _attribute(_ORIGINAL | _NESTED, parts) + _attribute(_FILTER | _NESTED, which)


class _Form:
    """How the ends of a flow of one family and protocol are written, always in the same places."""

    def __init__(self, family: socket.AddressFamily, protocol: int) -> None:
        self.family = family
        size = 4 if family == socket.AF_INET else 16
        source, destination = _IP[family]
        self._struct = struct.Struct(f"=4s8s{size}s4s{size}s16s2s2x4s2s2x")
        nested = (_TUPLE_IP | _NESTED, _TUPLE_PROTO | _NESTED)
        self._ip = struct.pack("=HHHH", 12 + 2 * size, nested[0], 4 + size, source)
        self._then = struct.pack("=HH", 4 + size, destination)
        self._proto = struct.pack("=HH", 28, nested[1])
        self._proto += _attribute(_NUMBER, bytes([protocol]))
        self._proto += struct.pack("=HH", 6, _SOURCE_PORT)
        self._port = struct.pack("=HH", 6, _DESTINATION_PORT)

    def write(self, direction: int, source: Address, destination: Address) -> bytes:
        """CTA_TUPLE_*: CTA_TUPLE_IP with both addresses, then CTA_TUPLE_PROTO with number and both
        ports."""
        return self._struct.pack(
            self._head(direction),
            self._ip, socket.inet_pton(self.family, source[0]),
            self._then, socket.inet_pton(self.family, destination[0]),
            self._proto, source[1].to_bytes(2, "big"),
            self._port, destination[1].to_bytes(2, "big"),
        )  # fmt: skip

    def original_target(self, payload: bytes) -> Address | None:
        """From the kernel's answer, which begins with CTA_TUPLE_ORIG; None when it is written in
        another way than ours."""
        if len(payload) < self._struct.size:
            return None
        head, ip, _, then, address, proto, _, port, number = self._struct.unpack_from(payload)
        if (head, ip, then) != (self._head(_ORIGINAL), self._ip, self._then):
            return None
        if (proto, port) != (self._proto, self._port):
            return None
        return socket.inet_ntop(self.family, address), int.from_bytes(number, "big")

    def _head(self, direction: int) -> bytes:
        return struct.pack("=HH", self._struct.size, direction | _NESTED)


_IPV4, _IPV6 = (_Form(f, socket.IPPROTO_UDP) for f in (socket.AF_INET, socket.AF_INET6))


def _form(address: str, protocol: int = socket.IPPROTO_UDP) -> _Form:
    if protocol != socket.IPPROTO_UDP:
        return _Form(socket.AF_INET6 if ":" in address else socket.AF_INET, protocol)
    return _IPV6 if ":" in address else _IPV4


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += (size + 3) & ~3
    return found


def _flow(payload: bytes, protocol: int = socket.IPPROTO_UDP) -> Flow:
    """Raises KeyError when it is of another protocol."""
    parts = _attributes(payload)
    source, target = _ends(parts[_ORIGINAL], protocol)
    server, client = _ends(parts[_REPLY], protocol)
    return Flow(source, target, server, client)


def _ends(data: bytes, protocol: int) -> tuple[Address, Address]:
    parts = _attributes(data)
    ip, proto = _attributes(parts[_TUPLE_IP]), _attributes(parts[_TUPLE_PROTO])
    if proto[_NUMBER][0] != protocol:
        raise KeyError("another protocol")
    family = socket.AF_INET6 if _IP[socket.AF_INET6][0] in ip else socket.AF_INET
    source, destination = (socket.inet_ntop(family, ip[kind]) for kind in _IP[family])
    return (
        (source, _port(proto[_SOURCE_PORT])),
        (destination, _port(proto[_DESTINATION_PORT])),
    )


def _port(data: bytes) -> int:
    return int(struct.unpack("!H", data[:2])[0])
