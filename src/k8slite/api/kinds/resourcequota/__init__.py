"""The ResourceQuota kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.resourcequota.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.resourcequota.rules import STRATEGY
from k8slite.api.kinds.resourcequota.types import ResourceQuota
from k8slite.api.scheme import Kind

RESOURCE_QUOTA = Kind(
    type=ResourceQuota,
    kind="ResourceQuota",
    plural="resourcequotas",
    singular="resourcequota",
    strategy=STRATEGY,
    short_names=("quota",),
    subresources=("status",),
    merge_keys=mergekeys.METADATA,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
