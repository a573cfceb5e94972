"""Talking to nftables over netlink (nf_tables.h): transactions, dumps, and news of changes.

A batch of messages is one transaction: it happens whole or not at all, and it has happened when
``commit`` returns. Registers, sets and chains are the callers' matter.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from k8slite.netfilter.edge import Drifted, Locked, NetfilterError, NotPermitted, Unsupported

IPV4, IPV6 = 2, 10  # NFPROTO_*

_NETLINK_NETFILTER = 12
_NFTABLES = 10  # NFNL_SUBSYS_NFTABLES
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_DUMP_INTERRUPTED = 0x10
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NEWS = 7  # NFNLGRP_NFTABLES
_SO_ATTACH_FILTER, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 26, 32, 33

# Flags of messages.
REQUEST, ECHO, DUMP, REPLACE, CREATE, APPEND = 0x1, 0x8, 0x300, 0x100, 0x400, 0x800

(
    NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE,
    NEWSET, GETSET, DELSET, NEWELEMENT, GETELEMENT, DELELEMENT, NEWGEN, GETGEN,
) = (_NFTABLES << 8 | number for number in range(17))  # fmt: skip

_HEAD = struct.Struct("=IHHIIBBH")
_ATTRIBUTE = struct.Struct("=HH")

#: So much news is held until we look; what is more makes us read everything.
_NEWS_BYTES = 1 << 24

#: A dump that others' changes interrupted is begun anew so many times.
_ATTEMPTS = 20


class Message(NamedTuple):
    """One message of a transaction. ``about`` says in words what it is for."""

    kind: int
    family: int
    flags: int
    attributes: bytes
    about: str = ""


class Link:
    """A netlink socket to nftables in this network namespace; belongs on one thread. Calls never
    wait: the kernel works within the send. Raises Unsupported."""

    def __init__(self) -> None:
        self._socket = _netlink_socket()
        self._sequence = 0
        self._overrun = False  # some of what was last read got lost
        self.port: int = self._socket.getsockname()[0]

    def close(self) -> None:
        self._socket.close()

    def generation(self) -> bytes:
        """A number that grows with every change of nftables in this network namespace. Raises
        Unsupported where there is no nftables."""
        self._send(self._message(GETGEN, 0, REQUEST, b""))
        for kind, _, payload, sequence in self._received():
            if sequence == self._sequence and kind == NEWGEN:
                return payload[8:12]  # the first attribute: NFTA_GEN_ID
        raise Unsupported("this kernel has no nftables")

    def commit(
        self, messages: Iterable[Message], generation: bytes | None = None
    ) -> dict[int, bytes]:
        """Do all of ``messages`` or nothing; with ``generation``, only as long as that is it.
        Returns what the kernel says of those with ECHO, by their place. Raises Drifted when
        something is not there, or there already; NotPermitted; Unsupported; NetfilterError."""
        parts = [self._bracket(_BATCH_BEGIN, attribute(1, generation) if generation else b"")]
        first = self._sequence + 1
        abouts = []
        for kind, family, flags, body, about in messages:
            parts.append(self._message(kind, family, REQUEST | flags, body))
            abouts.append(about or f"a message of kind {kind & 0xFF}")
        parts.append(self._bracket(_BATCH_END))
        self._send(b"".join(parts))
        # Without a word everything is done. After a refusal every message that fails is told of;
        # the first is the cause.
        echoes: dict[int, bytes] = {}
        for kind, _, payload, sequence in self._received():
            at = sequence - first
            if at < -1:
                continue  # of an earlier transaction that was refused
            code = -struct.unpack_from("=i", payload)[0] if kind == _NLMSG_ERROR else 0
            if code:
                raise_for(code, abouts[at] if 0 <= at < len(abouts) else "a transaction")
            elif kind >> 8 == _NFTABLES:
                echoes.setdefault(at, payload[4:])
        if self._overrun:
            raise Drifted("nftables said more of a transaction than could be heard")
        return echoes

    def dump(self, kind: int, family: int, attributes: bytes = b"") -> list[bytes]:
        """The attributes of every object of a kind; none when the table named is not there.
        Raises Locked when others' changes go on interrupting, NetfilterError."""
        for _ in range(_ATTEMPTS):
            self._send(self._message(kind, family, REQUEST | DUMP, attributes))
            found: list[bytes] = []
            whole = True
            for answer, flags, payload, sequence in self._received():
                if sequence != self._sequence:
                    continue
                whole &= not flags & _DUMP_INTERRUPTED
                if answer == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    if code == errno.ENOENT:
                        return []
                    if code in (errno.EINTR, errno.EBUSY):  # busy: an earlier one was cut off
                        whole = False
                    elif code:
                        raise_for(code, "reading")
                elif answer != _NLMSG_DONE:
                    found.append(payload[4:])
            if whole and not self._overrun:
                return found
        raise Locked("nftables changes faster than it can be read; end what changes it")

    def _send(self, data: bytes) -> None:
        if len(data) > self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2:
            _enlarge(self._socket, _SO_SNDBUFFORCE, socket.SO_SNDBUF, 2 * len(data))
        try:
            self._socket.send(data)
        except OSError as error:
            raise_for(error.errno or 0, "sending")

    def _message(self, kind: int, family: int, flags: int, attributes: bytes) -> bytes:
        self._sequence += 1
        size = 20 + len(attributes)
        return _HEAD.pack(size, kind, flags, self._sequence, 0, family, 0, 0) + attributes

    def _bracket(self, kind: int, body: bytes = b"") -> bytes:
        self._sequence += 1
        subsystem = socket.htons(_NFTABLES)
        size = 20 + len(body)
        return _HEAD.pack(size, kind, REQUEST, self._sequence, 0, 0, 0, subsystem) + body

    def _received(self) -> Iterator[tuple[int, int, bytes, int]]:
        """Kind, flags, payload and sequence of everything there is to read. What did not fit
        is ``_overrun``: a transaction that is refused has as many answers as messages."""
        self._overrun = False
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self._overrun = True
                    continue
                raise_for(error.errno or 0, "reading answers")
                return
            yield from messages_of(data)


class News:
    """What others change in nftables, told by the kernel in order; ``port`` is the ``Link`` whose
    own changes are not wanted. It misses nothing: what it cannot hold counts as a change."""

    def __init__(self, port: int) -> None:
        self._socket = _netlink_socket()
        try:
            _ignore(self._socket, port)
            _enlarge(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF, _NEWS_BYTES)
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NEWS)
        except OSError as error:
            self._socket.close()
            raise_for(error.errno or 0, "listening for changes")

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def of(self, tables: frozenset[tuple[int, str]]) -> bool:
        """Whether anybody changed one of ``tables`` (family, name) since the last time."""
        found = False
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return found
            except OSError:
                found = True  # more than fits: some may be ours
                continue
            for kind, _, payload, _ in messages_of(data):
                if kind != NEWGEN and payload:
                    # In every message of nftables the first attribute is the table's name.
                    name = next((value for _, value in attributes(payload[4:])), b"")
                    found |= (payload[0], name.rstrip(b"\0").decode()) in tables


def _netlink_socket() -> socket.socket:
    try:
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    except OSError as error:
        raise Unsupported(f"no netfilter netlink here: {error.strerror}") from error
    try:
        link.bind((0, 0))
    except OSError as error:
        link.close()
        raise Unsupported(f"no netfilter netlink here: {error.strerror}") from error
    link.setblocking(False)
    return link


def _enlarge(link: socket.socket, forced: int, plain: int, size: int) -> None:
    try:
        link.setsockopt(socket.SOL_SOCKET, forced, size)
    except OSError:  # without CAP_NET_ADMIN in the first namespace: as far as the limit goes
        link.setsockopt(socket.SOL_SOCKET, plain, size)


def _ignore(link: socket.socket, port: int) -> None:
    """Let the kernel drop what the netlink socket ``port`` caused: the word nlmsg_pid of the first
    message, for one datagram holds one transaction's. (Classic BPF, struct sock_fprog.)"""
    words_as_read = socket.htonl(port)  # BPF reads big-endian, netlink writes the machine's order
    program = ctypes.create_string_buffer(
        struct.pack("=HBBI", 0x20, 0, 0, 12)  # load the word at 12
        + struct.pack("=HBBI", 0x15, 0, 1, words_as_read)  # unless it is the port, skip one
        + struct.pack("=HBBI", 0x06, 0, 0, 0)  # drop
        + struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF),  # keep
        32,
    )
    head = struct.pack("@HP", 4, ctypes.addressof(program))
    link.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)


def messages_of(data: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    at = 0
    while at + 16 <= len(data):
        size, kind, flags, sequence = struct.unpack_from("=IHHI", data, at)
        yield kind, flags, data[at + 16 : at + size], sequence
        at += (size + 3) & ~3


def raise_for(code: int, about: str) -> None:
    """Raise what an errno of the kernel means; nothing for 0."""
    if code == 0:
        return
    text = f"nftables refused {about}: {os.strerror(code)}"
    if code in (errno.ERESTART, errno.ENOENT, errno.EEXIST, errno.EBUSY):
        raise Drifted(text)
    if code in (errno.EPERM, errno.EACCES):
        raise NotPermitted(f"{text}; it needs root or CAP_NET_ADMIN")
    if code in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
        raise Unsupported(f"{text}; this kernel's nftables lacks it")
    raise NetfilterError(text)


def attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 0, len(data)
    while at + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def text(name: str) -> bytes:
    return name.encode() + b"\0"


def word(value: int) -> bytes:
    return value.to_bytes(4, "big")
