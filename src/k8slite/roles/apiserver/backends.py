"""Where a stream leads: the node behind a pod, the port behind the name of a proxied object."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from k8slite.api.errors import BadRequest, NotFound, Unavailable
from k8slite.api.kinds import ENDPOINTS, NODE, POD, SERVICE
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.paths import ProxyName, Target, parse_proxy_name
from k8slite.kit.clock import Clock
from k8slite.roles.apiserver.registry import Registry


def proxyable(address: str) -> bool:
    """May the proxy dial this? Not what only this host could mean by it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_multicast
                or parsed.is_unspecified)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Backend:
    """The other end of a proxied request."""

    url: str  # scheme://host:port, no slash at the end
    node: bool = False  # speaks with the cluster's certificates


class Backends:
    """Names of objects → addresses. ``dialable`` says which addresses may be proxied to."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        node_port: int,
        dialable: Callable[[str], bool] = proxyable,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._node_port = node_port
        self.dialable = dialable

    def container(self, target: Target) -> tuple[Pod, str]:
        """The pod and container that are meant. Raises NotFound, BadRequest."""
        pod = self._registry.get(POD, target.namespace, target.name).object
        names = [container.name for container in pod.spec.containers]
        asked = target.query.text("container")
        if not asked:
            if len(names) != 1:
                raise BadRequest(
                    f"a container name must be specified for pod {target.name}, choose one of: "
                    f"[{' '.join(names)}]"
                )
            asked = names[0]
        elif asked not in names and asked not in [c.name for c in pod.spec.init_containers]:
            raise BadRequest(f"container {asked[:80]} is not valid for pod {target.name}")
        return pod, asked

    def node_of(self, pod: Pod) -> str:
        """The URL of the node API behind a pod. Raises BadRequest, NotFound."""
        if not pod.spec.node_name:
            raise BadRequest(f"pod {pod.metadata.name} does not have a host assigned")
        return self._node_url(self._registry.get(NODE, "", pod.spec.node_name).object)

    def _node_url(self, node: Node, port: str = "") -> str:
        addresses = {address.type: address.address for address in node.status.addresses}
        host = addresses.get("InternalIP") or addresses.get("Hostname") or node.metadata.name
        endpoints = node.status.daemon_endpoints
        own = endpoints.kubelet_endpoint.port if endpoints and endpoints.kubelet_endpoint else 0
        return f"https://{_bracketed(host)}:{port or own or self._node_port}"

    def of(self, target: Target) -> Backend:
        """Raises NotFound, BadRequest, Unavailable."""
        named = parse_proxy_name(target.name)
        match target.of.kind:
            case "Pod":
                return self._pod_backend(target, named)
            case "Service":
                return self._service_backend(target, named)
            case "Node":
                node = self._registry.get(NODE, "", named.name).object
                own = self._node_url(node)
                if not named.port or own.endswith(f":{named.port}"):
                    return Backend(own, node=True)
                host = urlsplit(own).hostname or ""
                return self._at(host, _port_number(named.port), named.scheme)
        raise NotFound(f"{target.of.plural} cannot be proxied")

    def _at(self, host: str, port: int, scheme: str) -> Backend:
        if not self.dialable(host):
            raise BadRequest(f"address {host or '(none)'} cannot be proxied to")
        return Backend(f"{scheme or 'http'}://{_bracketed(host)}:{port}")

    def _pod_backend(self, target: Target, named: ProxyName) -> Backend:
        pod = self._registry.get(POD, target.namespace, named.name).object
        if not pod.status.pod_ip:
            raise Unavailable(f"pod {named.name} has no address yet", retry_after=1)
        ports = [port for container in pod.spec.containers for port in container.ports]
        if not named.port:
            number = ports[0].container_port if ports else 80
        else:
            by_name = {port.name: port.container_port for port in ports if port.name}
            number = by_name.get(named.port) or _port_number(named.port)
        return self._at(pod.status.pod_ip, number, named.scheme)

    def _service_backend(self, target: Target, named: ProxyName) -> Backend:
        """A ready endpoint, at random."""
        service = self._registry.get(SERVICE, target.namespace, named.name).object
        wanted = named.port
        for port in service.spec.ports:
            if wanted and str(port.port) == wanted:
                wanted = port.name
                break
        else:
            if not wanted and service.spec.ports:
                wanted = service.spec.ports[0].name
        table = self._registry.cache.table(ENDPOINTS)
        endpoints = table.get(f"{target.namespace}/{named.name}")
        choices = [
            (address.ip, port.port)
            for subset in (endpoints.object.subsets if endpoints is not None else ())
            for port in subset.ports
            if port.name == wanted or str(port.port) == wanted
            for address in subset.addresses
        ]
        if not choices:
            raise Unavailable(f'no endpoints available for service "{target.name}"', retry_after=1)
        host, number = self._clock.rng.choice(choices)
        return self._at(host, number, named.scheme)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port_number(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536:
        return int(text)
    raise BadRequest(f'"{text[:80]}" is neither a port number nor the name of a port')
