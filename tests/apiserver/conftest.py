"""A served API for tests that talk HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_serving import Served, serving


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose certificates are made once for all tests."""
    return tmp_path_factory.mktemp("apiserver")


@pytest.fixture
async def api(shared_data: Path) -> AsyncIterator[Served]:
    """A server on free ports of loopback, with the memory store."""
    async with serving(shared_data) as served:
        yield served
