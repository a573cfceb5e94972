"""Where the node's pods come from: the API (pods bound to this node) and a directory of manifests.

A static pod (from the directory) runs whether or not the API answers. The API shows it as a mirror
pod, which nobody runs: its annotations name the source and the hash of the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import msgspec
import structlog
from msgspec.structs import replace

from k8slite.api import codec
from k8slite.api.errors import ApiError
from k8slite.api.kinds import POD
from k8slite.api.kinds.pod.types import Pod
from k8slite.client.base import Client, Informer
from k8slite.decide.pods.sync import finished

log = structlog.get_logger()

MIRROR = "kubernetes.io/config.mirror"
SOURCE = "kubernetes.io/config.source"
HASH = "kubernetes.io/config.hash"


class PodSources:
    """Pods of this node by uid. ``changed(uid)`` on every addition, change and removal."""

    def __init__(
        self, informer: Informer[Pod], client: Client, node: str, changed: Callable[[str], None]
    ) -> None:
        self._informer = informer
        self._client = client
        self._node = node
        self._changed = changed
        self._from_api: dict[str, Pod] = {}
        self._static: dict[str, Pod] = {}
        self.static_read = False

    def start(self) -> Callable[[], None]:
        """Begin to follow the API; returns the way to stop."""
        return self._informer.subscribe(self._on_change)

    def get(self, uid: str) -> Pod | None:
        """The pod as it is wanted; a static pod bears the status of its mirror."""
        static = self._static.get(uid)
        if static is None:
            return self._from_api.get(uid)
        mirror = self.mirror_of(static)
        return static if mirror is None else replace(static, status=mirror.status)

    def all(self) -> list[Pod]:
        return [*self._from_api.values(), *self._static.values()]

    def is_static(self, uid: str) -> bool:
        return uid in self._static

    def mirror_of(self, pod: Pod) -> Pod | None:
        """What the API shows of a static pod."""
        found = self._informer.get(pod.key)
        if found is None or found.metadata.annotation(MIRROR) != pod.metadata.annotation(HASH):
            return None
        return found

    def _on_change(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and self._ours(old):
            gone = new is None or new.metadata.uid != old.metadata.uid
            if gone and self._from_api.pop(old.metadata.uid, None) is not None:
                self._changed(old.metadata.uid)
        shown = new if new is not None else old
        if shown is not None and shown.metadata.annotation(MIRROR):
            uid = shown.metadata.annotation(MIRROR)
            if shown.spec.node_name == self._node:
                self._changed(uid)
            return
        if new is not None and self._ours(new):
            self._from_api[new.metadata.uid] = new
            self._changed(new.metadata.uid)

    def _ours(self, pod: Pod) -> bool:
        return pod.spec.node_name == self._node and not pod.metadata.annotation(MIRROR)

    # -- static pods ---------------------------------------------------------------------------

    def set_static(self, pods: Iterable[Pod]) -> None:
        """The directory's pods, as they are now."""
        before, self._static = self._static, {pod.metadata.uid: pod for pod in pods}
        self.static_read = True
        for uid in before.keys() | self._static.keys():
            if before.get(uid) != self._static.get(uid):
                self._changed(uid)

    async def mirror(self, uid: str) -> Pod | None:
        """Make the API show the static pod; returns what it shows. Raises ApiError."""
        static = self._static[uid]
        shown = self.mirror_of(static)
        if shown is not None:
            return shown
        stale = self._informer.get(static.key)
        if stale is not None:
            if not stale.metadata.annotation(MIRROR):
                log.warning("static pod has a namesake in the API", key=static.key)
                return None
            await self._drop(stale)
        notes = {**(static.metadata.annotations or {}), MIRROR: static.metadata.annotation(HASH)}
        meta = replace(static.metadata, uid="", annotations=notes)
        return await self._client.create(replace(static, metadata=meta))

    async def drop_stale_mirrors(self) -> None:
        """Remove mirrors whose manifests are gone. Raises ApiError."""
        wanted = {pod.metadata.annotation(HASH) for pod in self._static.values()}
        for pod in list(self._informer.items()):
            sign = pod.metadata.annotation(MIRROR)
            if sign and pod.spec.node_name == self._node and sign not in wanted:
                await self._drop(pod)

    async def _drop(self, mirror: Pod) -> None:
        meta = mirror.metadata
        await self._client.delete(POD, meta.name, meta.namespace, grace_seconds=0, uid=meta.uid)


def static_pod(raw: object, source: str, node: str) -> Pod:
    """The pod that a manifest describes, made this node's own. Raises ApiError, ValueError."""
    pod = codec.from_raw(raw, kind=POD).object
    if not isinstance(pod, Pod):
        raise ValueError(f"a manifest must hold a Pod, not a {type(pod).__name__}")
    pod = POD.strategy.default(pod)
    digest = hashlib.sha256(msgspec.json.encode(pod, order="deterministic") + node.encode())
    uid = digest.hexdigest()[:32]
    meta = replace(
        pod.metadata,
        name=f"{pod.metadata.name}-{node}",
        namespace=pod.metadata.namespace or "default",
        uid=uid,
        annotations={**(pod.metadata.annotations or {}), HASH: uid, SOURCE: source},
    )
    pod = replace(pod, metadata=meta, spec=replace(pod.spec, node_name=node))
    errors = POD.strategy.validate(pod, None)
    if errors:
        raise ValueError("; ".join(str(error) for error in errors))
    return pod


def read_manifest(text: bytes, source: str, node: str) -> list[Pod]:
    """All pods of one file. Raises ApiError, ValueError."""
    return [static_pod(raw, source, node) for raw in codec.decode_documents(text)]


def active(pods: Iterable[Pod]) -> list[Pod]:
    """Those that hold room on the node."""
    return [pod for pod in pods if not finished(pod)]


__all__ = ["MIRROR", "ApiError", "PodSources", "active", "read_manifest", "static_pod"]
