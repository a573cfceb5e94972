"""Whatever dies, returns or is cut off: an address has one announcer, soon."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from typing import Any

import pytest
from simulated import Site, endpoints, node, service

from k8slite.decide import announcing
from k8slite.decide.announcing import EXCLUDED
from k8slite.kit.virtual import run_virtual

ADDRESS = "192.168.0.240"
OTHER = "192.168.0.241"


def play(site: Site, story: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        try:
            await story
        finally:
            await site.stop()

    run_virtual(main())


def made(count: int, **options: Any) -> Site:
    return Site(count, **options)


def ranked(site: Site, address: str = ADDRESS) -> list[str]:
    offer = announcing.Offer(address, (), True)
    return list(announcing.candidates(offer, [one.name for one in site.nodes]))


def serve(site: Site, name: str = "web", address: str = ADDRESS, **spec: Any) -> None:
    ready = [(f"172.16.0.{i}", one.name) for i, one in enumerate(site.nodes)]
    site.informers.put(endpoints(name, *ready))
    site.informers.put(service(name, address, **spec))


def alone(site: Site, name: str, address: str = ADDRESS) -> bool:
    return site.announcers().get(address, []) == [name]


def story(count: int = 3, **options: Any) -> Any:
    """A test that is played on a site of so many nodes, one service up."""

    def decorate(told: Any) -> Any:
        def test() -> None:
            async def main() -> None:
                site = Site(count, **options)
                try:
                    site.start()
                    serve(site)
                    await site.until(lambda: alone(site, ranked(site)[0]))
                    await told(site)
                finally:
                    await site.stop()

            run_virtual(main())

        test.__name__ = told.__name__
        return test

    return decorate


@story()
async def test_the_next_in_rank_takes_over_within_three_seconds(site: Site) -> None:
    first, second, _ = ranked(site)
    await site.named(first).kill()
    assert await site.until(lambda: alone(site, second)) < 3
    site.named(first).start()
    assert await site.until(lambda: alone(site, first)) < 3


@story()
async def test_a_node_that_leaves_in_good_order_says_good_bye(site: Site) -> None:
    first, second, _ = ranked(site)
    await site.named(first).leave()
    assert await site.until(lambda: alone(site, second)) < 0.5


@story()
async def test_two_may_die_at_once(site: Site) -> None:
    first, second, third = ranked(site)
    await site.named(first).kill()
    await site.named(second).kill()
    assert await site.until(lambda: alone(site, third)) < 5


@story(seed=3, loss=0.05)
async def test_a_lost_datagram_moves_nothing(site: Site) -> None:
    first = ranked(site)[0]
    for _ in range(300):
        await site.clock.sleep(0.1)
        assert first in site.announcers()[ADDRESS]


@story()
async def test_portal_rules_in_trouble_move_the_address_at_once(site: Site) -> None:
    first, second, _ = ranked(site)
    site.named(first).portals.trouble = "the tables are locked"
    assert await site.until(lambda: alone(site, second)) < 2
    assert "AddressNotAnnounced" in site.named(first).recorded.reasons()
    site.named(first).portals.trouble = ""
    await site.until(lambda: alone(site, first))


@story()
async def test_without_a_ready_endpoint_nobody_announces(site: Site) -> None:
    first = ranked(site)[0]
    site.informers.put(endpoints("web"))
    assert await site.until(lambda: not site.announcers()) < 0.5
    told = [text for _, reason, text in site.named(first).recorded.told if "With" in reason]
    assert told == [f"node {first} announces {ADDRESS} no longer: no endpoint is ready"]
    serve(site)
    await site.until(lambda: alone(site, first))
    site.informers.remove(service("web"))
    assert await site.until(lambda: not site.announcers()) < 0.5


@story()
async def test_policy_local_keeps_it_where_an_endpoint_is(site: Site) -> None:
    first, second, third = ranked(site)
    serve(site, external_traffic_policy="Local")
    site.informers.put(endpoints("web", ("172.16.0.1", second), ("172.16.0.2", third)))
    assert await site.until(lambda: alone(site, second)) < 3
    site.informers.put(endpoints("web", ("172.16.0.1", first)))
    assert await site.until(lambda: alone(site, first)) < 1


@story()
async def test_a_node_with_the_label_or_without_its_node_object_is_left_out(site: Site) -> None:
    first, second, third = ranked(site)
    site.informers.put(node(first, site.named(first).address, **{EXCLUDED: ""}))
    assert await site.until(lambda: alone(site, second)) < 3
    site.informers.remove(node(second, ""))
    assert await site.until(lambda: alone(site, third)) < 3


@story(5)
async def test_those_who_were_apart_agree_again_and_the_right_one_tells_everybody(
    site: Site,
) -> None:
    first, second, *_ = ranked(site)
    site.severing(first)
    await site.until(lambda: sorted(site.announcers()[ADDRESS]) == sorted((first, second)))
    site.severing()
    before = site.named(first).voice.renewed
    assert await site.until(lambda: alone(site, first)) < 3
    assert site.named(first).voice.renewed > before, "hosts have learned the other's address"


@story(3)
async def test_a_node_that_slept_takes_nobody_for_dead(site: Site) -> None:
    """Its probes were asked by nobody, and count for nothing."""
    first, second, _ = ranked(site)
    sleeper = site.named(second)
    paces = sleeper.announcer._paces
    for _ in range(5):
        later = site.clock.monotonic() + 1000
        states = [sleeper.announcer._peers._sight.state(peer, later) for peer in paces]
        assert announcing.State.DEAD not in states
        await site.clock.sleep(1)
    assert alone(site, first)


@story(200)
async def test_of_many_nodes_only_a_few_are_asked(site: Site) -> None:
    first, second, *_ = ranked(site)
    await site.clock.sleep(10)
    before = site.network.sent
    await site.clock.sleep(10)
    # Two datagrams a probe; an address is watched by all, the further down the more slowly.
    assert (site.network.sent - before) / 10 < 200
    await site.named(first).kill()
    assert await site.until(lambda: alone(site, second)) < 3


@pytest.mark.parametrize("seed", range(40))
def test_chaos_ends_with_one_announcer_for_each_address(seed: int) -> None:
    """Nodes die and return, lose their rules, are cut off; datagrams get lost. When it ends every
    address has one announcer among those who are well."""

    async def main() -> None:
        rng = random.Random(seed)
        site = Site(rng.randint(2, 7), seed=seed, loss=0.1)
        addresses = [f"192.168.0.{240 + i}" for i in range(4)]
        try:
            site.start()
            for number, address in enumerate(addresses):
                local = rng.choice(("Cluster", "Local"))
                serve(site, f"s{number}", address, external_traffic_policy=local)
            for _ in range(12):
                await site.clock.sleep(rng.random() * 4)
                one = rng.choice(site.nodes)
                match rng.randrange(5):
                    case 0 | 1 if one.alive:
                        await one.kill()
                    case 0 | 1 | 2 if not one.alive:
                        one.start()
                    case 3:
                        one.portals.trouble = rng.choice(("", "locked"))
                    case _:
                        site.severing(*rng.choice(((), (one.name,))))
            site.severing()
            site.network.loss = 0.0
            able = {one.name for one in site.nodes if one.alive and not one.portals.trouble}
            await site.clock.sleep(15)
            for address in addresses:
                expected = [name for name in ranked(site, address) if name in able][:1]
                assert list(site.announcers().get(address, [])) == expected
        finally:
            await site.stop()

    run_virtual(main())
