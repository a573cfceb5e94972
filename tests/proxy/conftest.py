from __future__ import annotations

import resource
from collections.abc import Callable, Iterator

import pytest
from tests.proxy.world import Net, built

from k8slite.kit.clock import Clock
from k8slite.netfilter.choice import choose_edge
from k8slite.netfilter.edge import Edge
from k8slite.netfilter.iptables import LegacyEdge
from k8slite.netfilter.restore import NftEdge


@pytest.fixture(autouse=True, scope="session")
def descriptors_enough() -> Iterator[None]:
    """As an agent takes them: proxy and clients are of this one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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


def kernel_edge() -> Edge:
    """What serves in the mode nft."""
    return choose_edge(Clock(), kernel=True, pod_network="172.16.0.0/16", bridge="pod0")


@pytest.fixture(params=["userspace", "kernel"])
def either_mode(request: pytest.FixtureRequest) -> Callable[[], Edge]:
    return (lambda: LegacyEdge(Clock())) if request.param == "userspace" else kernel_edge
