"""What is printed of limit ranges."""

from __future__ import annotations

from k8slite.api.kinds.limitrange.types import LimitRange
from k8slite.api.scheme import Column
from k8slite.api.tables import NAME, single

ARTICLE_COLUMNS: tuple[Column[LimitRange], ...] = (
    single("NAME", lambda limits: limits.metadata.name),
)

COLUMNS: tuple[Column[LimitRange], ...] = (
    NAME,
    single("Created At", lambda limits: limits.metadata.creation_timestamp or ""),
)
