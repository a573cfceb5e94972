"""Datagrams by the batch: recvmmsg(2) and sendmmsg(2), and many in one with UDP_SEGMENT.

The bytes of a datagram never become a Python object. The kernel writes them into a slot of an
arena and sends them from there; Python sees who they are from and how many they are.

Equal datagrams for one receiver go through the kernel as one (UDP_SEGMENT, Linux 4.18) and are told
apart again where they are received or leave the machine. What comes that way is taken as one, too
(UDP_GRO, Linux 5.0). Where the kernel refuses (a path with a smaller MTU, a device without
checksums) they go one by one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from array import array
from collections.abc import Sequence

from k8slite.netfilter.conntrack import Address
from k8slite.roles.proxy.udp.datagrams import (
    SLOTS,
    Caller,
    DatagramIO,
    Origin,
    SingleDatagrams,
    has_ipv6,
    listening_socket,
    send,
    upstream_socket,
)
from k8slite.roles.proxy.udp.msghdr import (
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    Bundle,
    Letters,
    Names,
    Slots,
    segment_of,
)

#: Larger datagrams are not joined: they would not fit the usual MTU, and gain little.
SEGMENT_BYTES = 1_472

_JOINED_BYTES = 65_000  # in one: IP has 16 bits for it
_REFUSING = (errno.EINVAL, errno.EMSGSIZE, errno.EIO)
_NOW = int(socket.MSG_DONTWAIT)
_CONTROL_BYTES, _SEGMENT_BYTES = 64, socket.CMSG_SPACE(4)


class BatchedDatagrams:
    """See ``DatagramIO``. ``join`` False goes without UDP_SEGMENT and UDP_GRO. Raises OSError where
    there are no such calls."""

    def __init__(self, *, dual: bool | None = None, join: bool = True) -> None:
        self.dual = has_ipv6() if dual is None else dual
        if struct.calcsize("P") != 8:
            raise OSError(errno.ENOSYS, "the layouts are those of 64 bits")
        try:
            # Keeps the interpreter's lock: none of these calls ever waits.
            libc = ctypes.PyDLL(None, use_errno=True)
            self._recvmmsg, self._sendmmsg = libc.recvmmsg, libc.sendmmsg
            self._sendmsg = libc.sendmsg
        except AttributeError as error:
            raise OSError(errno.ENOSYS, str(error)) from error
        self.due = False
        self._join = join and _kernel_joins()
        self._names = Names(self.dual)
        self._in = Slots(self._names.size, _CONTROL_BYTES)
        self._out = Slots(0, _SEGMENT_BYTES)
        self._letters = Letters(self._names)
        self._bundle = Bundle()
        self._sizes: list[int] = []
        self._joined: dict[int, int] = {}  # places that hold many in one, and the size of each
        self._filled = 0  # slots of _out
        self._sender: socket.socket | None = None  # who sends what is in _out

    def listen(self) -> socket.socket:
        return self._joining(listening_socket(self.dual))

    def connect(self, endpoint: Address) -> socket.socket:
        return self._joining(upstream_socket(endpoint))

    def take(
        self, listener: socket.socket, most: int = SLOTS
    ) -> tuple[Sequence[Caller], Sequence[int]]:
        slots, names = self._in, self._names
        count = self._recvmmsg(listener.fileno(), slots.heads[0], most, _NOW, None)
        if count <= 0:
            return (), ()  # no more for now, or an error that an earlier answer met
        if count == 1 and slots.rooms[0] == names.room:
            slots.lengths[0] = size = slots.sizes[0]
            slots.rooms[0] = _CONTROL_BYTES  # all that the kernel changed of what is asked of it
            self._sizes = [size]
            if self._joined:
                self._joined.clear()
            return (names.caller.unpack(slots.metas(1)),), self._sizes
        callers: list[Caller] = list(names.caller.iter_unpack(slots.metas(count)))
        self._sizes = sizes = slots.sizes[:count].tolist()
        self._joined.clear()
        rooms = slots.rooms[:count].tolist()
        if rooms.count(names.room) != count:
            for place, room in enumerate(rooms):
                if room != names.room:
                    callers[place], size = names.joined(slots.meta(place), room)
                    self._joined |= {place: size} if size else {}
        slots.lengths[:count] = memoryview(array("L", sizes))
        slots.renew(count)
        return callers, sizes

    def origin(self, caller: Caller) -> Origin | None:
        return self._names.origin(caller)

    def forward(self, upstream: int, places: Sequence[int]) -> None:
        if self._joined:
            for place in places:
                self._forward_one(upstream, place)
            return
        if self._join and len(places) > 1:
            sizes = [self._sizes[place] for place in places]
            size = sizes[0]
            if 0 < size <= SEGMENT_BYTES and sizes.count(size) == len(sizes):
                most = _JOINED_BYTES // size
                for start in range(0, len(places), most):
                    self._forward_joined(upstream, places[start : start + most], size)
                return
        for place in places:
            send(upstream, self._in.data[place][: self._sizes[place]])

    def reply(self, caller: Caller) -> bytes:
        return self._names.reply(caller)

    def answer(
        self, upstream: int, listener: socket.socket, reply: object
    ) -> tuple[int, int, bool]:
        if listener is not self._sender or self._filled == SLOTS:
            self._flush()
            self._sender = listener
        first, slots = self._filled, self._out
        count = self._recvmmsg(upstream, slots.heads[first], SLOTS - first, _NOW, None)
        if count < 0:
            code = ctypes.get_errno()
            if code == errno.EAGAIN:
                return 0, 0, False
            raise OSError(code, os.strerror(code))
        self._filled = first + count
        assert isinstance(reply, bytes)
        if count == 1 and not slots.rooms[first]:
            slots.lengths[first] = size = slots.sizes[first]
            self._letters.add(reply, slots.vectors[first], 1, 0)
            return 1, size, self._filled == SLOTS
        return count, self._address(reply, first, count), self._filled == SLOTS

    def close(self) -> None:
        self.due = False
        self._flush()

    def _flush(self) -> None:
        if self._sender is None or not self._filled:
            return
        letters, fd = self._letters, self._sender.fileno()
        done, count = 0, letters.count
        while done < count:
            sent = self._sendmmsg(fd, letters.heads[done], count - done, _NOW)
            if sent <= 0:
                if ctypes.get_errno() in _REFUSING:
                    self._send_apart(fd, done)
                sent = 1  # a datagram that cannot be sent is a datagram lost
            done += sent
        letters.count = 0
        self._out.renew(self._filled)
        self._filled = 0

    def _joining(self, sock: socket.socket) -> socket.socket:
        if self._join:
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        return sock

    def _forward_one(self, upstream: int, place: int) -> None:
        """Send what stands at a place: many in one, or one."""
        segment, size = self._joined.get(place, 0), self._sizes[place]
        if segment and self._send_joined(upstream, self._in.vectors[place], 1, segment):
            return
        data = self._in.data[place][:size]
        if not segment:
            send(upstream, data)
        for start in range(0, size, segment) if segment else ():
            send(upstream, data[start : start + segment])

    def _forward_joined(self, upstream: int, places: Sequence[int], size: int) -> None:
        slots, count = self._in, len(places)
        if places[-1] - places[0] == count - 1:
            vector = slots.vectors[places[0]]
        else:
            vector = self._bundle.gather([slots.addresses[place] for place in places], size)
        if not self._send_joined(upstream, vector, count, size):
            for place in places:
                send(upstream, slots.data[place][:size])

    def _send_joined(self, upstream: int, vector: int, count: int, segment: int) -> bool:
        """Returns False when the kernel will not have them as one."""
        self._bundle.fill(vector, count, segment)
        if self._sendmsg(upstream, self._bundle.head, _NOW) >= 0:
            return True
        code = ctypes.get_errno()
        if code == errno.ECONNREFUSED:
            raise ConnectionRefusedError(code, os.strerror(code))
        return code not in _REFUSING

    def _address(self, reply: bytes, first: int, count: int) -> int:
        """Address what was read into so many slots to one client. Returns its bytes."""
        slots, letters = self._out, self._letters
        places = range(first, first + count)
        sizes = slots.sizes[first : first + count].tolist()
        slots.lengths[first : first + count] = memoryview(array("L", sizes))
        size = sizes[0]
        if any(slots.rooms[place] for place in places):
            for place in places:
                letters.add(reply, slots.vectors[place], 1, segment_of(slots.control(place)))
        elif self._join and 0 < size <= SEGMENT_BYTES and sizes.count(size) == count:
            most = _JOINED_BYTES // size
            for start in range(0, count, most):
                part = min(most, count - start)
                letters.add(reply, slots.vectors[first + start], part, size)
        else:
            for place in places:
                letters.add(reply, slots.vectors[place], 1, 0)
        return sum(sizes)

    def _send_apart(self, fd: int, place: int) -> None:
        """Send the datagrams of a letter one by one that the kernel refused as one."""
        vectors, segment = self._letters.content(place)
        for address, size in vectors if segment else ():
            for start in range(0, size, segment):
                part = self._bundle.gather([address + start], min(segment, size - start))
                self._letters.readdress(place, part)
                self._sendmmsg(fd, self._letters.heads[place], 1, _NOW)


def _kernel_joins() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.getsockopt(SOL_UDP, UDP_SEGMENT)
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        except OSError:
            return False
    return True


def datagram_io() -> DatagramIO:
    """The best that there is here."""
    try:
        return BatchedDatagrams()
    except OSError:
        return SingleDatagrams()
