"""NamespaceLifecycle, NamespaceAutoProvision, NamespaceExists.

An object is created only together with a check, in the same transaction, that its namespace is
still as it was when admission looked: nothing can be left behind in a namespace that is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from k8slite.api.errors import AlreadyExists, forbidden, not_found
from k8slite.api.kinds import NAMESPACE
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.meta import ObjectMeta
from k8slite.api.scheme import Kind
from k8slite.api.user import SYSTEM
from k8slite.decide.admission.namespaces import refuse_creation, refuse_deletion
from k8slite.roles.apiserver.admission.chain import Plugin
from k8slite.roles.apiserver.admission.request import CREATE, DELETE, Request
from k8slite.store.base import Check
from k8slite.store.cache import Entry, WatchCache


class _NamespacePlugin(Plugin):
    def __init__(self, cache: WatchCache) -> None:
        self._table = cache.table(NAMESPACE)

    def handles(self, operation: str, kind: Kind[Any], subresource: str) -> bool:
        return operation == CREATE and kind.namespaced and not kind.virtual

    def pin(self, request: Request[Any], namespace: Entry[Namespace]) -> None:
        """Tie the write to ``namespace`` as it is; refuse when it is on its way out."""
        obj = request.obj
        reason = refuse_creation(namespace.object)
        if reason is not None:
            raise forbidden(request.kind.plural, obj.metadata.name, reason)
        key = NAMESPACE.store_key("", obj.metadata.namespace)
        check = Check(key, namespace.revision)
        if check not in request.checks:
            request.checks.append(check)


class NamespaceLifecycle(_NamespacePlugin):
    """No creation in a terminating or missing namespace, no end of the ``default`` one.

    ``provisioned``: NamespaceAutoProvision is in the chain too and looks after missing ones.
    """

    name = "NamespaceLifecycle"

    def __init__(self, cache: WatchCache, *, provisioned: bool = False) -> None:
        super().__init__(cache)
        self._provisioned = provisioned

    def handles(self, operation: str, kind: Kind[Any], subresource: str) -> bool:
        if operation == DELETE:
            return kind is NAMESPACE
        return super().handles(operation, kind, subresource)

    def review(self, request: Request[Any]) -> None:
        if request.operation == DELETE:
            reason = refuse_deletion(request.obj)
            if reason is not None:
                raise forbidden(NAMESPACE.plural, request.obj.metadata.name, reason)
            return
        name = request.obj.metadata.namespace
        namespace = self._table.get(name)
        if namespace is not None:
            self.pin(request, namespace)
        elif not self._provisioned:
            raise not_found(NAMESPACE.plural, name)


class NamespaceAutoProvision(_NamespacePlugin):
    """Creates the namespace that a new object names and that is missing."""

    name = "NamespaceAutoProvision"

    def review(self, request: Request[Any]) -> Awaitable[None] | None:
        namespace = self._table.get(request.obj.metadata.namespace)
        if namespace is None:
            return self._provide(request)
        self.pin(request, namespace)
        return None

    async def _provide(self, request: Request[Any]) -> None:
        name = request.obj.metadata.namespace
        namespace = Namespace(metadata=ObjectMeta(name=name))
        try:
            entry = await request.registry.create(
                NAMESPACE, namespace, user=SYSTEM, dry_run=request.dry_run
            )
        except AlreadyExists:
            await request.registry.read_barrier()
            entry = request.registry.get(NAMESPACE, "", name)
        if not request.dry_run:
            self.pin(request, entry)


class NamespaceExists(_NamespacePlugin):
    """Refuses a new object whose namespace is missing."""

    name = "NamespaceExists"

    def review(self, request: Request[Any]) -> None:
        name = request.obj.metadata.namespace
        namespace = self._table.get(name)
        if namespace is None:
            raise not_found(NAMESPACE.plural, name)
        self.pin(request, namespace)
