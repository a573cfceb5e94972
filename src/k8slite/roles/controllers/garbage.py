"""The garbage collector: applies ``decide.garbage`` to every kind there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from k8slite.api.errors import NotFound
from k8slite.api.kinds import SCHEME
from k8slite.api.meta import Object, OwnerReference
from k8slite.api.scheme import Kind
from k8slite.client.base import Informer
from k8slite.decide import garbage
from k8slite.decide.deletion import FOREGROUND, ORPHAN
from k8slite.decide.garbage import Owner
from k8slite.roles.controllers.loop import Controller, Surroundings, Unsubscribe
from k8slite.roles.controllers.parallel import each

STORED: tuple[Kind[Any], ...] = tuple(kind for kind in SCHEME if not kind.virtual)
_OWNER = "owner-uid"

#: ``(kind, namespace/name)``
Key = tuple[str, str]


class GarbageLoop(Controller[Key]):
    """Keys are objects: as dependents, and as owners that wait for theirs."""

    name = "garbage"
    kinds = STORED
    workers = 16

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._of: dict[str, Informer[Any]] = {}
        for kind in STORED:
            informer = self._of[kind.kind] = self.informers.of(kind)
            informer.index(_OWNER, _owner_uids)

    def subscribe(self) -> Iterable[Unsubscribe]:
        for kind in STORED:
            yield self._of[kind.kind].subscribe(self._handler(kind.kind))

    def _handler(self, kind: str) -> Callable[[Any, Any], None]:
        def on_object(old: Object | None, new: Object | None) -> None:
            if new is None:
                assert old is not None
                self._on_gone(old)
                return
            before, after = old.metadata if old else None, new.metadata
            if after.owner_references and (
                before is None or before.owner_references != after.owner_references
            ):
                self.queue.add((kind, new.key))
            if after.deletion_timestamp and (
                before is None
                or not before.deletion_timestamp
                or before.finalizers != after.finalizers
            ):
                self._on_leaving(kind, new)

        return on_object

    def _on_gone(self, obj: Object) -> None:
        """Its dependents lost an owner; an owner may have waited for it."""
        self._look_at_dependents(obj)
        for reference in obj.metadata.owner_references:
            if reference.kind in self._of:
                self.queue.add((reference.kind, self._key_of_owner(obj, reference)))

    def _on_leaving(self, kind: str, obj: Object) -> None:
        if FOREGROUND in obj.metadata.finalizers or ORPHAN in obj.metadata.finalizers:
            self.queue.add((kind, obj.key))
        if FOREGROUND in obj.metadata.finalizers:
            self._look_at_dependents(obj)

    def _look_at_dependents(self, owner: Object) -> None:
        for dependent in self._dependents(owner):
            self.queue.add((dependent.kind, dependent.key))

    def _dependents(self, owner: Object) -> list[Object]:
        uid = owner.metadata.uid
        return [obj for informer in self._of.values() for obj in informer.by_index(_OWNER, uid)]

    def _key_of_owner(self, obj: Object, reference: OwnerReference) -> str:
        namespaced = self._of[reference.kind].kind.namespaced
        return f"{obj.metadata.namespace}/{reference.name}" if namespaced else reference.name

    async def converge(self, key: Key) -> None:
        kind, name = key
        obj = self._of[kind].get(name)
        if obj is None:
            return
        if obj.metadata.deletion_timestamp is not None:
            await self._let_go(obj)
        elif obj.metadata.owner_references:
            await self._collect(obj)

    # -- as an owner

    async def _let_go(self, obj: Object) -> None:
        dependents = self._dependents(obj)
        orphans = garbage.orphans_to_free(obj, dependents)
        if orphans is not None:
            uid = frozenset((obj.metadata.uid,))
            freed = [garbage.without_references(orphan, uid) for orphan in orphans]
            errors = await each(freed, self._update)
            if errors:
                raise errors[0]
            await self._update(garbage.without_finalizer(obj, ORPHAN))
        elif garbage.is_blocked(obj, dependents) is False:
            await self._update(garbage.without_finalizer(obj, FOREGROUND))

    async def _update(self, obj: Object) -> None:
        try:
            await self.client.update(obj)
        except NotFound:
            return

    # -- as a dependent

    async def _collect(self, obj: Object) -> None:
        owners = {
            reference.uid: await self._fate(obj, reference)
            for reference in obj.metadata.owner_references
        }
        plan = garbage.plan_dependent(obj, owners, has_dependents=bool(self._dependents(obj)))
        if plan.drop:
            await self._update(garbage.without_references(obj, plan.drop))
        elif plan.delete:
            meta = obj.metadata
            try:
                await self.client.delete(
                    SCHEME.of(obj),
                    meta.name,
                    meta.namespace,
                    uid=meta.uid,
                    propagation=plan.delete,
                )
            except NotFound:
                return

    async def _fate(self, obj: Object, reference: OwnerReference) -> Owner:
        informer = self._of.get(reference.kind)
        if informer is None or informer.kind.api_version != reference.api_version:
            return Owner.UNKNOWN
        shown = informer.get(self._key_of_owner(obj, reference))
        fate = garbage.fate_of(shown, reference.uid)
        if fate is not Owner.GONE:
            return fate
        # An informer may lag behind the owner's creation; death is certain only at the source.
        namespace = obj.metadata.namespace if informer.kind.namespaced else ""
        try:
            found = await self.client.get(informer.kind, reference.name, namespace)
        except NotFound:
            return Owner.GONE
        return garbage.fate_of(found, reference.uid)


def _owner_uids(obj: Object) -> Iterable[str]:
    return tuple(reference.uid for reference in obj.metadata.owner_references)
