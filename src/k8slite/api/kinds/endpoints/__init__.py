"""The Endpoints kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.endpoints.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.endpoints.rules import STRATEGY
from k8slite.api.kinds.endpoints.types import Endpoints
from k8slite.api.kinds.endpoints.v1beta3 import from_v1beta3, to_v1beta3
from k8slite.api.scheme import Kind

ENDPOINTS = Kind(
    type=Endpoints,
    kind="Endpoints",
    plural="endpoints",
    singular="endpoints",
    strategy=STRATEGY,
    from_v1beta3=from_v1beta3,
    to_v1beta3=to_v1beta3,
    short_names=("ep",),
    stored_under="services/endpoints",
    merge_keys=mergekeys.METADATA,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
