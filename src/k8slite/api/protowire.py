"""The wire format of protocol buffers: tagged numbers and byte strings, both ways.

The little of it that the API needs: messages, texts, whole numbers and truth values. What a number
means is said by the tables that use it (``api.swagger`` writes, ``api.protobuf`` reads).
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

#: No varint is longer: 64 bits in groups of seven.
_LONGEST = 10


def varint(number: int) -> bytes:
    """A number that is not negative."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A field that holds a number or a truth value."""
    return varint(field << 3 | VARINT) + varint(value)


def text(field: int, value: bytes) -> bytes:
    """A field that holds bytes: a text or a message."""
    return b"%b%b%b" % (varint(field << 3 | BYTES), varint(len(value)), value)


def read(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Each field of a message: its number, and its value as a number or as bytes.

    Raises ValueError for bytes that are no message.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"there is no wire type {wire}")
        if at + size > end:
            raise ValueError("a field is longer than its message")
        yield tag >> 3, data[at : at + size]
        at += size


def signed(value: int) -> int:
    """A varint as a number of 64 bits with its sign."""
    return value - (1 << 64) if value >> 63 else value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + _LONGEST]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + place + 1
    raise ValueError("a number has no end")
