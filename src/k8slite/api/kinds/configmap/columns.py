"""What is printed of config maps (younger than the article: today's columns alone)."""

from __future__ import annotations

from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.scheme import Column
from k8slite.api.tables import AGE, NAME, single

COLUMNS: tuple[Column[ConfigMap], ...] = (
    NAME,
    single("Data", lambda m: len(m.data or {}) + len(m.binary_data or {}), type="integer"),
    AGE,
)
