"""The namespace controller: empties a terminating namespace and lets it go.

Progress comes from events: each object that vanishes is a look at its namespace.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from k8slite.api.errors import NotFound
from k8slite.api.kinds import NAMESPACE, SCHEME
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.meta import Object
from k8slite.decide import namespaces
from k8slite.roles.controllers.loop import Controller, Surroundings, Unsubscribe
from k8slite.roles.controllers.parallel import each

CONTENT = tuple(kind for kind in SCHEME if kind.namespaced and not kind.virtual)


class NamespaceLoop(Controller[str]):
    """Keys are namespaces by name."""

    name = "namespaces"
    kinds = (NAMESPACE, *CONTENT)

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._namespaces = self.informers.of(NAMESPACE)
        self._content = [self.informers.of(kind) for kind in CONTENT]

    def subscribe(self) -> Iterable[Unsubscribe]:
        yield self._namespaces.subscribe(self._on_namespace)
        for informer in self._content:
            yield informer.subscribe(self._on_content)

    def _on_namespace(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None and namespaces.is_terminating(new):
            self.queue.add(new.metadata.name)

    def _on_content(self, old: Any, new: Any) -> None:
        # An addition too: a creation may have overtaken the end of its namespace.
        name = (new or old).metadata.namespace
        namespace = self._namespaces.get(name)
        if namespace is not None and namespaces.is_terminating(namespace):
            self.queue.add(name)

    async def converge(self, name: str) -> None:
        namespace = self._namespaces.get(name)
        if namespace is None:
            return
        content = [obj for informer in self._content for obj in informer.in_namespace(name)]
        plan = namespaces.plan(namespace, content)
        errors = await each(plan.delete, self._delete)
        if errors:
            raise errors[0]
        if plan.finalize and not await self._overlooked(name):
            await self._finalize(namespace)

    async def _delete(self, obj: Object) -> None:
        meta = obj.metadata
        try:
            await self.client.delete(
                SCHEME.of(obj), meta.name, meta.namespace, uid=meta.uid, propagation="Background"
            )
        except NotFound:
            return

    async def _overlooked(self, name: str) -> bool:
        """Ask the API itself, once, before the end: an informer may lag, and what it does not
        show yet would be lost in a namespace that is gone."""
        for kind in CONTENT:
            if (await self.client.list(kind, name)).items:
                return True
        return False

    async def _finalize(self, namespace: Namespace) -> None:
        try:
            if namespaces.FINALIZER in namespace.spec.finalizers:
                namespace = await self.client.finalize(namespaces.finalized(namespace))
            if not namespace.spec.finalizers and not namespace.metadata.finalizers:
                await self.client.delete(
                    NAMESPACE, namespace.metadata.name, uid=namespace.metadata.uid
                )
        except NotFound:
            return  # the end of the finalizer was the end of the namespace
