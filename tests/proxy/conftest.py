from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.proxy.world import Net, built

from k8slite.kit.clock import Clock
from k8slite.netfilter.edge import Edge
from k8slite.netfilter.iptables import LegacyEdge
from k8slite.netfilter.restore import NftEdge


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with built() as made:
        yield made


@pytest.fixture
def new_edge() -> Callable[[], Edge]:
    return lambda: LegacyEdge(Clock())


@pytest.fixture(params=["legacy", "nft"])
def either_edge(request: pytest.FixtureRequest) -> Callable[[], Edge]:
    return (lambda: LegacyEdge(Clock())) if request.param == "legacy" else NftEdge
