"""The edge that makes this host answer for addresses that no interface of it has, by ARP and NDP.

A packet socket on the interface of the node's own address hears the questions and answers them.
Nothing of it outlives the process: the kernel is told nothing, so when the process dies nobody
answers any more. What arrives for such an address is caught by the portal rules in nat PREROUTING,
which rewrite the destination before the kernel looks for a route, so neither rp_filter (the source
is where it came from) nor the check for martians (the destination is the host's own by then) minds.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from k8slite.kit.clock import Clock
from k8slite.network.arp import ArpTongue
from k8slite.network.ndp import NdpTongue
from k8slite.network.tongue import ACCEPT_ALL, Heard, Tongue, spelt
from k8slite.network.uplink import NoUplink, find_uplink, ipv6_is_on
from k8slite.network.voice import CannotAnnounce

_ETHERNET = 1  # ARPHRD_ETHER
_SO_ATTACH_FILTER = 26
#: Frames taken from the socket at one go, so that a flood leaves the loop to others.
_AT_ONCE = 64
#: Seconds after a takeover at which everybody is told: what is lost at once may be heard later.
TELL_AT = (0.0, 0.2, 1.0, 2.0, 5.0)
#: Seconds after it at which we ask who else answers (those from whom we took it are silent by
#: then), after which we ask somebody again who did, and between two questions while nobody does.
ASK_AT, ASK_AGAIN, ASK_EVERY = 4.0, 3.5, 60.0
#: Seconds between two tellings because somebody else claims the address (RFC 5227, 2.4).
DEFEND_EVERY = 5.0

#: ``claimed(address, mac)``: somebody else says that it has an address of ours.
Claimed = Callable[[str, str], None]


@dataclass(slots=True)
class _Spoken:
    """One address: when it was taken, and what is still to be told."""

    since: float
    tell_at: list[float]
    ask_at: float
    defended: float = float("-inf")


@dataclass(slots=True)
class _Link:
    packets: socket.socket
    name: str
    mac: bytes
    member: socket.socket | None  # of the groups in which we are asked (IPv6)
    groups: set[bytes] = field(default_factory=set)
    filtered: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_current(self) -> bool:
        """Whether the interface is there and has this hardware address still: a bridge takes
        another when its ports change."""
        try:
            return bool(self.packets.getsockname()[4] == self.mac)
        except OSError:
            return False

    def close(self) -> None:
        self.packets.close()
        if self.member is not None:
            self.member.close()


class LanVoice:
    """A ``Voice`` on the interface of ``node_ip``: ARP for IPv4, NDP for IPv6."""

    def __init__(self, node_ip: str, clock: Clock, claimed: Claimed) -> None:
        self._speakers = [
            Speaker(tongue, node_ip, clock, claimed) for tongue in (ArpTongue(), NdpTongue())
        ]

    @property
    def where(self) -> str:
        places = dict.fromkeys(speaker.where for speaker in self._speakers)
        return "; ".join(filter(None, places)) or "no interface"

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def say(self, addresses: frozenset[str]) -> None:
        try:
            for speaker in self._speakers:
                speaker.listen(frozenset(a for a in addresses if speaker.speaks_of(a)))
        except CannotAnnounce:
            await self.close()  # this node is unwell, and another answers for all of it
            raise
        for speaker in self._speakers:
            speaker.speak()

    def renew(self, addresses: Iterable[str]) -> None:
        for speaker in self._speakers:
            speaker.renew(addresses)

    async def close(self) -> None:
        for speaker in self._speakers:
            speaker.close()


class Speaker:
    """One tongue of it."""

    def __init__(self, tongue: Tongue, node_ip: str, clock: Clock, claimed: Claimed) -> None:
        self._tongue = tongue
        self._node_ip = node_ip
        self._clock = clock
        self._claimed = claimed
        self._link: _Link | None = None
        self._spoken: dict[str, _Spoken] = {}

    @property
    def where(self) -> str:
        """The interface and its hardware address, "" while nothing is said."""
        link = self._link
        return f"{link.name}, {spelt(link.mac)}" if link is not None else ""

    def speaks_of(self, address: str) -> bool:
        return ip_address(address).version == self._tongue.version

    def listen(self, addresses: frozenset[str]) -> None:
        """Answer for these from now on, and for no others. Raises CannotAnnounce."""
        now = self._clock.monotonic()
        for address in self._spoken.keys() - addresses:
            del self._spoken[address]
        for address in addresses - self._spoken.keys():
            self._spoken[address] = _fresh(now)
        if not addresses:
            self._shut()
            return
        if self._link is not None and not self._link.is_current:
            self._shut()
        if self._link is None:
            self._link = self._open()
            self.renew(addresses)  # the link may have been away
        self._mind(self._link, addresses)

    def speak(self) -> None:
        """Tell and ask what is due."""
        now = self._clock.monotonic()
        for address, spoken in self._spoken.items():
            if spoken.tell_at and now >= spoken.tell_at[0] and self._tell(address):
                spoken.tell_at = [at for at in spoken.tell_at if at > now]
            if now >= spoken.ask_at and self._ask(address):
                spoken.ask_at = now + ASK_EVERY

    def renew(self, addresses: Iterable[str]) -> None:
        now = self._clock.monotonic()
        for address in addresses:
            if address in self._spoken:
                self._spoken[address] = _fresh(now)

    def close(self) -> None:
        self._shut()
        self._spoken.clear()

    def _shut(self) -> None:
        if self._link is not None:
            asyncio.get_running_loop().remove_reader(self._link.packets)
            self._link.close()
            self._link = None

    def _open(self) -> _Link:
        """Raises CannotAnnounce."""
        try:
            name = find_uplink(self._node_ip).name
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except (NoUplink, OSError) as error:
            raise CannotAnnounce(f"no {self._tongue.name} here: {error}") from error
        try:
            _attach(opened, self._tongue.program(()))  # deaf until the addresses are known
            opened.bind((name, self._tongue.ethertype))
            _, _, _, kind, mac = opened.getsockname()
        except OSError as error:
            opened.close()
            raise CannotAnnounce(f"no {self._tongue.name} on {name}: {error.strerror}") from error
        if kind != _ETHERNET or len(mac) != 6:
            opened.close()
            raise CannotAnnounce(f"{name} is no Ethernet, nobody asks there: use --announce bgp")
        member = None
        if self._tongue.version == 6:
            if not ipv6_is_on(name):
                opened.close()
                raise CannotAnnounce(
                    f"IPv6 is off on {name}: turn it on (sysctl net.ipv6.conf.{name}.disable_ipv6"
                    "=0), or leave IPv6 out of --address-pool"
                )
            member = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        asyncio.get_running_loop().add_reader(opened, self._read)
        return _Link(opened, name, mac, member)

    def _mind(self, link: _Link, addresses: frozenset[str]) -> None:
        """Hear of these alone: a LAN is full of questions that are none of ours. Raises
        CannotAnnounce."""
        if addresses == link.filtered:
            return
        groups = {group for address in addresses if (group := self._tongue.group(address))}
        try:
            for group in groups - link.groups:
                self._member(link, socket.IPV6_JOIN_GROUP, group)
            for group in link.groups - groups:
                self._member(link, socket.IPV6_LEAVE_GROUP, group)
        except OSError as error:
            self._shut()
            raise CannotAnnounce(f"{link.name} hears no questions: {error.strerror}") from error
        link.groups = groups
        _attach(link.packets, self._tongue.program(addresses) or ACCEPT_ALL)
        link.filtered = addresses

    def _member(self, link: _Link, what: int, group: bytes) -> None:
        """Join or leave a group; the kernel tells switches, and forgets it with the socket."""
        assert link.member is not None
        request = group + struct.pack("=I", socket.if_nametoindex(link.name))
        link.member.setsockopt(socket.IPPROTO_IPV6, what, request)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            if self._link is None:
                return
            try:
                data = self._link.packets.recv(2048)
            except BlockingIOError:
                return
            except OSError:  # the interface went down, or away: opened anew at the next look
                self._shut()
                return
            for heard in self._tongue.hear(data, self._link.mac):
                self._take(heard)

    def _take(self, heard: Heard) -> None:
        spoken = self._spoken.get(heard.address)
        if spoken is None:
            return
        if heard.answer:
            self._send(heard.answer)
        if not heard.claimed:
            return
        # Somebody else says that it has the address. Right after a takeover that is who had it
        # before, and tellings are on their way.
        now = self._clock.monotonic()
        if now >= spoken.defended + DEFEND_EVERY:
            spoken.defended = now
            self._tell(heard.address)
        if now >= spoken.since + ASK_AT:
            spoken.ask_at = min(spoken.ask_at, now + ASK_AGAIN)
            self._claimed(heard.address, spelt(heard.mac))

    def _tell(self, address: str) -> bool:
        link = self._link
        return link is not None and all(
            self._send(data) for data in self._tongue.unasked(address, link.mac)
        )

    def _ask(self, address: str) -> bool:
        link = self._link
        if link is None:
            return False
        return self._send(self._tongue.question(address, link.mac, self._node_ip))

    def _send(self, data: bytes) -> bool:
        """False when it could not be sent."""
        if self._link is None:
            return False
        try:
            self._link.packets.send(data)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                self._shut()
            return False
        return True


def _attach(to: socket.socket, program: bytes) -> None:
    """Let only those frames in that the classic BPF program accepts."""
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: how many instructions, and where.
    head = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)


def _fresh(now: float) -> _Spoken:
    return _Spoken(now, [now + after for after in TELL_AT], now + ASK_AT)


def neighbours(path: Path = Path("/proc/thread-self/net/arp")) -> dict[str, str]:
    """Hardware address → IPv4 address, of the hosts that this one spoke with lately."""
    try:
        lines = path.read_text().splitlines()[1:]
    except OSError:
        return {}
    rows = (line.split() for line in lines)
    return {row[3]: row[0] for row in rows if len(row) >= 6 and row[3] != "00:00:00:00:00:00"}
