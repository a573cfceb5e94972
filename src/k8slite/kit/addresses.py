"""Spellings of addresses, as sockets of IPv6 have them."""

from __future__ import annotations


def unmapped(address: str) -> str:
    """An IPv4 address as usual that is written as an IPv6 one; any other as it is."""
    return address[7:] if address.startswith("::ffff:") and "." in address else address


def plain(address: str) -> str:
    """``unmapped``, and without the zone of a link-local address."""
    return unmapped(address).partition("%")[0]
