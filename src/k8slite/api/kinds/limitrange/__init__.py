"""The LimitRange kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.limitrange.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.limitrange.rules import STRATEGY
from k8slite.api.kinds.limitrange.types import LimitRange
from k8slite.api.scheme import Kind

LIMIT_RANGE = Kind(
    type=LimitRange,
    kind="LimitRange",
    plural="limitranges",
    singular="limitrange",
    strategy=STRATEGY,
    short_names=("limits",),
    merge_keys=mergekeys.METADATA,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
