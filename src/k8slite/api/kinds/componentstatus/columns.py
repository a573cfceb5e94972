"""What is printed of component statuses."""

from __future__ import annotations

from k8slite.api.kinds.componentstatus.types import ComponentCondition, ComponentStatus
from k8slite.api.scheme import Column
from k8slite.api.tables import NAME, single


def _healthy(component: ComponentStatus) -> ComponentCondition:
    found = (condition for condition in component.conditions if condition.type == "Healthy")
    return next(found, ComponentCondition(type="Healthy", status="Unknown"))


def _status(component: ComponentStatus) -> str:
    return {"True": "Healthy", "False": "Unhealthy"}.get(_healthy(component).status, "Unknown")


ARTICLE_COLUMNS: tuple[Column[ComponentStatus], ...] = (
    single("NAME", lambda component: component.metadata.name),
    single("STATUS", _status),
    single("MESSAGE", lambda component: _healthy(component).message),
    single("ERROR", lambda component: _healthy(component).error or "nil"),
)

COLUMNS: tuple[Column[ComponentStatus], ...] = (
    NAME,
    single("Status", _status),
    single("Message", lambda component: _healthy(component).message),
    single("Error", lambda component: _healthy(component).error),
)
