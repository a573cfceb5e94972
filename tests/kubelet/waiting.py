"""Waiting on conditions, never on time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


async def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Until ``condition()`` holds; TimeoutError when it does not come true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the world outside gives no signal
            await asyncio.sleep(0.02)
