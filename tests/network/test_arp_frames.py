"""ARP as it goes over the cable, and the filter that the kernel runs."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from k8slite.network import arp
from k8slite.network.arp import Arp

OURS, THEIRS = b"\x02\0\xc0\xa8\0\x0a", b"\x02\0\xc0\xa8\0\x63"
ADDRESS, CLIENT = "192.168.0.240", "192.168.0.99"

_MACS = st.binary(min_size=6, max_size=6)
_IPS = st.ip_addresses(v=4).map(str)
_ARPS = st.builds(Arp, st.sampled_from((1, 2)), _MACS, _IPS, _MACS, _IPS)


@given(_MACS, _ARPS)
def test_a_frame_says_what_was_put_into_it(to: bytes, said: Arp) -> None:
    data = arp.frame(to, said)
    assert len(data) == 60
    assert data[:6] == to
    assert arp.parse(data) == said


@given(st.binary(max_size=80))
def test_anything_else_is_no_arp(data: bytes) -> None:
    found = arp.parse(data)
    assert found is None or arp.frame(data[:6], found)[12:42] == data[12:42]


def test_an_answer_goes_to_who_asked() -> None:
    asked = arp.parse(arp.question(ADDRESS, THEIRS, CLIENT))
    assert asked is not None
    data = arp.answer(asked, OURS)
    assert data[:6] == THEIRS
    assert arp.parse(data) == Arp(arp.REPLY, OURS, ADDRESS, THEIRS, CLIENT)


def test_everybody_is_told_in_both_forms() -> None:
    request, reply = arp.gratuitous(ADDRESS, OURS)
    assert request[:6] == reply[:6] == arp.BROADCAST
    for data, operation in ((request, arp.REQUEST), (reply, arp.REPLY)):
        found = arp.parse(data)
        assert found is not None
        assert (found.operation, found.sender, found.target) == (operation, ADDRESS, ADDRESS)


def accepted(program: bytes, data: bytes) -> bool:
    """Classic BPF, as the kernel runs it, of the instructions used here."""
    lines = list(struct.iter_unpack("=HBBI", program))
    at, register = 0, 0
    while True:
        code, yes, no, value = lines[at]
        at += 1
        match code:
            case 0x20:
                register = int.from_bytes(data[value : value + 4])
            case 0x15:
                at += yes if register == value else no
            case 0x06:
                return bool(value)
            case _:
                raise AssertionError(f"instruction {code:#x}")


@given(_ARPS, st.sets(_IPS, max_size=5), st.booleans())
def test_the_filter_accepts_what_names_an_address_of_ours(
    said: Arp, addresses: set[str], ours: bool
) -> None:
    if ours:
        addresses |= {said.target}
    data = arp.frame(arp.BROADCAST, said)
    wanted = said.sender in addresses or said.target in addresses
    assert accepted(arp.program(addresses), data) is wanted


def test_a_filter_has_a_limit() -> None:
    many = [str(IPv4Address(0x0A000000 + number)) for number in range(1001)]
    assert len(arp.program(many[:-1])) // 8 <= 4096
    assert arp.program(many) == b""
