"""The ComponentStatus kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.componentstatus.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.componentstatus.types import ComponentStatus
from k8slite.api.scheme import Kind

COMPONENT_STATUS = Kind(
    type=ComponentStatus,
    kind="ComponentStatus",
    plural="componentstatuses",
    singular="componentstatus",
    namespaced=False,
    short_names=("cs",),
    verbs=("get", "list"),
    virtual=True,
    merge_keys=mergekeys.COMPONENT_STATUS,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
