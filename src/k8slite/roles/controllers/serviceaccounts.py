"""Every namespace has the service account ``default``."""

from __future__ import annotations

from collections.abc import Iterable

from k8slite.api.errors import AlreadyExists, NotFound
from k8slite.api.kinds import NAMESPACE, SERVICE_ACCOUNT
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.serviceaccount.types import ServiceAccount
from k8slite.api.meta import ObjectMeta
from k8slite.decide.namespaces import is_terminating
from k8slite.roles.controllers.loop import Controller, Surroundings, Unsubscribe

NAME = "default"


class ServiceAccountLoop(Controller[str]):
    """Keys are namespaces by name."""

    name = "serviceaccounts"
    kinds = (NAMESPACE, SERVICE_ACCOUNT)

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._namespaces = self.informers.of(NAMESPACE)
        self._accounts = self.informers.of(SERVICE_ACCOUNT)

    def subscribe(self) -> Iterable[Unsubscribe]:
        yield self._namespaces.subscribe(self._on_namespace)
        yield self._accounts.subscribe(self._on_account)

    def _on_namespace(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None and (old is None or is_terminating(old)):
            self.queue.add(new.metadata.name)

    def _on_account(self, old: ServiceAccount | None, new: ServiceAccount | None) -> None:
        if new is None and old is not None and old.metadata.name == NAME:
            self.queue.add(old.metadata.namespace)

    async def converge(self, name: str) -> None:
        namespace = self._namespaces.get(name)
        if namespace is None or is_terminating(namespace):
            return
        if self._accounts.get(f"{name}/{NAME}") is not None:
            return
        metadata = ObjectMeta(namespace=name, name=NAME)
        try:
            await self.client.create(ServiceAccount(kind="ServiceAccount", metadata=metadata))
        except (AlreadyExists, NotFound):  # there already; or its namespace has gone
            return
