"""The ReplicationController kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.replicationcontroller.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.replicationcontroller.rules import STRATEGY, fields
from k8slite.api.kinds.replicationcontroller.types import ReplicationController
from k8slite.api.kinds.replicationcontroller.v1beta3 import from_v1beta3, to_v1beta3
from k8slite.api.scheme import Kind

REPLICATION_CONTROLLER = Kind(
    type=ReplicationController,
    kind="ReplicationController",
    plural="replicationcontrollers",
    singular="replicationcontroller",
    strategy=STRATEGY,
    from_v1beta3=from_v1beta3,
    to_v1beta3=to_v1beta3,
    fields=fields,
    short_names=("rc",),
    categories=("all",),
    stored_under="controllers",
    subresources=("status", "scale"),
    merge_keys=mergekeys.REPLICATION_CONTROLLER,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
