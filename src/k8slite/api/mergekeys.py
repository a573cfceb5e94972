"""Merge keys: how the elements of a list are told apart when a document is patched.

The tables are those of the ``patchMergeKey`` and ``patchStrategy`` tags of Kubernetes' core/v1
types: path of the list (no indices) → the field that identifies an element. Lists that are not
named here are replaced as a whole (tolerations, taints, env from, external IPs).
"""

from __future__ import annotations

from collections.abc import Mapping

#: In place of a field name: a list of plain values that merges as a set.
PRIMITIVE = "*"

MergeKeys = Mapping[str, str]


def under(path: str, keys: MergeKeys) -> dict[str, str]:
    """``keys``, each below ``path``."""
    return {f"{path}.{inner}": key for inner, key in keys.items()}


METADATA: MergeKeys = under("metadata", {"ownerReferences": "uid", "finalizers": PRIMITIVE})

_CONTAINER: MergeKeys = {
    "ports": "containerPort",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}

POD_SPEC: MergeKeys = {
    "volumes": "name",
    "containers": "name",
    **under("containers", _CONTAINER),
    "initContainers": "name",
    **under("initContainers", _CONTAINER),
    "ephemeralContainers": "name",
    **under("ephemeralContainers", _CONTAINER),
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}

_CONDITIONS: MergeKeys = {"status.conditions": "type"}

POD_TEMPLATE_SPEC: MergeKeys = {**METADATA, **under("spec", POD_SPEC)}

POD: MergeKeys = {**POD_TEMPLATE_SPEC, **_CONDITIONS, "status.podIPs": "ip"}

POD_TEMPLATE: MergeKeys = {**METADATA, **under("template", POD_TEMPLATE_SPEC)}

REPLICATION_CONTROLLER: MergeKeys = {
    **METADATA,
    **under("spec.template", POD_TEMPLATE_SPEC),
    **_CONDITIONS,
}

SERVICE: MergeKeys = {**METADATA, "spec.ports": "port", **_CONDITIONS}

NODE: MergeKeys = {
    **METADATA,
    "spec.podCIDRs": PRIMITIVE,
    **_CONDITIONS,
    "status.addresses": "type",
}

NAMESPACE: MergeKeys = {**METADATA, **_CONDITIONS}

SERVICE_ACCOUNT: MergeKeys = {**METADATA, "secrets": "name"}

COMPONENT_STATUS: MergeKeys = {**METADATA, "conditions": "type"}

#: Lists whose elements are one of several things: what a patch does not name is cleared.
ONE_OF = frozenset({"volumes"})
