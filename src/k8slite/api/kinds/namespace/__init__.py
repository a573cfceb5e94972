"""The Namespace kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.namespace.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.namespace.rules import STRATEGY, fields
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.scheme import Kind

NAMESPACE = Kind(
    type=Namespace,
    kind="Namespace",
    plural="namespaces",
    singular="namespace",
    namespaced=False,
    strategy=STRATEGY,
    fields=fields,
    short_names=("ns",),
    subresources=("status", "finalize"),
    merge_keys=mergekeys.NAMESPACE,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
