"""Admission: policy on every write, in the order that ``--admission-control`` names.

The deciding is done by pure functions in ``decide``; here are the shells that bring them what the
cache knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    makers: dict[str, Callable[[], Plugin]] = {
        "AlwaysAdmit": AlwaysAdmit,
        "AlwaysDeny": AlwaysDeny,
        "NamespaceLifecycle": lambda: NamespaceLifecycle(
            cache, provisioned="NamespaceAutoProvision" in names
        ),
        "NamespaceAutoProvision": lambda: NamespaceAutoProvision(cache),
        "NamespaceExists": lambda: NamespaceExists(cache),
        "LimitRanger": lambda: LimitRanger(cache),
        "ResourceQuota": lambda: ResourceQuotas(cache),
        "SecurityContextDeny": SecurityContextDeny,
    }
    unknown = [name for name in names if name not in makers]
    if unknown:
        raise ValueError(
            f"--admission-control: {unknown[0]} is no admission plugin "
            f"(there are: {', '.join(makers)})"
        )
    return Admission([NodeRestriction(), *(makers[name]() for name in names)])


__all__ = ["Admission", "Plugin", "Request", "chain"]
