"""Discovery: what the API serves, told from the table of kinds.

The documents of ``/api``, ``/apis``, ``/api/v1``, ``/apis/<group>/<version>``, and the aggregated
form that today's clients ask for (``APIGroupDiscoveryList``). All are plain dicts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from k8slite.api.scheme import Kind, Scheme

Document = dict[str, Any]

#: The versions of the core group: the one that is stored, and the article's, kept at the door.
CORE_VERSIONS = ("v1", "v1beta3")

_PROXY = ("create", "delete", "get", "patch", "update")
_STATUS = ("get", "patch", "update")


@dataclass(frozen=True, slots=True)
class Subresource:
    """``kind`` "" is the kind that it belongs to; ``group`` and ``version`` when not its own."""

    verbs: tuple[str, ...]
    kind: str = ""
    group: str = ""
    version: str = ""


_SUBRESOURCES = {
    "status": Subresource(_STATUS),
    "scale": Subresource(_STATUS, "Scale", "autoscaling", "v1"),
    "finalize": Subresource(("update",)),
    "binding": Subresource(("create",), "Binding"),
    "eviction": Subresource(("create",), "Eviction", "policy", "v1"),
    "log": Subresource(("get",)),
    "exec": Subresource(("create", "get"), "PodExecOptions"),
    "attach": Subresource(("create", "get"), "PodAttachOptions"),
    "portforward": Subresource(("create", "get"), "PodPortForwardOptions"),
}


def subresource(kind: Kind[Any], name: str) -> Subresource:
    """Raises KeyError for a subresource that nobody described."""
    if name == "proxy":
        return Subresource(_PROXY, f"{kind.kind}ProxyOptions")
    return _SUBRESOURCES[name]


def api_versions(server_address: str) -> Document:
    """``/api``. ``server_address`` is ``host:port`` as the client reached it."""
    return {
        "kind": "APIVersions",
        "versions": list(CORE_VERSIONS),
        "serverAddressByClientCIDRs": [
            {"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}
        ],
    }


def groups(scheme: Scheme) -> dict[str, list[str]]:
    """Named group → its versions, the preferred one first."""
    found: dict[str, list[str]] = {}
    for kind in scheme:
        if kind.group and kind.version not in found.setdefault(kind.group, []):
            found[kind.group].append(kind.version)
    return found


def announced(scheme: Scheme) -> dict[str, list[str]]:
    """The groups that clients are told of. ``policy`` has no kinds here: they look for it before
    they ask for evictions."""
    return {**groups(scheme), "policy": ["v1"]}


def api_group(group: str, versions: Iterable[str]) -> Document:
    """``/apis/<group>``."""
    entries = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": group,
        "versions": entries,
        "preferredVersion": entries[0],
    }


def api_group_list(scheme: Scheme) -> Document:
    """``/apis``."""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [api_group(group, versions) for group, versions in announced(scheme).items()],
    }


def _kinds(scheme: Scheme, group: str, version: str) -> list[Kind[Any]]:
    """Every kind of a version; the core group's versions serve the same kinds."""
    return sorted(
        (k for k in scheme if k.group == group and (not group or k.version == version)),
        key=lambda kind: kind.plural,
    )


def _resource(kind: Kind[Any]) -> Document:
    document: Document = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        document["shortNames"] = list(kind.short_names)
    if kind.categories:
        document["categories"] = list(kind.categories)
    return document


def _subresource(kind: Kind[Any], name: str) -> Document:
    described = subresource(kind, name)
    document: Document = {
        "name": f"{kind.plural}/{name}",
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": described.kind or kind.kind,
        "verbs": list(described.verbs),
    }
    if described.group:
        document |= {"group": described.group, "version": described.version}
    return document


def api_resource_list(scheme: Scheme, group: str, version: str) -> Document:
    """``/api/<version>`` (group "") and ``/apis/<group>/<version>``."""
    resources: list[Document] = []
    for kind in _kinds(scheme, group, version):
        resources.append(_resource(kind))
        resources += [_subresource(kind, name) for name in sorted(kind.subresources)]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": resources,
    }


def _response_kind(group: str, version: str, kind: str) -> Document:
    return {"group": group, "version": version, "kind": kind}


def _aggregated_resource(kind: Kind[Any], version: str) -> Document:
    document: Document = {
        "resource": kind.plural,
        "responseKind": _response_kind(kind.group, version, kind.kind),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        document["shortNames"] = list(kind.short_names)
    if kind.categories:
        document["categories"] = list(kind.categories)
    subresources = []
    for name in sorted(kind.subresources):
        described = subresource(kind, name)
        response = _response_kind(
            described.group or kind.group,
            described.version or version,
            described.kind or kind.kind,
        )
        subresources.append(
            {"subresource": name, "responseKind": response, "verbs": list(described.verbs)}
        )
    if subresources:
        document["subresources"] = subresources
    return document


def aggregated(scheme: Scheme, *, core: bool, version: str = "v2") -> Document:
    """``/api`` (``core``) and ``/apis`` for ``Accept: …;as=APIGroupDiscoveryList``.

    ``version`` is that of apidiscovery.k8s.io which the client asked for: v2 or v2beta1.
    """
    wanted = {"": list(CORE_VERSIONS)} if core else announced(scheme)
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": group} if group else {},
                "versions": [
                    {
                        "version": of_group,
                        "freshness": "Current",
                        "resources": [
                            _aggregated_resource(kind, of_group)
                            for kind in _kinds(scheme, group, of_group)
                        ],
                    }
                    for of_group in versions
                ],
            }
            for group, versions in wanted.items()
        ],
    }
