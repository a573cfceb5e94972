"""What is printed of resource quotas."""

from __future__ import annotations

from k8slite.api.kinds.resourcequota.types import ResourceQuota
from k8slite.api.scheme import Column
from k8slite.api.tables import AGE, NAME, single


def _used(quota: ResourceQuota, *, limits: bool) -> str:
    """``pods: 3/10, requests.cpu: 1/4``: what is used of what is allowed."""
    hard, used = quota.status.hard or quota.spec.hard or {}, quota.status.used or {}
    return ", ".join(
        f"{name}: {used.get(name, 0)}/{hard[name]}"
        for name in sorted(hard)
        if name.startswith("limits.") is limits
    )


ARTICLE_COLUMNS: tuple[Column[ResourceQuota], ...] = (
    single("NAME", lambda quota: quota.metadata.name),
)

COLUMNS: tuple[Column[ResourceQuota], ...] = (
    NAME,
    AGE,
    single("Request", lambda quota: _used(quota, limits=False)),
    single("Limit", lambda quota: _used(quota, limits=True)),
)
