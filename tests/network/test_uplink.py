"""What a host knows of the LAN that it is in."""

from __future__ import annotations

from tests.netfilter.sites import Site, cable

from k8slite.network.uplink import not_for_services


async def known(address: str) -> frozenset[str]:
    return not_for_services(address)


def test_routers_and_the_ends_of_the_lan_are_for_no_service() -> None:
    with Site("host") as host, Site("router") as router:
        cable(host, "10.7.1.10/23", router, "10.7.0.1/23", "up0")
        host.ip("route", "add", "default", "via", "10.7.0.1")
        host.ip("route", "add", "10.8.0.0/16", "via", "10.7.0.2")
        assert host.do(known("10.7.1.10")) == {"10.7.0.0", "10.7.1.255", "10.7.0.1", "10.7.0.2"}
        assert host.do(known("10.7.1.11")) == frozenset()
    with Site("one") as one, Site("other") as other:
        cable(one, "10.7.1.10/31", other, "10.7.1.11/31", "up0")
        assert one.do(known("10.7.1.10")) == frozenset()
