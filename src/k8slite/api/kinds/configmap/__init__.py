"""The ConfigMap kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.configmap.columns import COLUMNS
from k8slite.api.kinds.configmap.rules import STRATEGY
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.scheme import Kind

CONFIG_MAP = Kind(
    type=ConfigMap,
    kind="ConfigMap",
    plural="configmaps",
    singular="configmap",
    strategy=STRATEGY,
    short_names=("cm",),
    merge_keys=mergekeys.METADATA,
    columns=COLUMNS,
)
