"""The kubeconfig of a cluster's admin, with every master in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import yaml

#: As ``client.kubeconfig`` reads it: all masters, beside the one that other clients use.
EXTENSION = "k8slite.io/servers"


def kubeconfig(
    servers: Sequence[str], authority: bytes, certificate: bytes, key: bytes, name: str = "k8slite"
) -> bytes:
    """YAML with a cluster and a context for each of ``servers`` (URLs, at least one): the first
    is ``name`` and current, the others ``name-2`` and so on. The rest is PEM."""

    def data(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    names = [name if number == 1 else f"{name}-{number}" for number in range(1, len(servers) + 1)]
    clusters = []
    for entry, server in zip(names, servers, strict=True):
        cluster: dict[str, Any] = {"server": server, "certificate-authority-data": data(authority)}
        if len(servers) > 1:
            cluster["extensions"] = [{"name": EXTENSION, "extension": {"servers": list(servers)}}]
        clusters.append({"name": entry, "cluster": cluster})
    user = {"client-certificate-data": data(certificate), "client-key-data": data(key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": clusters,
        "users": [{"name": "admin", "user": user}],
        "contexts": [
            {"name": entry, "context": {"cluster": entry, "user": "admin"}} for entry in names
        ],
        "current-context": name,
    }
    return _Dumper.text(document)


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice: not every reader of YAML knows aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    @classmethod
    def text(cls, document: Any) -> bytes:
        return yaml.dump(document, Dumper=cls, sort_keys=False).encode()
