"""Garbage: objects whose owners are gone, and owners that wait for what they own.

Rules of Kubernetes' garbage collector. A dependent goes when every owner it names is gone. Under
foreground deletion the owner stays, marked, until the dependents that block it are gone; under
orphan deletion the dependents lose the reference and stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import msgspec

from k8slite.api.meta import Object, OwnerReference
from k8slite.decide.deletion import FOREGROUND, ORPHAN

T = TypeVar("T", bound=Object)


class Owner(Enum):
    """What became of an owner. UNKNOWN: of a kind that is not served here; nothing is concluded."""

    THERE = "there"
    WAITING = "waiting"  # being deleted in the foreground: it waits for its dependents
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Plan:
    """``delete`` is the propagation policy to delete with, "" for no deletion; ``drop`` the uids
    of owners whose references are to be taken away."""

    delete: str = ""
    drop: frozenset[str] = frozenset()


def plan_dependent(obj: Object, owners: Mapping[str, Owner], *, has_dependents: bool) -> Plan:
    """``owners`` says of every owner uid of ``obj`` what became of it."""
    references = obj.metadata.owner_references
    if not references or obj.metadata.deletion_timestamp is not None:
        return Plan()
    fates = {reference.uid: owners[reference.uid] for reference in references}
    over = frozenset(uid for uid, fate in fates.items() if fate in (Owner.GONE, Owner.WAITING))
    if not over:
        return Plan()
    if len(over) < len(fates):
        return Plan(drop=over)
    waiting = Owner.WAITING in fates.values()
    return Plan(delete="Foreground" if waiting and has_dependents else "Background")


def fate_of(owner: Object | None, uid: str) -> Owner:
    """What became of the owner ``uid``, given what is found under its name."""
    if owner is None or owner.metadata.uid != uid:
        return Owner.GONE
    return Owner.WAITING if _waits(owner, FOREGROUND) else Owner.THERE


def _waits(obj: Object, finalizer: str) -> bool:
    return obj.metadata.deletion_timestamp is not None and finalizer in obj.metadata.finalizers


def orphans_to_free(obj: Object, dependents: Iterable[T]) -> list[T] | None:
    """The dependents that ``obj`` leaves behind, to be freed before it goes; None when it is not
    being deleted that way."""
    return list(dependents) if _waits(obj, ORPHAN) else None


def is_blocked(obj: Object, dependents: Iterable[Object]) -> bool | None:
    """Does a dependent still hold up the foreground deletion of ``obj``? None: it is not being
    deleted that way."""
    if not _waits(obj, FOREGROUND):
        return None
    return any(_blocks(reference, obj) for d in dependents for reference in _references(d))


def _references(obj: Object) -> tuple[OwnerReference, ...]:
    return obj.metadata.owner_references


def _blocks(reference: OwnerReference, owner: Object) -> bool:
    return reference.uid == owner.metadata.uid and bool(reference.block_owner_deletion)


def without_references(obj: T, uids: frozenset[str]) -> T:
    kept = tuple(r for r in obj.metadata.owner_references if r.uid not in uids)
    metadata = msgspec.structs.replace(obj.metadata, owner_references=kept)
    return msgspec.structs.replace(obj, metadata=metadata)


def without_finalizer(obj: T, finalizer: str) -> T:
    kept = tuple(name for name in obj.metadata.finalizers if name != finalizer)
    metadata = msgspec.structs.replace(obj.metadata, finalizers=kept)
    return msgspec.structs.replace(obj, metadata=metadata)
