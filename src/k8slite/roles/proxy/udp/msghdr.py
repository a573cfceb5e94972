"""The structures of recvmmsg(2) and sendmmsg(2), laid out once for ``SLOTS`` datagrams.

They stand in anonymous memory, pages of which cost nothing until a datagram fills them. All of it
is for 64 bits, where struct mmsghdr is: name and its length, vector and its length, control and its
length, flags; then the bytes received. struct iovec: address and length. struct cmsghdr: length,
level, type; its data follow.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct

from k8slite.kit.addresses import unmapped
from k8slite.roles.proxy.udp.datagrams import (
    DATAGRAM_BYTES,
    SLOTS,
    Caller,
    Origin,
    pktinfo,
)

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104

_HEAD = struct.Struct("@PIPLPLi0PI0P")
_VECTOR = struct.Struct("@PL")
_CONTROL = struct.Struct("@Lii")
_VECTOR_TO_CONTROL, _VECTOR_AT = struct.Struct("@PLPL"), 16  # a head's middle

# A caller's name and what it was told of our address, side by side: one unpacking gives both.
_NAME_BYTES, _CONTROL_BYTES = 32, 64
META_BYTES = _NAME_BYTES + _CONTROL_BYTES
_SEGMENT_ROOM = socket.CMSG_SPACE(4)

#: Each slot begins at another line of the cache.
_STRIDE = DATAGRAM_BYTES + 576


class Names:
    """How callers are known: by their sockaddr and the in6_pktinfo or in_pktinfo of our address,
    without the interface, which may change while it is the same caller."""

    def __init__(self, dual: bool) -> None:
        self._dual = dual
        self.size = 28 if dual else 16
        self.caller = struct.Struct("28s4x16s16s32x" if dual else "8s24x16s8x4s36x")
        self.room = socket.CMSG_SPACE(20 if dual else 12)
        level, kind, data = pktinfo(bytes(16 if dual else 4), 0)
        self._control = _CONTROL.pack(socket.CMSG_LEN(len(data)), level, kind)

    def origin(self, caller: Caller) -> Origin | None:
        name, control, local = _parts(caller)
        if control != self._control:
            return None
        port = int.from_bytes(name[2:4], "big")
        if not self._dual:
            return Origin((socket.inet_ntoa(name[4:8]), port), socket.inet_ntoa(local))
        client, ours = (
            unmapped(socket.inet_ntop(socket.AF_INET6, address)) for address in (name[8:24], local)
        )
        return Origin((client, port), ours)

    def reply(self, caller: Caller) -> bytes:
        """Name and control of a datagram to the caller, with room for a size in UDP_SEGMENT."""
        name, _, local = _parts(caller)
        scope = int.from_bytes(name[24:28], "little") if self._dual else 0
        _, _, data = pktinfo(local, scope)
        segment = _CONTROL.pack(socket.CMSG_LEN(2), SOL_UDP, UDP_SEGMENT)
        told = (self._control + data).ljust(self.room, b"\0") + segment
        return name.ljust(_NAME_BYTES, b"\0") + told.ljust(_CONTROL_BYTES, b"\0")

    def joined(self, meta: bytes, room: int) -> tuple[Caller, int]:
        """The caller, and the size of each, of a message that came with ``room`` bytes of control
        and may hold many datagrams in one (size 0: it does not)."""
        name, control = meta[:_NAME_BYTES], meta[_NAME_BYTES : _NAME_BYTES + room]
        if size := segment_of(control):
            control = control[_SEGMENT_ROOM:]
        return self.caller.unpack(name + control.ljust(_CONTROL_BYTES, b"\0")), size


class Slots:
    """``SLOTS`` datagrams and what recvmmsg needs to fill them. ``names`` and ``controls``: how
    many bytes the kernel may write of each.

    Lists are by place. ``sizes`` is what was received, ``rooms`` the bytes of control that came
    with it; ``vectors`` are addresses of the vectors that send, ``lengths`` how much they send.
    """

    def __init__(self, names: int, controls: int) -> None:
        metas, heads, vectors = (SLOTS * size for size in (META_BYTES, _HEAD.size, _VECTOR.size))
        start = (metas + heads + 2 * vectors + 4095) & ~4095
        whole, base = memory(start + SLOTS * _STRIDE)
        into = metas + heads  # the vectors that receive; after them those that send
        self._metas = whole[:metas]
        self._heads = whole[metas:into]
        self.addresses = [base + start + place * _STRIDE for place in range(SLOTS)]
        self.data = [whole[start + place * _STRIDE :][:DATAGRAM_BYTES] for place in range(SLOTS)]
        self.vectors = [base + into + vectors + place * _VECTOR.size for place in range(SLOTS)]
        self.heads = [ctypes.c_void_p(base + metas + place * _HEAD.size) for place in range(SLOTS)]
        for place, address in enumerate(self.addresses):
            meta, vector = base + place * META_BYTES, into + place * _VECTOR.size
            _VECTOR.pack_into(whole, vector, address, DATAGRAM_BYTES)
            _VECTOR.pack_into(whole, vector + vectors, address, 0)
            _HEAD.pack_into(
                self._heads, place * _HEAD.size,
                meta if names else 0, names, base + vector, 1,
                meta + _NAME_BYTES, controls, 0, 0,
            )  # fmt: skip
        self._template = bytes(self._heads)
        self.sizes = self._heads.cast("I")[14::16]
        self.rooms = self._heads.cast("L")[5::8]
        self.lengths = whole[into + vectors : into + 2 * vectors].cast("L")[1::2]

    def metas(self, count: int) -> memoryview:
        return self._metas[: count * META_BYTES]

    def meta(self, place: int) -> bytes:
        return bytes(self._metas[place * META_BYTES : (place + 1) * META_BYTES])

    def control(self, place: int) -> bytes:
        """What came with the datagram at ``place``, besides its name."""
        return self.meta(place)[_NAME_BYTES:][: self.rooms[place]]

    def renew(self, count: int) -> None:
        """Make the first so many ready to be filled again."""
        size = count * _HEAD.size
        self._heads[:size] = self._template[:size]


class Letters:
    """What sendmmsg needs to send to many, each at an address of its own."""

    def __init__(self, names: Names) -> None:
        self.count = 0
        metas = SLOTS * META_BYTES
        whole, base = memory(metas + SLOTS * _HEAD.size)
        self._plain = names.room
        self._metas, self._heads = whole[:metas], whole[metas:]
        self._controls = [base + place * META_BYTES + _NAME_BYTES for place in range(SLOTS)]
        self.heads = [ctypes.c_void_p(base + metas + place * _HEAD.size) for place in range(SLOTS)]
        for place in range(SLOTS):
            _HEAD.pack_into(
                self._heads, place * _HEAD.size,
                base + place * META_BYTES, names.size, 0, 0, 0, 0, 0, 0,
            )  # fmt: skip

    def add(self, reply: bytes, vector: int, count: int, segment: int) -> None:
        """To be sent: ``count`` vectors from the address ``vector`` on. ``segment``: they are many
        datagrams of this size in one (0: they are one)."""
        place, room = self.count, self._plain
        at = place * META_BYTES
        self._metas[at : at + META_BYTES] = reply
        if segment:
            _SEGMENT.pack_into(self._metas, at + _NAME_BYTES + room + _CONTROL.size, segment)
            room += _SEGMENT_ROOM
        self._write(place, vector, count, room)
        self.count = place + 1

    def content(self, place: int) -> tuple[list[tuple[int, int]], int]:
        """The vectors (address and length) of a letter, and its size of segments or 0."""
        vector, count, _, room = _VECTOR_TO_CONTROL.unpack_from(
            self._heads, place * _HEAD.size + _VECTOR_AT
        )
        vectors = ctypes.string_at(vector, count * _VECTOR.size)
        at = place * META_BYTES + _NAME_BYTES + self._plain + _CONTROL.size
        segment = _SEGMENT.unpack_from(self._metas, at)[0] if room > self._plain else 0
        return list(_VECTOR.iter_unpack(vectors)), segment

    def readdress(self, place: int, vector: int) -> None:
        """Make the letter at ``place`` bring one vector, as one datagram."""
        self._write(place, vector, 1, self._plain)

    def _write(self, place: int, vector: int, count: int, room: int) -> None:
        _VECTOR_TO_CONTROL.pack_into(
            self._heads, place * _HEAD.size + _VECTOR_AT,
            vector, count, self._controls[place], room,
        )  # fmt: skip


class Bundle:
    """One message without a name, of datagrams that are sent as one."""

    def __init__(self) -> None:
        start = 128
        self._whole, base = memory(start + SLOTS * _VECTOR.size)
        self._vectors_at, self._vectors = start, base + start
        self.head = ctypes.c_void_p(base)
        _CONTROL.pack_into(self._whole, 64, socket.CMSG_LEN(2), SOL_UDP, UDP_SEGMENT)
        _HEAD.pack_into(self._whole, 0, 0, 0, 0, 0, base + 64, _SEGMENT_ROOM, 0, 0)
        self._control = base + 64

    def gather(self, addresses: list[int], size: int) -> int:
        """Vectors of ``size`` bytes at each address. Returns where they stand, until the next
        call."""
        for number, address in enumerate(addresses):
            at = self._vectors_at + number * _VECTOR.size
            _VECTOR.pack_into(self._whole, at, address, size)
        return self._vectors

    def fill(self, vector: int, count: int, segment: int) -> None:
        _SEGMENT.pack_into(self._whole, 64 + _CONTROL.size, segment)
        _VECTOR_TO_CONTROL.pack_into(
            self._whole, _VECTOR_AT, vector, count, self._control, _SEGMENT_ROOM
        )


_SEGMENT = struct.Struct("=H")


def memory(size: int) -> tuple[memoryview, int]:
    """So many bytes, zero, and their address. They live as long as the view."""
    mapped = mmap.mmap(-1, size)
    return memoryview(mapped), ctypes.addressof(ctypes.c_char.from_buffer(mapped))


def segment_of(control: bytes) -> int:
    """What UDP_GRO says at the head of a control: the size of each of many in one; else 0."""
    if len(control) < _CONTROL.size + 4:
        return 0
    _, level, kind = _CONTROL.unpack_from(control)
    if (level, kind) != (SOL_UDP, UDP_GRO):
        return 0
    return int.from_bytes(control[_CONTROL.size :][:4], "little")


def _parts(caller: Caller) -> tuple[bytes, bytes, bytes]:
    assert isinstance(caller, tuple)
    name, control, local = caller
    return name, control, local
