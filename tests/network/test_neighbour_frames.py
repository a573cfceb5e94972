"""ARP and NDP as they go over the cable, and the filters that the kernel runs."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from k8slite.network import arp, ndp
from k8slite.network.arp import Arp, ArpTongue
from k8slite.network.ndp import Ndp, NdpTongue
from k8slite.network.tongue import BROADCAST, Heard

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
    question = ArpTongue().question(ADDRESS, THEIRS, CLIENT)
    asked, claimed = ArpTongue().hear(question, OURS)
    assert (asked.address, asked.mac, asked.claimed) == (ADDRESS, THEIRS, False)
    assert asked.answer[:6] == THEIRS
    assert arp.parse(asked.answer) == Arp(arp.REPLY, OURS, ADDRESS, THEIRS, CLIENT)
    assert claimed == Heard(CLIENT, THEIRS, claimed=True)
    assert list(ArpTongue().hear(question, THEIRS)) == [], "that was ourselves"


def test_everybody_is_told_in_both_forms() -> None:
    request, reply = ArpTongue().unasked(ADDRESS, OURS)
    assert request[:6] == reply[:6] == BROADCAST
    for data, operation in ((request, arp.REQUEST), (reply, arp.REPLY)):
        found = arp.parse(data)
        assert found is not None
        assert (found.operation, found.sender, found.target) == (operation, ADDRESS, ADDRESS)
        assert list(ArpTongue().hear(data, THEIRS)) == [Heard(ADDRESS, OURS, claimed=True)]


_IP6S = st.ip_addresses(v=6).map(str)
_NDPS = st.builds(Ndp, st.sampled_from((135, 136)), _MACS, _IP6S, _IP6S, st.integers(0, 255))


@given(_MACS, st.ip_addresses(v=6), _NDPS, st.integers(0, 85))
def test_a_neighbours_message_is_read_as_it_was_written_or_not_at_all(
    to_mac: bytes, to: IPv6Address, said: Ndp, broken: int
) -> None:
    data = ndp.frame(to_mac, to, said)
    assert ndp.parse(data) == said
    if 22 <= broken < len(data) and broken != 21:
        wrong = bytearray(data)
        wrong[broken] ^= 0x01
        assert ndp.parse(bytes(wrong)) is None, "the checksum is over all of it"


@given(st.binary(max_size=100))
def test_anything_else_is_no_neighbour(data: bytes) -> None:
    assert ndp.parse(data) is None


def test_a_solicitation_is_answered_to_its_sender_or_to_all() -> None:
    tongue, address, client = NdpTongue(), "fd00::f0", IPv6Address("fe80::63")
    group = ndp.solicited_node(address)
    assert str(group) == "ff02::1:ff00:f0"
    asked = Ndp(ndp.SOLICITATION, THEIRS, str(client), address)
    (heard,) = tongue.hear(ndp.frame(b"\x33\x33\xff\0\0\xf0", group, asked), OURS)
    said = Ndp(ndp.ADVERTISEMENT, OURS, address, address, ndp.SOLICITED | ndp.OVERRIDE)
    assert heard.answer == ndp.frame(THEIRS, client, said)
    # Who asks whether he may have it, and an advertisement, which is a claim.
    (heard,) = tongue.hear(tongue.question(address, THEIRS, ""), OURS)
    assert (heard.answer,) == tongue.unasked(address, OURS)
    (heard,) = tongue.hear(tongue.unasked(address, THEIRS)[0], OURS)
    assert heard == Heard(address, THEIRS, claimed=True)


def accepted(program: bytes, data: bytes) -> bool:
    """Classic BPF, as the kernel runs it, of the instructions used here."""
    lines = list(struct.iter_unpack("=HBBI", program))
    at, register = 0, 0
    while True:
        code, yes, no, value = lines[at]
        at += 1
        match code:
            case 0x20 | 0x30:
                size = 4 if code == 0x20 else 1
                register = int.from_bytes(data[value : value + size])
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
    data = arp.frame(BROADCAST, said)
    wanted = said.sender in addresses or said.target in addresses
    assert accepted(ArpTongue().program(addresses), data) is wanted


@given(_NDPS, st.sets(_IP6S, max_size=5), st.booleans())
def test_the_filter_lets_neighbours_in_that_name_an_address_of_ours(
    said: Ndp, addresses: set[str], ours: bool
) -> None:
    data = ndp.frame(BROADCAST, IPv6Address("ff02::1"), said)
    if ours:
        assert accepted(NdpTongue().program({*addresses, said.target}), data)
    ends = {IPv6Address(address).packed[12:] for address in addresses}
    if IPv6Address(said.target).packed[12:] not in ends:
        assert not accepted(NdpTongue().program(addresses), data)


def test_a_filter_has_a_limit() -> None:
    many = [str(IPv4Address(0x0A000000 + number)) for number in range(1001)]
    assert len(ArpTongue().program(many[:-1])) // 8 <= 4096
    assert ArpTongue().program(many) == b""
