"""The admission chain: who may look at a write, change it, or refuse it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from k8slite.api.scheme import Kind
from k8slite.roles.apiserver.admission.request import Request


class Plugin:
    """One rule. Override what it needs: ``admit`` may replace ``request.obj`` and runs before
    validation; ``review`` may refuse (raise an ApiError), add checks and stakes, and runs after.
    """

    name = ""

    def handles(self, operation: str, kind: Kind[Any], subresource: str) -> bool:
        """Asked once per combination; a plugin that says no costs such writes nothing."""
        raise NotImplementedError

    def admit(self, request: Request[Any]) -> None:
        """Change ``request.obj``."""

    def review(self, request: Request[Any]) -> Awaitable[None] | None:
        """Refuse, or let pass; what is returned is awaited."""


class Admission:
    """Plugins in the order of the settings; for each kind of write only those that care."""

    def __init__(self, plugins: Sequence[Plugin] = ()) -> None:
        self.plugins = tuple(plugins)
        self._admit: dict[tuple[str, str, str], tuple[Plugin, ...]] = {}
        self._review: dict[tuple[str, str, str], tuple[Plugin, ...]] = {}

    def admit(self, request: Request[Any]) -> None:
        key = (request.operation, request.kind.kind, request.subresource)
        plugins = self._admit.get(key)
        if plugins is None:
            plugins = self._choose(key, request.kind)
        for plugin in plugins:
            plugin.admit(request)

    async def review(self, request: Request[Any]) -> None:
        key = (request.operation, request.kind.kind, request.subresource)
        if key not in self._review:
            self._choose(key, request.kind)
        for plugin in self._review[key]:
            waiting = plugin.review(request)
            if waiting is not None:
                await waiting

    def _choose(self, key: tuple[str, str, str], kind: Kind[Any]) -> tuple[Plugin, ...]:
        caring = [p for p in self.plugins if p.handles(key[0], kind, key[2])]
        self._admit[key] = tuple(p for p in caring if type(p).admit is not Plugin.admit)
        self._review[key] = tuple(p for p in caring if type(p).review is not Plugin.review)
        return self._admit[key]
