"""The ServiceAccount kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.serviceaccount.columns import COLUMNS
from k8slite.api.kinds.serviceaccount.rules import STRATEGY
from k8slite.api.kinds.serviceaccount.types import ServiceAccount
from k8slite.api.scheme import Kind

SERVICE_ACCOUNT = Kind(
    type=ServiceAccount,
    kind="ServiceAccount",
    plural="serviceaccounts",
    singular="serviceaccount",
    strategy=STRATEGY,
    short_names=("sa",),
    merge_keys=mergekeys.SERVICE_ACCOUNT,
    columns=COLUMNS,
)
