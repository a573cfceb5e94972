"""What is printed of secrets: how many values, never the values."""

from __future__ import annotations

from k8slite.api.kinds.secret.types import Secret
from k8slite.api.scheme import Column
from k8slite.api.tables import AGE, NAME, single

ARTICLE_COLUMNS: tuple[Column[Secret], ...] = (
    single("NAME", lambda secret: secret.metadata.name),
    single("TYPE", lambda secret: secret.type),
    single("DATA", lambda secret: len(secret.data or {})),
)

COLUMNS: tuple[Column[Secret], ...] = (
    NAME,
    single("Type", lambda secret: secret.type),
    single("Data", lambda secret: len(secret.data or {}), type="integer"),
    AGE,
)
