"""Documents made from a few flags: what ``run-container`` and ``expose`` create."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from k8slite.api import selectors, v1beta3
from k8slite.api.errors import BadRequest

Raw = dict[str, Any]


def labels_of(text: str) -> dict[str, str]:
    """``a=1,b=2`` → a dict. Raises BadRequest."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not selectors.is_label_key(key) or not selectors.is_label_value(value):
            raise BadRequest(f"{part!r} is no label: write key=value")
        found[key] = value
    return found


def controller(
    name: str,
    image: str,
    *,
    replicas: int = 1,
    ports: Sequence[int] = (),
    host_port: int = 0,
    labels: Mapping[str, str] | None = None,
    environment: Sequence[str] = (),
    command: Sequence[str] = (),
    args: Sequence[str] = (),
) -> Raw:
    """A ReplicationController as v0.17's run-container made it: labels and selector
    ``run-container=<name>`` unless others are given. ``host_port`` is the first port's.

    The document is meant in v1beta3, as that command spoke it: an image without a tag is then the
    one that is there, and a node without a registry can run it. Raises BadRequest.
    """
    if not image:
        raise BadRequest(f"run-container {name}: say the image: --image=IMAGE")
    if host_port and not ports:
        raise BadRequest(f"run-container {name}: --hostport needs a --port")
    chosen = dict(labels or {"run-container": name})
    container: Raw = {"name": name, "image": image}
    if ports:
        container["ports"] = [{"containerPort": port} for port in ports]
    if host_port:
        container["ports"][0]["hostPort"] = host_port
    if environment:
        container["env"] = [_variable(text) for text in environment]
    if command:
        container["command"] = list(command)
    if args:
        container["args"] = list(args)
    meant = {
        "apiVersion": "v1beta3",
        "kind": "ReplicationController",
        "metadata": {"name": name, "labels": chosen},
        "spec": {
            "replicas": replicas,
            "selector": chosen,
            "template": {"metadata": {"labels": chosen}, "spec": {"containers": [container]}},
        },
    }
    return v1beta3.from_v1beta3(meant)


def _variable(text: str) -> Raw:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadRequest(f"--env {text!r}: write NAME=VALUE")
    return {"name": name, "value": value}


def selector_of(document: Raw) -> dict[str, str]:
    """The labels that lead to the pods behind a document. Raises BadRequest."""
    kind, name = document.get("kind", ""), document.get("metadata", {}).get("name", "")
    if kind == "Pod":
        found = document.get("metadata", {}).get("labels")
    elif kind in ("ReplicationController", "Service"):
        found = document.get("spec", {}).get("selector")
    else:
        raise BadRequest(f"a {kind} cannot be exposed; name a pod, an rc or a service")
    if not found:
        raise BadRequest(f"{kind} {name!r} has no labels to select by; give --selector")
    return dict(found)


def ports_of(document: Raw) -> list[int]:
    """The ports that a document's containers (or a service) name."""
    spec = document.get("spec", {})
    if document.get("kind") == "Service":
        return [port["port"] for port in spec.get("ports") or ()]
    template = spec.get("template", {}).get("spec", {}) if "template" in spec else spec
    return [
        port["containerPort"]
        for container in template.get("containers") or ()
        for port in container.get("ports") or ()
    ]


def service(
    name: str,
    selector: Mapping[str, str],
    ports: Sequence[int],
    *,
    target_port: str = "",
    protocol: str = "TCP",
    labels: Mapping[str, str] | None = None,
    external_ips: Sequence[str] = (),
    type: str = "",
    session_affinity: str = "",
    portal_ip: str = "",
) -> Raw:
    """A Service over ``selector``. ``target_port`` is a number or a name; "" means the same port.

    Raises BadRequest.
    """
    if not ports:
        raise BadRequest(f"expose {name}: say the port: --port=PORT")
    if target_port and len(ports) > 1:
        raise BadRequest(f"expose {name}: --target-port goes with a single --port")
    entries: list[Raw] = []
    for port in ports:
        target: int | str = int(target_port) if target_port.isdigit() else target_port or port
        entry: Raw = {"port": port, "protocol": protocol.upper(), "targetPort": target}
        entries.append({"name": f"port-{port}", **entry} if len(ports) > 1 else entry)
    spec: Raw = {"ports": entries, "selector": dict(selector)}
    if external_ips:
        spec["externalIPs"] = list(external_ips)
    if type:
        spec["type"] = type
    if session_affinity:
        spec["sessionAffinity"] = session_affinity
    if portal_ip:
        spec["clusterIP"] = portal_ip
    metadata: Raw = {"name": name}
    if labels:
        metadata["labels"] = dict(labels)
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
