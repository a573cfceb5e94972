"""What is printed of service accounts."""

from __future__ import annotations

from k8slite.api.kinds.serviceaccount.types import ServiceAccount
from k8slite.api.scheme import Column
from k8slite.api.tables import AGE, NAME, single

COLUMNS: tuple[Column[ServiceAccount], ...] = (
    NAME,
    single("Secrets", lambda account: len(account.secrets), type="integer"),
    AGE,
)
