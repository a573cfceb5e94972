"""The Secret kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.secret.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.secret.rules import STRATEGY, fields
from k8slite.api.kinds.secret.types import Secret
from k8slite.api.scheme import Kind

SECRET = Kind(
    type=Secret,
    kind="Secret",
    plural="secrets",
    singular="secret",
    strategy=STRATEGY,
    fields=fields,
    merge_keys=mergekeys.METADATA,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
