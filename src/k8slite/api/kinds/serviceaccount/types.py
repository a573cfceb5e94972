"""ServiceAccount: who a pod is to the API."""

from __future__ import annotations

from k8slite.api.kinds.binding.types import ObjectReference
from k8slite.api.kinds.pod.types import LocalReference
from k8slite.api.meta import Object
from k8slite.api.struct import always


class ServiceAccount(Object):
    kind: str = always("ServiceAccount")
    secrets: tuple[ObjectReference, ...] = ()
    image_pull_secrets: tuple[LocalReference, ...] = ()
    automount_service_account_token: bool | None = None
