"""SecurityContextDeny: pods may not choose whom they run as."""

from __future__ import annotations

from typing import Any

from k8slite.api.errors import forbidden
from k8slite.api.kinds import POD
from k8slite.api.scheme import Kind
from k8slite.decide.admission.security import refuse
from k8slite.roles.apiserver.admission.chain import Plugin
from k8slite.roles.apiserver.admission.request import CREATE, UPDATE, Request


class SecurityContextDeny(Plugin):
    name = "SecurityContextDeny"

    def handles(self, operation: str, kind: Kind[Any], subresource: str) -> bool:
        return operation in (CREATE, UPDATE) and kind is POD and not subresource

    def review(self, request: Request[Any]) -> None:
        why = refuse(request.obj)
        if why is not None:
            raise forbidden(POD.plural, request.obj.metadata.name, why)
