"""Where a cluster lies in etcd, and how its revisions follow from etcd's.

Below ``root``: ``data<key>`` holds what callers see as ``<key>``; ``meta/base`` what must be added
to etcd's revisions to get the contract's; ``meta/filling`` is there while a cluster is moved in.
Base is 0 until a cluster came from elsewhere, or etcd came back with older data than it had: then
it is raised, so that revisions only grow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import structlog
from aetcd import rpc

from k8slite.store.base import KeyValue, StoreEvent
from k8slite.store.etcd_connection import READ
from k8slite.store.etcd_member import Member
from k8slite.store.etcd_watch import event_of

log = structlog.get_logger()

_MOD = 2  # etcdserverpb.Compare.CompareTarget


class Place:
    """``seen`` is the newest revision of the contract that anybody was told."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.prefix = f"{root}/data".encode()
        self.base_key = f"{root}/meta/base".encode()
        self.filling_key = f"{root}/meta/filling".encode()
        self.data = (self.prefix, after_prefix(self.prefix))
        self.watched = (self.prefix, after_prefix(f"{root}/meta/".encode()))
        self.base = 0
        self.base_at: int | None = None  # etcd's revision of base_key (0: no such key)
        self.seen = 0

    @property
    def floor(self) -> int:
        """History before this revision is not of this place."""
        return self.base + self.base_at if self.base_at else 0

    def saw(self, revision: int) -> None:
        self.seen = max(self.seen, revision)

    def encode(self, key: str) -> bytes:
        return self.prefix + key.encode(errors="surrogateescape")

    def decode(self, key: bytes) -> str:
        return key[len(self.prefix) :].decode(errors="surrogateescape")

    def key_value(self, kv: Any) -> KeyValue:
        created, changed = kv.create_revision + self.base, kv.mod_revision + self.base
        return KeyValue(self.decode(kv.key), kv.value, created, changed, kv.lease)

    def events(self, events: Sequence[Any], prefix: bytes) -> list[StoreEvent]:
        """Those of keys that begin with ``prefix``, in the contract's words."""
        return [
            event_of(event, self.decode, self.base)
            for event in events
            if event.kv.key.startswith(prefix)
        ]

    async def look(self, member: Member, metadata: Any) -> tuple[int, int]:
        """The base that ``member`` shows and etcd's revision of it; raised first if the member
        shows less than was there before. Raises EtcdError."""
        seen = self.seen
        while True:
            request = rpc.RangeRequest(key=self.base_key)
            reply = await member.ask(member.kv.Range, request, READ, metadata)
            base, at = base_of(reply.kvs)
            revision = reply.header.revision + base
            if revision >= seen:
                self.saw(revision)
                return base, at
            log.error(
                "etcd has lost data: it is older than it was; everything is listed again",
                endpoint=member.endpoint, revision=revision, seen=seen,
            )  # fmt: skip
            request = rpc.TxnRequest(
                compare=[rpc.Compare(key=self.base_key, target=_MOD, mod_revision=at)],
                success=[self.base_put(seen)],
            )
            await member.ask(member.kv.Txn, request, READ, metadata)

    def base_put(self, base: int) -> Any:
        value = json.dumps({"base": base}).encode()
        return rpc.RequestOp(request_put=rpc.PutRequest(key=self.base_key, value=value))

    def filling_put(self) -> Any:
        return rpc.RequestOp(request_put=rpc.PutRequest(key=self.filling_key, value=b"{}"))


def base_of(kvs: Sequence[Any]) -> tuple[int, int]:
    """The base key's value and etcd's revision of it; zeros when there is none."""
    if not kvs:
        return 0, 0
    return int(json.loads(kvs[0].value)["base"]), int(kvs[0].mod_revision)


def after_prefix(prefix: bytes) -> bytes:
    """The first key that does not begin with ``prefix``."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1])
