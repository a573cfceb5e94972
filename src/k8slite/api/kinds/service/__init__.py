"""The Service kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.service.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.service.rules import STRATEGY, fields
from k8slite.api.kinds.service.types import Service
from k8slite.api.kinds.service.v1beta3 import from_v1beta3, to_v1beta3
from k8slite.api.scheme import Kind

SERVICE = Kind(
    type=Service,
    kind="Service",
    plural="services",
    singular="service",
    strategy=STRATEGY,
    from_v1beta3=from_v1beta3,
    to_v1beta3=to_v1beta3,
    fields=fields,
    short_names=("svc", "se"),
    categories=("all",),
    stored_under="services/specs",
    subresources=("status", "proxy"),
    merge_keys=mergekeys.SERVICE,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
