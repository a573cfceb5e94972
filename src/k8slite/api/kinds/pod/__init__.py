"""The Pod kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.pod.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.pod.rules import STRATEGY, fields
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.pod.v1beta3 import from_v1beta3, to_v1beta3
from k8slite.api.scheme import Kind

POD = Kind(
    type=Pod,
    kind="Pod",
    plural="pods",
    singular="pod",
    strategy=STRATEGY,
    from_v1beta3=from_v1beta3,
    to_v1beta3=to_v1beta3,
    fields=fields,
    short_names=("po",),
    categories=("all",),
    subresources=("status", "binding", "eviction", "log", "exec", "proxy"),
    merge_keys=mergekeys.POD,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
