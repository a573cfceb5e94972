"""One address, one spelling."""

from __future__ import annotations

import pytest

from k8slite.kit.addresses import plain, unmapped


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:1", "::ffff:1"),
        ("2001:db8::1", "2001:db8::1"),
        ("", ""),
    ],
)
def test_an_address_is_spelt_plainly(written: str, meant: str) -> None:
    assert plain(written) == meant


def test_a_zone_stays_where_it_is_needed() -> None:
    assert unmapped("fe80::1%eth0") == "fe80::1%eth0"
