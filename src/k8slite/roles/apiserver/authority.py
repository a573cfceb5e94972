"""One authority for all masters: it lies in the store, and each keeps a copy in its files.

The key is outside ``/registry/``, so no API shows it; it travels with backups and migrations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from k8slite.api.errors import Unavailable, UnknownOutcome
from k8slite.pki.files import Pki, PkiError, new_secret
from k8slite.store.base import (
    Create,
    KeyExists,
    Mismatch,
    OutcomeUnknown,
    Store,
    StoreEvent,
    StoreUnavailable,
    Update,
)
from k8slite.store.cache import WatchCache

log = structlog.get_logger()

KEY = "/authority"

#: Masters that start at once, or a lost answer: somebody gets through.
_ATTEMPTS = 16


class SharedAuthority:
    """The authority of the store, and this master's copy of it (``pki``)."""

    def __init__(self, store: Store, pki: Pki) -> None:
        self._store = store
        self._pki = pki
        self._news = asyncio.Event()
        self._bundle = b""

    async def settle(self) -> None:
        """Make files and store agree: what the store has counts; where it has nothing, it gets
        what the files say. To be called before the files are used.

        Raises PkiError, StoreUnavailable, OSError.
        """
        for _ in range(_ATTEMPTS):
            found = await self._store.get(KEY)
            if found is not None:
                self._bundle = found.value
                if await asyncio.to_thread(self._pki.adopt, found.value):
                    log.info("authority taken over from the store", role="apiserver")
            authority = await asyncio.to_thread(self._pki.ensure_shared)
            bundle = await asyncio.to_thread(self._pki.shared)
            if found is not None and bundle == found.value:
                return
            # Nothing there yet, or it was about to expire and has signed itself anew.
            op = Create(KEY, bundle) if found is None else Update(KEY, bundle, found.mod_revision)
            try:
                await self._store.commit([op])
            except (KeyExists, Mismatch, OutcomeUnknown):
                continue  # somebody else was quicker, or perhaps we were
            self._bundle = bundle
            log.info("authority shared", role="apiserver", fingerprint=authority.fingerprint)
            return
        raise StoreUnavailable("the store did not settle on an authority; try again")

    async def rotate(self) -> None:
        """Another join token, for all masters: the old one opens nothing any more.

        Raises Unavailable, UnknownOutcome.
        """
        secret = new_secret()
        try:
            for _ in range(_ATTEMPTS):
                found = await self._store.get(KEY)
                if found is None:
                    break
                bundle = {**msgspec.json.decode(found.value), "join_token": secret}
                changed = msgspec.json.encode(bundle)
                try:
                    await self._store.commit([Update(KEY, changed, found.mod_revision)])
                except Mismatch:
                    continue
                await asyncio.to_thread(self._pki.adopt, changed)
                return
        except StoreUnavailable as error:
            raise Unavailable(f"the store cannot be reached: {error}", retry_after=1) from error
        except OutcomeUnknown as error:
            raise UnknownOutcome(f"the store did not answer: {error}") from error
        raise Unavailable("the join token could not be changed; try again", retry_after=1)

    def follow(self, cache: WatchCache) -> Callable[[], None]:
        """Notice what other masters change, from now on; ``run`` takes it over."""
        return cache.watch_prefix(KEY, self._on_event)

    def _on_event(self, event: StoreEvent) -> None:
        if event.key == KEY and event.value is not None and event.value != self._bundle:
            self._bundle = event.value
            self._news.set()

    async def run(self, changed: Callable[[], None]) -> None:
        """Take over what other masters wrote, until cancelled; ``changed`` is called after it."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                if await asyncio.to_thread(self._pki.adopt, self._bundle):
                    changed()
            except (PkiError, OSError) as error:
                log.error("authority not taken over", role="apiserver", error=str(error))
