"""Wait for an object to become what it shall be, by watching it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from k8slite.api.errors import ApiError, Expired, Unavailable
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.progress import Progress

T = TypeVar("T", bound=Object)


class NotYet(ApiError):
    """The time to wait is over."""

    code, reason = 504, "NotYet"


async def until(
    call: Call,
    kind: Kind[T],
    namespace: str,
    name: str,
    done: Callable[[T | None], bool],
    tell: Callable[[T | None], str],
    *,
    seconds: float = 0,
) -> T | None:
    """Watch one object until ``done(object)``; None stands for its absence.

    ``tell(object)`` is shown meanwhile. ``seconds`` 0 waits without end. Raises NotYet, with what
    was told last.
    """
    last: list[T | None] = [None]

    def look(obj: T | None) -> bool:
        last[0] = obj
        if done(obj):
            return True
        progress.show(tell(obj))
        return False

    with Progress() as progress:
        try:
            async with asyncio.timeout(seconds or None):
                while not await _watch(call, kind, namespace, name, look):
                    pass
        except TimeoutError:
            told = tell(last[0])
            raise NotYet(f"not after {seconds:g} seconds: {told}") from None
    return last[0]


async def _watch(
    call: Call, kind: Kind[T], namespace: str, name: str, look: Callable[[T | None], bool]
) -> bool:
    """One list and one watch; True when ``look`` said so, False when the watch ended before."""
    fields = f"metadata.name={name}"
    listing = await call.client.list(kind, namespace, fields=fields)
    if look(listing.items[0] if listing.items else None):
        return True
    try:
        async for event in call.client.watch(
            kind, namespace, fields=fields, resource_version=listing.resource_version
        ):
            if event.type != "BOOKMARK" and look(None if event.type == "DELETED" else event.object):
                return True
    except Expired:
        pass
    except Unavailable:
        await call.clock.sleep(0.2)  # the list at the next turn says whether the server is gone
    return False


async def gone(
    call: Call, kind: Kind[T], namespace: str, name: str, uid: str, *, seconds: float = 0
) -> None:
    """Until the object with this uid is no more. Raises NotYet."""

    def done(obj: T | None) -> bool:
        return obj is None or bool(uid and obj.metadata.uid != uid)

    def tell(obj: T | None) -> str:
        held = ", ".join(obj.metadata.finalizers) if obj else ""
        why = f", held by {held}" if held else ""
        return f"{kind.plural}/{name} is being deleted{why}"

    await until(call, kind, namespace, name, done, tell, seconds=seconds)


async def none_left(
    call: Call,
    kind: Kind[T],
    namespace: str,
    labels: str,
    counts: Callable[[T], bool],
    *,
    seconds: float = 0,
) -> None:
    """Until no object that ``labels`` select and that ``counts`` is there. Raises NotYet."""
    left: set[str] = set()

    def tell() -> str:
        return f"{len(left)} {kind.plural} left: {', '.join(sorted(left)[:3])}"

    with Progress() as progress:
        try:
            async with asyncio.timeout(seconds or None):
                while not await _watch_out(
                    call, kind, namespace, labels, counts, left, lambda: progress.show(tell())
                ):
                    pass
        except TimeoutError:
            raise NotYet(f"not after {seconds:g} seconds: {tell()}") from None


async def _watch_out(
    call: Call,
    kind: Kind[T],
    namespace: str,
    labels: str,
    counts: Callable[[T], bool],
    left: set[str],
    changed: Callable[[], None],
) -> bool:
    """One list and one watch; True when nothing is left, False when the watch ended before."""
    listing = await call.client.list(kind, namespace, labels=labels)
    left.clear()
    left.update(obj.metadata.name for obj in listing.items if counts(obj))
    if not left:
        return True
    changed()
    try:
        async for event in call.client.watch(
            kind, namespace, labels=labels, resource_version=listing.resource_version
        ):
            if event.type == "DELETED":
                left.discard(event.object.metadata.name)
            elif event.type != "BOOKMARK" and counts(event.object):
                left.add(event.object.metadata.name)
            if not left:
                return True
            changed()
    except Expired:
        pass
    except Unavailable:
        await call.clock.sleep(0.2)
    return False
