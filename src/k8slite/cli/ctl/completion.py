"""What the shell may offer while a command is being typed: types, and names the server knows.

A completion never fails and never waits long: without a server it offers nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import typer

#: A shell that waits longer for its completion is worse than one without.
_SECONDS = 1.0


def types(incomplete: str) -> list[str]:
    """Resource types, also as the last of ``pods,rc,…``."""
    from k8slite.api.kinds import SCHEME

    before, comma, last = incomplete.rpartition(",")
    words = [word for kind in SCHEME for word in (kind.plural, *kind.short_names, *kind.aliases)]
    return [f"{before}{comma}{word}" for word in sorted(words) if word.startswith(last)]


def resources(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """A type first, then the names of its objects; ``type/name`` at any place."""
    from k8slite.api.kinds import SCHEME

    given = [word for word in context.params.get("resources") or () if word != incomplete]
    if "/" in incomplete:
        word, _, _ = incomplete.partition("/")
        kind = SCHEME.word(word)
        return [f"{word}/{name}" for name in _names(context, kind)] if kind else []
    if not given:
        return types(incomplete)
    kind = SCHEME.word(str(given[0]).partition(",")[0])
    return [name for name in _names(context, kind) if name not in given] if kind else []


def pods(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    from k8slite.api.kinds import POD

    return list(_names(context, POD))


def nodes(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    from k8slite.api.kinds import NODE

    return list(_names(context, NODE))


def services(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    from k8slite.api.kinds import SERVICE

    return list(_names(context, SERVICE))


def namespaces(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    from k8slite.api.kinds import NAMESPACE

    return list(_names(context, NAMESPACE))


def _names(context: typer.Context, kind: Any) -> Iterable[str]:
    from k8slite.api.errors import ApiError
    from k8slite.cli.ctl.call import Call, Globals
    from k8slite.client.kubeconfig import Wanted

    def flag(name: str) -> str:
        found: Any = ""
        at: Any = context
        while at is not None and not found:
            found, at = at.params.get(name) or "", at.parent
        return ",".join(found) if isinstance(found, list | tuple) else str(found)

    async def ask() -> list[str]:
        wanted = Wanted(server=flag("server"), namespace=flag("namespace"), context=flag("context"))
        call = Call(Globals(wanted, flag("kubeconfig")))
        try:
            async with asyncio.timeout(_SECONDS):
                namespace = call.namespace_of(kind.namespaced)
                listing = await call.client.list(kind, namespace)
        finally:
            await call.close()
        return [obj.metadata.name for obj in listing.items]

    try:
        return asyncio.run(ask())
    except (ApiError, TimeoutError):
        return []
