"""May something be created in a namespace; may a namespace go?"""

from __future__ import annotations

from k8slite.api.kinds.namespace.types import Namespace

#: Namespaces that the cluster itself lives in.
IMMORTAL = frozenset(("default",))


def refuse_creation(namespace: Namespace) -> str | None:
    """Why nothing may be created in ``namespace``; None when it may."""
    meta = namespace.metadata
    if meta.deletion_timestamp is None and namespace.status.phase != "Terminating":
        return None
    return f"unable to create new content in namespace {meta.name} because it is being terminated"


def refuse_deletion(namespace: Namespace) -> str | None:
    """Why ``namespace`` must stay; None when it may go."""
    if namespace.metadata.name in IMMORTAL:
        return "this namespace may not be deleted"
    return None
