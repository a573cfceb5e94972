"""The PROXY protocol's header, against the examples of HAProxy's proxy-protocol.txt."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.roles.proxy.tcp.proxyprotocol import HEADERS, SIGNATURE, Side, version_1, version_2

ports = st.integers(0, 65_535)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)
sides = st.one_of(
    st.tuples(st.builds(Side, ipv4, ports), st.builds(Side, ipv4, ports)),
    st.tuples(st.builds(Side, ipv6, ports), st.builds(Side, ipv6, ports)),
)


def test_the_line_is_that_of_the_specification() -> None:
    client, target = Side("192.168.0.1", 56324), Side("192.168.0.11", 443)
    assert version_1(client, target) == b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"


@pytest.mark.parametrize(
    ("address", "length"),
    [("255.255.255.255", 56), ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 104)],
)
def test_the_longest_lines_have_the_lengths_of_the_specification(address: str, length: int) -> None:
    assert len(version_1(Side(address, 65_535), Side(address, 65_535))) == length


def test_the_binary_form_for_ipv4() -> None:
    made = version_2(Side("192.168.0.1", 56324), Side("192.168.0.11", 443))
    assert made == (
        b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"  # the signature
        b"\x21\x11\x00\x0c"  # version 2 and PROXY, TCP over IPv4, 12 bytes follow
        b"\xc0\xa8\x00\x01\xc0\xa8\x00\x0b\xdc\x04\x01\xbb"
    )


def test_the_binary_form_for_ipv6() -> None:
    made = version_2(Side("2001:db8::1", 1), Side("2001:db8::2", 2))
    assert made[:16] == SIGNATURE + b"\x21\x21\x00\x24"
    assert made[16:] == (
        bytes.fromhex("20010db8000000000000000000000001" "20010db8000000000000000000000002")
        + b"\x00\x01\x00\x02"
    )  # fmt: skip


@given(sides)
def test_a_receiver_reads_back_what_was_told(sides: tuple[Side, Side]) -> None:
    client, target = sides
    word, family, source, destination, *numbers = version_1(client, target).decode().split()
    assert (word, family) == ("PROXY", "TCP6" if ":" in client.address else "TCP4")
    assert (Side(source, int(numbers[0])), Side(destination, int(numbers[1]))) == sides
    binary = version_2(client, target)
    (length,) = struct.unpack_from("!H", binary, 14)
    assert len(binary) == 16 + length
    size = (length - 4) // 2
    told = [
        str(ipaddress.ip_address(binary[at : at + size])) for at in range(16, 16 + 2 * size, size)
    ]
    numbers_told = struct.unpack_from("!HH", binary, 16 + 2 * size)
    assert tuple(map(Side, told, numbers_told)) == sides


@pytest.mark.parametrize("header", HEADERS.values())
def test_families_do_not_mix(header) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="cannot have asked for"):
        header(Side("10.0.0.1", 1), Side("2001:db8::1", 2))
