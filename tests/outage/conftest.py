"""One cluster for all outages; each finds it whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.lab.lab import lab
from tests.outage.cluster import ETCD_DISK, Cluster


@pytest.fixture(scope="package")
def masters() -> Iterator[Cluster]:
    with lab(checkout=True, disks={"node3": {ETCD_DISK: 256}}) as machines:
        made = Cluster(machines)
        made.start()
        yield made


@pytest.fixture
def cluster(masters: Cluster) -> Iterator[Cluster]:
    masters.wait_whole()
    yield masters
    masters.mend()
