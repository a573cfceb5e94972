"""The Node kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.node.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.node.rules import STRATEGY, fields
from k8slite.api.kinds.node.types import Node
from k8slite.api.scheme import Kind

NODE = Kind(
    type=Node,
    kind="Node",
    plural="nodes",
    singular="node",
    namespaced=False,
    strategy=STRATEGY,
    fields=fields,
    short_names=("no",),
    aliases=("minion", "minions", "mi"),
    stored_under="minions",
    subresources=("status", "proxy"),
    merge_keys=mergekeys.NODE,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
