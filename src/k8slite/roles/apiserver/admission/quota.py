"""ResourceQuota: no object is created beyond what its namespace may hold.

A quota's status is charged in the transaction that creates the object, by compare-and-set: two
writers can never spend the same room, and what is charged is what exists. Within this process the
creations of a namespace under quota go one after the other, so that none runs into another's.
Before a refusal the namespace is counted afresh: what was deleted is room again at once, whenever
the quota controller comes by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

from k8slite.api import codec
from k8slite.api.errors import forbidden
from k8slite.api.kinds import POD, RESOURCE_QUOTA, SCHEME, SERVICE
from k8slite.api.kinds.resourcequota.types import ResourceQuota
from k8slite.api.scheme import Kind
from k8slite.decide import quota as arithmetic
from k8slite.decide.quota import Usage
from k8slite.roles.apiserver.admission.chain import Plugin
from k8slite.roles.apiserver.admission.request import CREATE, UPDATE, Request
from k8slite.roles.apiserver.admission.tenants import ByNamespace
from k8slite.store.base import Op, Update
from k8slite.store.cache import Entry, WatchCache


class ResourceQuotas(Plugin):
    name = "ResourceQuota"

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache
        self._quotas = ByNamespace(cache, RESOURCE_QUOTA)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def handles(self, operation: str, kind: Kind[Any], subresource: str) -> bool:
        if subresource or kind.virtual or not kind.namespaced:
            return False
        # An update of a service may take node ports; no other update takes more than before.
        return operation == CREATE or (operation == UPDATE and kind is SERVICE)

    def review(self, request: Request[Any]) -> None:
        namespace = request.obj.metadata.namespace
        for entry in self._quotas.of(namespace):
            if request.kind.plural not in arithmetic.plurals_counted(entry.object):
                continue
            if request.kind is POD:
                _require_stated(entry.object, request)
            request.lock = self._locks.setdefault(namespace, asyncio.Lock())
        if request.lock is not None:
            request.stakes.append(self._charge)

    def _charge(self, request: Request[Any]) -> Iterator[Op]:
        """Yield the update of every quota that counts the object. Raises Forbidden."""
        obj, old = request.obj, request.old
        for entry in self._quotas.of(obj.metadata.namespace):
            quota = entry.object
            asked = arithmetic.charge_of(quota, obj)
            if old is not None:
                asked = arithmetic.increase(asked, arithmetic.charge_of(quota, old))
            if not asked:
                continue
            taken = arithmetic.used(quota)
            if taken is None or arithmetic.refusal(quota, taken, asked) is not None:
                taken = self._count(quota)
            why = arithmetic.refusal(quota, taken, asked)
            if why is not None:
                raise forbidden(request.kind.plural, obj.metadata.name, why)
            yield _update(entry, arithmetic.add(taken, asked))

    def _count(self, quota: ResourceQuota) -> Usage:
        """What the namespace holds in the cache, which is as new as ``quota`` itself."""
        kinds = [SCHEME.resource(plural) for plural in arithmetic.plurals_counted(quota)]
        tables = [self._cache.table(kind) for kind in kinds if kind and not kind.virtual]
        namespace = quota.metadata.namespace
        return arithmetic.total(
            quota, (entry.object for table in tables for entry in table.entries(namespace))
        )


def _require_stated(quota: ResourceQuota, request: Request[Any]) -> None:
    missing = arithmetic.unstated(quota, request.obj)
    if missing:
        why = f"failed quota: {quota.metadata.name}: must specify {','.join(missing)}"
        raise forbidden(POD.plural, request.obj.metadata.name, why)


def _update(entry: Entry[ResourceQuota], taken: Usage) -> Update:
    quota = arithmetic.with_used(entry.object, taken)
    meta = quota.metadata
    key = RESOURCE_QUOTA.store_key(meta.namespace, meta.name)
    return Update(key, codec.encode_stored(quota), entry.revision)
