"""This node's place in the cluster: its Node object and, arbitrated by the API, its pod network.

The Node is written before the engine's network is made: what the API has accepted is this node's
alone. A refusal names what is taken; the node then looks again and proposes another piece.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable

from msgspec.structs import replace

from k8slite.api.errors import AlreadyExists, ApiError, Conflict, Invalid, NotFound
from k8slite.api.kinds import NODE
from k8slite.api.kinds.node.types import Node, NodeSpec
from k8slite.api.meta import ObjectMeta
from k8slite.client.base import Client, Informer
from k8slite.config import Settings
from k8slite.decide.pods.network import proposal
from k8slite.roles.kubelet.docker.pause import architecture
from k8slite.roles.kubelet.runtime import RuntimeFailure


class Registration:
    """Writes the Node object; ``runtime.PodNetwork`` for the runtime."""

    def __init__(self, settings: Settings, client: Client, nodes: Informer[Node]) -> None:
        self._settings = settings
        self._client = client
        self._nodes = nodes

    async def claim(self, have: str, taken: Iterable[str]) -> str:
        """As ``PodNetwork.claim``."""
        try:
            return await self._claim(have, list(taken))
        except ValueError as error:
            raise RuntimeFailure(str(error)) from None
        except (ApiError, OSError) as error:
            raise RuntimeFailure(f"no pod network yet, the API said: {error}") from None

    async def _claim(self, have: str, taken: list[str]) -> str:
        refused: list[str] = []
        # What this process has seen may be old: good enough to propose by, and it costs no call.
        nodes: Iterable[Node] = self._nodes.items()
        while True:
            own, others = self._split(nodes)
            known = own.spec.pod_cidr if own is not None else ""
            wanted = proposal(self._settings.flannel_net, have, known, [*others, *refused], taken)
            if own is not None and known == wanted:
                return wanted
            try:
                await self._write(own, wanted)
                return wanted
            except Invalid as error:
                if not is_about_cidr(error):
                    raise
                refused.append(wanted)
            except (AlreadyExists, Conflict, NotFound):
                pass  # somebody else wrote or removed the Node
            nodes = (await self._client.list(NODE)).items

    def _split(self, nodes: Iterable[Node]) -> tuple[Node | None, list[str]]:
        """Our own Node, and the CIDRs of the others."""
        own, others = None, []
        for node in nodes:
            if node.metadata.name == self._settings.node_name:
                own = node
            elif node.spec.pod_cidr:
                others.append(node.spec.pod_cidr)
        return own, others

    async def present(self, cidr: str) -> Node:
        """The Node object, made if missing, with ``cidr`` ("": whatever it has).

        Raises Invalid when another node has ``cidr`` (see ``is_about_cidr``), and ApiError.
        """
        node = self._nodes.get(self._settings.node_name)
        if node is None:
            try:
                return await self._write(None, cidr)
            except AlreadyExists:
                node = await self._client.get(NODE, self._settings.node_name)
        if cidr and node.spec.pod_cidr != cidr:
            return await self._write(node, cidr)
        return node

    async def _write(self, node: Node | None, cidr: str) -> Node:
        """Create the Node, or give it ``cidr``."""
        if node is not None:
            spec = replace(node.spec, pod_cidr=cidr, pod_cidrs=(cidr,))
            return await self._client.update(replace(node, spec=spec))
        name = self._settings.node_name
        labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/arch": architecture(platform.machine()),
            "kubernetes.io/os": "linux",
        }
        spec = NodeSpec(pod_cidr=cidr, pod_cidrs=(cidr,) if cidr else (), external_id=name)
        wanted = NODE.new(metadata=ObjectMeta(name=name, labels=labels), spec=spec)
        return await self._client.create(wanted)


def is_about_cidr(error: Invalid) -> bool:
    return any("podCIDR" in cause.field for cause in error.causes)
