"""The one way to write (law 3), and the reads that go with it.

A decoded object is defaulted, prepared (uid, stamps, name), admitted, validated, reviewed by the
admission plugins that may refuse, and committed by compare-and-set together with all that belongs
to it: portal addresses, pod networks, quota, the namespace it relies on. The answer is the cache's
entry at the committed revision, so whoever writes may read his write. Refusing plugins come after
validation, so that a bad object provisions no namespace.

A failure to commit is a fact about a key: taken, moved or gone. The write is then decided anew on
what the cache has by then; only a caller who named a resourceVersion hears of a Conflict.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

from k8slite.api.errors import (
    BadRequest,
    Conflict,
    FieldError,
    Invalid,
    MethodNotAllowed,
    NotFound,
    already_exists,
    conflict,
    not_found,
)
from k8slite.api.kinds import NODE, POD, REPLICATION_CONTROLLER, SERVICE
from k8slite.api.kinds.binding.types import Binding
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.replicationcontroller.types import Scale
from k8slite.api.meta import DeleteOptions, Object
from k8slite.api.scheme import Kind, Scheme
from k8slite.api.selectors import FieldSelector, LabelSelector
from k8slite.api.user import User
from k8slite.config import Settings
from k8slite.decide import deletion
from k8slite.kit.clock import Clock
from k8slite.roles.apiserver import naming, subresources
from k8slite.roles.apiserver.admission.chain import Admission
from k8slite.roles.apiserver.admission.request import CREATE, DELETE, UPDATE, Request
from k8slite.roles.apiserver.leases import EventLeases
from k8slite.roles.apiserver.podcidrs import PodCidrs
from k8slite.roles.apiserver.portals import Portals
from k8slite.roles.apiserver.sweeping import sweep
from k8slite.roles.apiserver.transactions import Fence, Transactions, store_key
from k8slite.store.base import KeyExists, LeaseGone, Mismatch, Store
from k8slite.store.cache import Entry, WatchCache

T = TypeVar("T", bound=Object)
R = TypeVar("R")

#: Decisions on one write before it is given up; each needs somebody else to have won.
ATTEMPTS = 64


class Registry:
    """Objects by kind, namespace and name. Errors are those of ``api.errors``."""

    def __init__(
        self,
        store: Store,
        cache: WatchCache,
        scheme: Scheme,
        clock: Clock,
        settings: Settings,
        admission: Admission,
    ) -> None:
        self.cache = cache
        self.scheme = scheme
        self.clock = clock
        self._admission = admission
        leases = EventLeases(store, clock, settings.event_ttl)
        self._transactions = Transactions(store, cache, leases, clock)
        self._portals = Portals(settings, cache, clock.rng)
        self._pod_cidrs = PodCidrs(cache)

    def fenced(self, fence: Fence) -> Registry:
        """The same registry for whoever may write only as long as ``fence`` stands."""
        twin = copy(self)
        twin._transactions = self._transactions.fenced(fence)
        return twin

    # -- reading ----------------------------------------------------------------------------

    def get(self, kind: Kind[T], namespace: str, name: str) -> Entry[T]:
        """Raises NotFound."""
        entry = self.cache.table(kind).get(f"{namespace}/{name}" if namespace else name)
        if entry is None:
            raise not_found(kind.plural, name)
        return entry

    async def read_barrier(self) -> None:
        """Wait until the cache shows every write acknowledged so far, by whomever."""
        await self._transactions.catch_up()

    # -- writing ----------------------------------------------------------------------------

    async def create(
        self, kind: Kind[T], obj: T, *, user: User, namespace: str = "", dry_run: bool = False
    ) -> Entry[T]:
        """Create ``obj`` in its namespace (``namespace``: the one the request's path names).

        Raises AlreadyExists, Invalid, BadRequest, Forbidden, NotFound (namespace), Unavailable,
        UnknownOutcome.
        """
        _require_stored(kind)
        obj = naming.placed(kind, obj, namespace)
        strategy = kind.strategy
        drawn = not obj.metadata.name
        obj = strategy.prepare_create(strategy.default(naming.newborn(kind, obj, self.clock)))
        request = Request(self, CREATE, kind, obj, None, user, dry_run=dry_run)
        self._admission.admit(request)
        _require_valid(kind, request.obj, strategy.validate(request.obj, None))
        for _ in range(ATTEMPTS):
            try:
                return await self._attempt(request)
            except KeyExists as error:
                if error.key != store_key(kind, request.obj):
                    request.lost.add(error.key)
                elif not drawn:
                    raise already_exists(kind.plural, request.obj.metadata.name) from None
                else:
                    request.obj = naming.renamed(request.obj, self.clock)
                    continue
            except (Mismatch, LeaseGone):
                pass
            await self._transactions.catch_up()
        raise conflict(kind.plural, request.obj.metadata.name)

    async def update(
        self,
        kind: Kind[T],
        obj: T,
        *,
        user: User,
        subresource: str = "",
        namespace: str = "",
        name: str = "",
        dry_run: bool = False,
    ) -> Entry[T]:
        """Replace the object; with a resourceVersion only if it is still at that one.

        A replacement by the same writes nothing. Raises NotFound, Conflict, and as ``create``.
        """
        obj = naming.placed(kind, obj, namespace, name)
        version = _revision_of(obj.metadata.resource_version)
        return await self._change(
            kind, obj.metadata.namespace, obj.metadata.name, lambda _: obj, user,
            subresource=subresource, version=version, dry_run=dry_run,
        )  # fmt: skip

    async def modify(
        self,
        kind: Kind[T],
        namespace: str,
        name: str,
        change: Callable[[T], T],
        *,
        user: User,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Entry[T]:
        """Write ``change(current)``, deciding anew when somebody else was quicker.

        A result with another resourceVersion than the current object's is a Conflict.
        """
        return await self._change(
            kind, namespace, name, lambda old: naming.placed(kind, change(old), namespace, name),
            user, subresource=subresource, dry_run=dry_run,
        )  # fmt: skip

    async def delete(
        self, kind: Kind[T], namespace: str, name: str, options: DeleteOptions, *, user: User
    ) -> Entry[T] | None:
        """Delete, or mark as to be deleted; the entry that stays, None when it is gone.

        Raises NotFound, Conflict (preconditions), Forbidden, and as ``create``.
        """
        _require_stored(kind)
        lost: set[str] = set()

        def found() -> Entry[T]:
            entry = self.get(kind, namespace, name)
            deletion.check_preconditions(entry.object, options, kind.plural)
            return entry

        for _ in range(ATTEMPTS):
            entry = await self._by_fresh_news(found)
            old = entry.object
            rest = deletion.plan(old, options, self.clock.now())
            request = Request(self, DELETE, kind, rest or old, entry, user, lost=lost,
                              dry_run=bool(options.dry_run))  # fmt: skip
            try:
                left = await self._attempt(request, gone=rest is None)
                return None if rest is None else left
            except (KeyExists, Mismatch, LeaseGone) as error:
                _note_lost(request, error)
            await self._transactions.catch_up()
        raise conflict(kind.plural, name)

    async def delete_collection(
        self,
        kind: Kind[T],
        namespace: str,
        options: DeleteOptions,
        *,
        user: User,
        labels: LabelSelector | None = None,
        fields: FieldSelector | None = None,
    ) -> list[Entry[T]]:
        """Delete every object that matches; the entries as they were before."""
        await self.read_barrier()
        entries = [
            entry
            for entry in self.cache.table(kind).entries(namespace)
            if (not labels or labels.matches(entry.object.metadata.labels))
            and (not fields or fields.matches(entry.object))
        ]

        async def delete(entry: Entry[T]) -> None:
            meta = entry.object.metadata
            await self.delete(kind, meta.namespace, meta.name, options, user=user)

        await sweep(entries, delete)
        return entries

    # -- subresources -----------------------------------------------------------------------

    async def bind(
        self, namespace: str, binding: Binding, *, user: User, dry_run: bool = False
    ) -> Entry[Pod]:
        """Put a pod on a node. Raises Conflict when it is bound already or on its way out."""
        stamp = self.clock.stamp()
        return await self._change(
            POD, namespace or binding.metadata.namespace, binding.metadata.name,
            lambda pod: subresources.bound(pod, binding, stamp), user,
            subresource="binding", dry_run=dry_run,
        )  # fmt: skip

    def scale(self, namespace: str, name: str) -> Scale:
        """The /scale view of a replication controller. Raises NotFound."""
        return subresources.scale_of(self.get(REPLICATION_CONTROLLER, namespace, name).object)

    async def rescale(
        self,
        namespace: str,
        name: str,
        change: Callable[[Scale], Scale],
        *,
        user: User,
        dry_run: bool = False,
    ) -> Scale:
        """Write ``change(current scale)``: a PUT gives ``lambda _: scale``, a PATCH its patch."""
        entry = await self._change(
            REPLICATION_CONTROLLER, namespace, name,
            lambda rc: subresources.scaled(rc, change(subresources.scale_of(rc))), user,
            subresource="scale", dry_run=dry_run,
        )  # fmt: skip
        return subresources.scale_of(entry.object)

    # -- the way into the store ----------------------------------------------------------------

    async def _change(
        self,
        kind: Kind[T],
        namespace: str,
        name: str,
        change: Callable[[T], T],
        user: User,
        *,
        subresource: str,
        version: int | None = None,
        dry_run: bool = False,
    ) -> Entry[T]:
        """Decide and commit until it holds. ``version``: the only revision to build on."""
        _require_stored(kind)
        if version is not None and version > self.cache.revision:
            await self._transactions.catch_up()  # another master may have answered with it
        lost: set[str] = set()

        def changed() -> tuple[Entry[T], T]:
            entry = self.get(kind, namespace, name)
            if version is not None and version != entry.revision:
                raise conflict(kind.plural, name)
            new = change(entry.object)
            stated = new.metadata.resource_version
            if version is None and stated and stated != entry.object.metadata.resource_version:
                raise conflict(kind.plural, name)
            if subresource == "":
                new = kind.strategy.default(new)
            return entry, subresources.prepared(kind, new, entry.object, subresource)

        for _ in range(ATTEMPTS):
            entry, new = await self._by_fresh_news(changed)
            old = entry.object
            request = Request(self, UPDATE, kind, new, entry, user, subresource=subresource,
                              lost=lost, dry_run=dry_run)  # fmt: skip
            self._admission.admit(request)
            if request.obj != old:
                errors = subresources.errors(kind, request.obj, old, subresource)
                _require_valid(kind, request.obj, errors)
            try:
                return await self._attempt(request, gone=deletion.finished(request.obj))
            except (KeyExists, Mismatch, LeaseGone) as error:
                _note_lost(request, error)
            await self._transactions.catch_up()
        raise conflict(kind.plural, name)

    async def _by_fresh_news(self, look: Callable[[], R]) -> R:
        """What ``look`` makes of the cache. A refusal by news that are older than what another
        master has acknowledged is none: then it looks once more."""
        try:
            return look()
        except (NotFound, Conflict):
            before = self.cache.revision
            await self._transactions.catch_up()
            if self.cache.revision == before:
                raise
        return look()

    async def _attempt(self, request: Request[T], *, gone: bool = False) -> Entry[T]:
        """Let admission refuse, decide what goes along, commit. ``gone``: the object goes.

        Raises KeyExists, Mismatch, LeaseGone when somebody else was quicker.
        """
        request.renew()
        await self._admission.review(request)
        draft = request.obj
        if request.kind is SERVICE:
            request.stakes.append(self._portals.release if gone else self._portals.stake)
        elif request.kind is NODE:
            self._pod_cidrs.review(request, gone=gone)
        if request.entry is None:
            write = self._transactions.insert
        elif gone:
            write = self._transactions.remove
        else:
            write = self._transactions.replace
        try:
            if request.lock is None:
                return await write(request, request.further_ops())
            async with request.lock:
                return await write(request, request.further_ops())
        except (KeyExists, Mismatch, LeaseGone):
            request.obj = draft  # what was handed out to it is somebody else's
            raise


def _require_stored(kind: Kind[Any]) -> None:
    if kind.virtual:
        raise MethodNotAllowed(f"{kind.plural} are not stored", kind=kind.plural)


def _require_valid(kind: Kind[Any], obj: Object, errors: list[FieldError]) -> None:
    if errors:
        raise Invalid(kind.kind, obj.metadata.name, errors)


def _revision_of(version: str) -> int | None:
    """A resourceVersion that a client sent. Raises BadRequest when it is none of ours."""
    if not version:
        return None
    if not version.isdecimal():
        raise BadRequest(f"metadata.resourceVersion: {version!r} is no version of this server")
    return int(version)


def _note_lost(request: Request[Any], error: KeyExists | Mismatch | LeaseGone) -> None:
    """Remember a reservation that is there, or is not, against what the cache says."""
    if isinstance(error, KeyExists) or (isinstance(error, Mismatch) and not error.actual):
        request.lost.add(error.key)
