"""Admission: policy on every write, in the order that ``--admission-control`` names.

The deciding is done by pure functions in ``decide``; here are the shells that bring them what the
cache knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from k8slite.roles.apiserver.admission.always import AlwaysAdmit, AlwaysDeny
from k8slite.roles.apiserver.admission.chain import Admission, Plugin
from k8slite.roles.apiserver.admission.limits import LimitRanger
from k8slite.roles.apiserver.admission.namespaces import (
    NamespaceAutoProvision,
    NamespaceExists,
    NamespaceLifecycle,
)
from k8slite.roles.apiserver.admission.nodes import NodeRestriction
from k8slite.roles.apiserver.admission.quota import ResourceQuotas
from k8slite.roles.apiserver.admission.request import Request
from k8slite.roles.apiserver.admission.security import SecurityContextDeny
from k8slite.store.cache import WatchCache


def chain(names: Sequence[str], cache: WatchCache) -> Admission:
    """The plugins ``names``, in that order, behind the one that holds always: what a node may
    write. Raises ValueError for a name that is none."""
    unknown = [name for name in names if name not in PLUGINS]
    if unknown:
        raise ValueError(
            f"--admission-control: {unknown[0]} is no admission plugin "
            f"(there are: {', '.join(PLUGINS)})"
        )
    return Admission([NodeRestriction(cache), *(PLUGINS[name](cache, names) for name in names)])


#: Name → how it is made from the cache and the names of all that were chosen.
PLUGINS: Mapping[str, Callable[[WatchCache, Sequence[str]], Plugin]] = {
    "AlwaysAdmit": lambda _cache, _names: AlwaysAdmit(),
    "AlwaysDeny": lambda _cache, _names: AlwaysDeny(),
    "NamespaceLifecycle": lambda cache, names: NamespaceLifecycle(
        cache, provisioned="NamespaceAutoProvision" in names
    ),
    "NamespaceAutoProvision": lambda cache, _names: NamespaceAutoProvision(cache),
    "NamespaceExists": lambda cache, _names: NamespaceExists(cache),
    "LimitRanger": lambda cache, _names: LimitRanger(cache),
    "ResourceQuota": lambda cache, _names: ResourceQuotas(cache),
    "SecurityContextDeny": lambda _cache, _names: SecurityContextDeny(),
}

__all__ = ["PLUGINS", "Admission", "Plugin", "Request", "chain"]
