"""A served API for tests that talk HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_serving import Served, serving


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Served]:
    """A server on free ports of loopback, with the memory store."""
    async with serving(tmp_path) as served:
        yield served
