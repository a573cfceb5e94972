"""What is printed of namespaces."""

from __future__ import annotations

from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.scheme import Column
from k8slite.api.tables import AGE, NAME, own_labels, single

ARTICLE_COLUMNS: tuple[Column[Namespace], ...] = (
    single("NAME", lambda namespace: namespace.metadata.name),
    single("LABELS", own_labels),
    single("STATUS", lambda namespace: namespace.status.phase),
)

COLUMNS: tuple[Column[Namespace], ...] = (
    NAME,
    single("Status", lambda namespace: namespace.status.phase),
    AGE,
)
