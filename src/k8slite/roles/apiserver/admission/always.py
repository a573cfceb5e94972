"""AlwaysAdmit and AlwaysDeny: the two ends of policy."""

from __future__ import annotations

from typing import Any

from k8slite.api.errors import forbidden
from k8slite.api.scheme import Kind
from k8slite.roles.apiserver.admission.chain import Plugin
from k8slite.roles.apiserver.admission.request import Request


class AlwaysAdmit(Plugin):
    name = "AlwaysAdmit"

    def handles(self, operation: str, kind: Kind[Any], subresource: str) -> bool:
        return False


class AlwaysDeny(Plugin):
    name = "AlwaysDeny"

    def handles(self, operation: str, kind: Kind[Any], subresource: str) -> bool:
        return True

    def review(self, request: Request[Any]) -> None:
        raise forbidden(
            request.kind.plural,
            request.obj.metadata.name,
            "Admission control is denying all modifications",
        )
