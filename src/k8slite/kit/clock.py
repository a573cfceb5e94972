"""Time, randomness and identity, handed in from here and from nowhere else.

Every room that needs to know "when", "which at random" or "what id" is given a ``Clock``. The
real one reads the machine; ``kit.virtual`` runs the same code on virtual time with a seed.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from datetime import UTC, datetime
from functools import lru_cache

#: Kubernetes' alphabet for generated names: no vowels (no accidental words), no look-alikes.
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"

#: The source of randomness that pure rooms are handed.
Rng = random.Random


class Clock:
    """The machine's time, randomness and ids.

    ``now()`` is Unix time in seconds (for stamps), ``monotonic()`` seconds that never jump
    (for intervals). A seeded ``rng`` makes every choice of a run repeatable.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self.rng = rng if rng is not None else random.Random()

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None = None) -> bool:
        """Wait for ``event``, at most ``seconds``; whether it is set."""
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        return event.is_set()

    def uid(self) -> str:
        """A random RFC 4122 version 4 id drawn from ``rng``."""
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def suffix(self, length: int = 5) -> str:
        """The random tail of a generated name."""
        return "".join(self.rng.choices(SUFFIX_ALPHABET, k=length))

    def stamp(self) -> str:
        """``now()`` as the API writes times: RFC 3339, UTC, whole seconds."""
        return rfc3339(self.now())


class LoopClock(Clock):
    """A clock whose time is the event loop's: virtual when the loop is.

    ``epoch`` is the Unix time at loop time zero.
    """

    def __init__(self, epoch: float = 1_700_000_000.0, seed: int = 0) -> None:
        super().__init__(random.Random(seed))
        self.epoch = epoch

    def now(self) -> float:
        return self.epoch + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def rfc3339(seconds: float) -> str:
    """Unix seconds → ``2026-01-02T03:04:05Z``."""
    return _rfc3339(int(seconds))


@lru_cache(maxsize=256)  # thousands of objects are stamped within a second
def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(text: str) -> float:
    """``2026-01-02T03:04:05Z`` (fractions and offsets allowed) → Unix seconds.

    Raises ValueError when the text is no such time.
    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"no offset from UTC: {text!r}")
    return time.timestamp()
