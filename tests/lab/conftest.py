"""One lab for the tests of the lab itself; each leaves it as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.lab.lab import Lab, lab


@pytest.fixture(scope="package")
def machines() -> Iterator[Lab]:
    with lab(sudo_asks=("node2",), disks={"node3": {"/var/lib/small": 16}}) as made:
        yield made
