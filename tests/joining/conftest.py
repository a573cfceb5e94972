"""Several masters over one store, and machines that join them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

# The masters are those of the client's tests; they are borrowed here, not copied.
sys.path.insert(0, str(Path(__file__).parent.parent / "client"))

from masters import Master, masters


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[list[Master]]:
    async with masters(tmp_path / "masters", 2) as found:
        yield found


@pytest.fixture
def master(two: list[Master]) -> Master:
    return two[0]
