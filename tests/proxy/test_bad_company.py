"""A whole agent in bad company: the API goes on answering, and nothing is left of it.

How quick it answers meanwhile is measured by ``bench/floods.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from bench.floods import Site, ask_api, site
from tests.proxy.world import NODE

SECONDS = 1.2

#: What takes longest to be over comes first.
COMPANY = {
    "an endpoint that is silent": ("silent", "tear", 200),
    "datagrams of invented senders": ("dns", "udp", 10_000),
    "idle connections": ("echo", "hold", 1_000),
    "slow readers": ("source", "slow", 50),
    "readers that are gone without a word": ("source", "vanish", 50),
    "torn streams": ("echo", "tear", 500),
    "connections that are reset at once": ("echo", "dial", 500),
    "SYN of invented senders": ("echo", "syn", 5_000),
}


@pytest.fixture(scope="module")
def made() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.mark.parametrize("company", COMPANY)
def test_every_question_is_answered_meanwhile(made: Site, company: str) -> None:
    service, mode, amount = COMPANY[company]
    trouble = made.trouble(mode, service, amount, SECONDS)
    times = ask_api(made.net, 0.7)
    assert trouble.communicate()[0].strip() != "0"
    assert times.count >= 100
    assert times.failed == 0
    assert made.agent.poll() is None


def test_strangers_at_the_random_ports_are_no_trouble_either(made: Site) -> None:
    """Straight to a listener, past every portal."""
    [port] = {
        line.split()[3].rsplit(":", 1)[1]
        for line in made.net.node.run("ss", "-Hlunp").splitlines()
        if f"pid={made.agent.pid}," in line
    }
    trouble = made.start([str(made.folder / "trouble"), "udp", NODE, port, "10000", str(SECONDS)])
    assert ask_api(made.net, 0.7).failed == 0
    trouble.communicate()


def test_nothing_is_left_of_it(made: Site) -> None:
    """Sessions of UDP go with silence, attempts to connect with the last of their time."""
    deadline = time.monotonic() + 60
    while made.descriptors() > made.at_first + 20:  # the API keeps some connections for a while
        assert time.monotonic() < deadline
        time.sleep(0.2)
