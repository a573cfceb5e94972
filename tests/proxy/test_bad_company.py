"""A whole agent in bad company: the API goes on answering, and nothing is left of it.

How quick it answers meanwhile is measured by ``bench/floods.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from subprocess import Popen

import pytest
from bench.floods import MARGIN, Site, Times, ask_api, site
from tests.proxy.world import NODE

#: Seconds for which the API is asked, and for which company is there: longer in the second attempt.
ASKED = 0.7
PRESENT = (ASKED + MARGIN, ASKED + 8 * MARGIN)

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


def ask_in_company(made: Site, begin: Callable[[float], Popen[str]]) -> Times:
    """How the API answers while what ``begin`` began is there: a busy machine may be so slow to
    ask that it is over before."""
    for seconds in PRESENT:
        trouble = begin(seconds)
        times = ask_api(made.net, ASKED)
        outlasts = trouble.poll() is None
        said = trouble.communicate()[0]
        assert trouble.returncode == 0
        assert int(said) > 0
        if outlasts:
            return times
    raise AssertionError("the company was over before the questions were")


@pytest.mark.parametrize("company", COMPANY)
def test_every_question_is_answered_meanwhile(made: Site, company: str) -> None:
    service, mode, amount = COMPANY[company]
    times = ask_in_company(made, lambda seconds: made.trouble(mode, service, amount, seconds))
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
    words = [str(made.folder / "trouble"), "udp", NODE, port, "10000"]
    assert ask_in_company(made, lambda seconds: made.start([*words, str(seconds)])).failed == 0


def test_nothing_is_left_of_it(made: Site) -> None:
    """Sessions of UDP go with silence, attempts to connect with the last of their time."""
    deadline = time.monotonic() + 60
    while made.descriptors() > made.at_first + 20:  # the API keeps some connections for a while
        assert time.monotonic() < deadline
        time.sleep(0.2)
