"""What every object carries, and the objects that only travel: Status, lists, options."""

from __future__ import annotations

from typing import Any

from k8slite.api.struct import Struct, always


class Condition(Struct):
    """metav1.Condition: one thing that is, or is not, as it should be."""

    type: str = always("")
    status: str = always("")  # True, False or Unknown
    observed_generation: int = 0
    last_transition_time: str | None = None
    reason: str = always("")
    message: str = always("")


class OwnerReference(Struct):
    api_version: str = always("v1")
    kind: str = always("")
    name: str = always("")
    uid: str = always("")
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Struct):
    """Times are RFC 3339 text; ``resource_version`` is never part of the stored bytes.

    ``resource_version`` stands first: ``codec.stamp`` writes it into bytes that lack it.
    """

    resource_version: str = ""
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    self_link: str = ""
    uid: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()
    managed_fields: tuple[dict[str, Any], ...] = ()

    def label(self, key: str, default: str = "") -> str:
        return (self.labels or {}).get(key, default)

    def annotation(self, key: str, default: str = "") -> str:
        return (self.annotations or {}).get(key, default)


class Object(Struct):
    """The head of every stored kind; ``kind`` and ``apiVersion`` lead its encoding."""

    kind: str = always("")
    api_version: str = always("v1")
    metadata: ObjectMeta = always(ObjectMeta())

    @property
    def key(self) -> str:
        """``namespace/name``, or ``name`` for a kind without namespace."""
        meta = self.metadata
        return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name


class ListMeta(Struct):
    resource_version: str = ""
    continue_: str = ""
    remaining_item_count: int | None = None


class StatusCause(Struct):
    reason: str = ""
    message: str = ""
    field: str = ""


class StatusDetails(Struct):
    name: str = ""
    group: str = ""
    kind: str = ""
    uid: str = ""
    causes: tuple[StatusCause, ...] = ()
    retry_after_seconds: int = 0


class Status(Struct):
    """The answer that is not an object: success of a deletion, or an error."""

    kind: str = always("Status")
    api_version: str = always("v1")
    metadata: ListMeta = always(ListMeta())
    status: str = always("Failure")
    message: str = ""
    reason: str = ""
    details: StatusDetails | None = None
    code: int = always(500)


class Preconditions(Struct):
    uid: str | None = None
    resource_version: str | None = None


class DeleteOptions(Struct):
    kind: str = always("DeleteOptions")
    api_version: str = always("v1")
    grace_period_seconds: int | None = None
    preconditions: Preconditions | None = None
    orphan_dependents: bool | None = None
    propagation_policy: str = ""
    dry_run: tuple[str, ...] = ()
