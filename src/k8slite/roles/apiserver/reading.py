"""Reads: one object, or a list in one piece or in pages."""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from k8slite.api import errors
from k8slite.api.errors import BadRequest, Expired
from k8slite.api.meta import ListMeta, Status
from k8slite.api.paths import Target
from k8slite.api.scheme import Kind
from k8slite.kit.clock import Clock
from k8slite.roles.apiserver import forms
from k8slite.roles.apiserver.answers import Ready
from k8slite.roles.apiserver.forms import Form, Page
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.selection import Selection
from k8slite.roles.apiserver.watching import parse_version, reach
from k8slite.store.cache import WatchCache
from k8slite.store.entry import Entry

#: Lists that are being paged through, and for how many seconds a page may be asked for.
SNAPSHOTS = 64
SNAPSHOT_SECONDS = 300.0


class Token(msgspec.Struct, frozen=True, rename="camel"):
    """A continue token: which list (``rv``; -1: whatever is there) and after which key."""

    rv: int
    start: str
    v: str = "meta.k8s.io/v1"

    def text(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            return msgspec.json.decode(raw, type=cls)
        except (binascii.Error, ValueError, msgspec.MsgspecError):
            raise BadRequest("continue key is not valid: it is none of this server's") from None


class ContinueExpired(Expired):
    """The list that a token belongs to is no longer kept; ``token`` goes on without it."""

    def __init__(self, token: Token) -> None:
        super().__init__(
            "The provided continue parameter is too old to display a consistent list result. You "
            "can start a new list without the continue parameter, or use the continue token in "
            "this response to retrieve the remainder of the results, which may be inconsistent."
        )
        self.token = token

    def status(self) -> Status:
        return msgspec.structs.replace(
            super().status(), metadata=ListMeta(continue_=self.token.text())
        )


@dataclass(frozen=True, slots=True)
class _Snapshot:
    entries: Sequence[Entry[Any]]
    made: float


class Snapshots:
    """The lists that clients are paging through. An entry is shared with the cache, so a
    snapshot costs a pointer for each object; the oldest make room for new ones."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[Any, ...], _Snapshot] = OrderedDict()

    def keep(self, key: tuple[Any, ...], entries: Sequence[Entry[Any]]) -> None:
        self._kept[key] = _Snapshot(entries, self._clock.monotonic())
        self._kept.move_to_end(key)
        while len(self._kept) > SNAPSHOTS:
            self._kept.popitem(last=False)

    def find(self, key: tuple[Any, ...]) -> Sequence[Entry[Any]] | None:
        oldest = self._clock.monotonic() - SNAPSHOT_SECONDS
        while self._kept:
            first = next(iter(self._kept))
            if self._kept[first].made >= oldest:
                break
            del self._kept[first]
        found = self._kept.get(key)
        return found.entries if found is not None else None


class Reads:
    """GET of objects and lists, served from the watch cache."""

    def __init__(self, registry: Registry, cache: WatchCache, clock: Clock) -> None:
        self._registry = registry
        self._cache = cache
        self._clock = clock
        self._snapshots = Snapshots(clock)

    async def get(self, target: Target, form: Form) -> Ready:
        version = target.query.text("resourceVersion") if target.query else ""
        if not version:
            await self._registry.read_barrier()
        elif version != "0":
            await reach(self._cache, parse_version(version))
        entry = self._cache.table(target.of).get(target.key)
        if entry is None:
            raise errors.not_found(target.of.plural, target.name)
        return Ready(forms.one(entry, form, self._clock.now()))

    async def list(self, target: Target, form: Form) -> Ready:
        page = await self.page(target)
        return Ready(forms.many(page, form, self._clock.now()))

    async def page(self, target: Target) -> Page:
        """The objects that a list asks for. Raises BadRequest, Expired, UnknownOutcome."""
        query = target.query
        selection = Selection.of(target)
        limit = query.number("limit") or 0
        token_text = query.text("continue")
        version = query.text("resourceVersion")
        match = query.text("resourceVersionMatch")
        _check_options(version, match, token_text)
        if token_text:
            return await self._next_page(selection, Token.parse(token_text), limit)
        exact = match == "Exact" or (bool(limit) and not match and parse_version(version) > 0)
        if not version:
            await self._registry.read_barrier()
        elif version != "0":
            await reach(self._cache, parse_version(version))
        revision = self._cache.revision
        if exact and parse_version(version) != revision:
            self._check_exact(selection.kind, parse_version(version))
            revision = parse_version(version)
        entries = await selection.pick(self._cache.table(selection.kind), self._clock)
        return self._cut(selection, entries, revision, limit)

    def _check_exact(self, kind: Kind[Any], version: int) -> None:
        """Only the present is kept: another moment can be served when nothing changed since."""
        table = self._cache.table(kind)
        if table.place_after(version) != table.end:
            raise Expired(
                f"The resourceVersion for the provided list is too old: {version} "
                f"(now {self._cache.revision})"
            )

    async def _next_page(self, selection: Selection, token: Token, limit: int) -> Page:
        fresh = token.rv < 0
        if fresh:
            revision = self._cache.revision
            entries = await selection.pick(self._cache.table(selection.kind), self._clock)
        else:
            kept = self._snapshots.find((*selection.key, token.rv))
            if kept is None:
                raise ContinueExpired(Token(-1, token.start))
            entries, revision = kept, token.rv
        at = _after(entries, token.start)
        return self._cut(selection, entries, revision, limit, at, fresh=fresh)

    def _cut(
        self,
        selection: Selection,
        entries: Sequence[Entry[Any]],
        revision: int,
        limit: int,
        start: int = 0,
        *,
        fresh: bool = True,
    ) -> Page:
        """The page of ``limit`` entries from ``start``; what follows is kept for its token.
        ``fresh``: it is not kept yet."""
        version = str(revision)
        end = start + limit
        if not limit or end >= len(entries):
            rest = entries[start:] if start else entries
            return Page(selection.kind, rest, ListMeta(resource_version=version))
        if fresh:
            entries = tuple(entries)
            self._snapshots.keep((*selection.key, revision), entries)
        meta = ListMeta(
            resource_version=version,
            continue_=Token(revision, entries[end - 1].key).text(),
            remaining_item_count=len(entries) - end if selection.everything else None,
        )
        return Page(selection.kind, entries[start:end], meta)


def _check_options(version: str, match: str, token: str) -> None:
    parse_version(version)
    if match not in ("", "Exact", "NotOlderThan"):
        raise BadRequest(f'resourceVersionMatch: "{match[:40]}" is neither Exact nor NotOlderThan')
    if match and not version:
        raise BadRequest("resourceVersionMatch is forbidden unless resourceVersion is provided")
    if match and token:
        raise BadRequest("resourceVersionMatch is forbidden when continue is provided")
    if match == "Exact" and version == "0":
        raise BadRequest('resourceVersionMatch "Exact" is forbidden for resourceVersion "0"')
    if token and version not in ("", "0"):
        raise BadRequest("specifying resource version is not allowed when using continue")


def _after(entries: Sequence[Entry[Any]], key: str) -> int:
    """The index of the first entry behind ``key`` (entries are in key order)."""
    low, high = 0, len(entries)
    while low < high:
        middle = (low + high) // 2
        if entries[middle].key <= key:
            low = middle + 1
        else:
            high = middle
    return low
