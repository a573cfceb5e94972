"""The Event kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.event.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.event.rules import STRATEGY, fields
from k8slite.api.kinds.event.types import Event
from k8slite.api.scheme import Kind

EVENT = Kind(
    type=Event,
    kind="Event",
    plural="events",
    singular="event",
    strategy=STRATEGY,
    fields=fields,
    short_names=("ev",),
    ttl_seconds=3600,
    merge_keys=mergekeys.METADATA,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
