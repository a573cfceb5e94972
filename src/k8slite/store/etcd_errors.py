"""What etcd's failures mean: whether a request may have happened, and the mend."""

from __future__ import annotations

from enum import Enum
from typing import Any

import grpc

from k8slite.store.base import LeaseGone, StoreUnavailable


class Verdict(Enum):
    """What a failed request means for whoever sent it."""

    UNSENT = "nothing was done; another endpoint may do it"
    BUSY = "nothing was done; a moment later it may be"
    TOKEN = "nothing was done; a new token is needed"
    LOST = "it may have been done"
    REFUSED = "nothing was done, and never will be"


class EtcdError(Exception):
    def __init__(self, verdict: Verdict, text: str) -> None:
        super().__init__(text)
        self.verdict = verdict
        self.text = text


#: etcd's words for what it refused before it proposed anything.
_BUSY = ("etcdserver: no leader", "etcdserver: too many requests", "etcdserver: not capable")
_TOKEN = ("etcdserver: invalid auth token", "etcdserver: revision of auth store is old")


def classified(error: Any) -> EtcdError:
    """A failed call of gRPC → what it means."""
    code, text = error.code(), " ".join((error.details() or "").split())
    codes = grpc.StatusCode
    if text.startswith(_TOKEN):
        return EtcdError(Verdict.TOKEN, text)
    if text.startswith(_BUSY):
        return EtcdError(Verdict.BUSY, text)
    if code is codes.UNAVAILABLE and "failed to connect to all addresses" in text:
        return EtcdError(Verdict.UNSENT, _last_error(text))
    if code in (
        codes.INVALID_ARGUMENT, codes.NOT_FOUND, codes.OUT_OF_RANGE, codes.RESOURCE_EXHAUSTED,
        codes.PERMISSION_DENIED, codes.UNAUTHENTICATED, codes.FAILED_PRECONDITION,
        codes.UNIMPLEMENTED,
    ):  # fmt: skip
        return EtcdError(Verdict.REFUSED, text)
    if code is codes.DEADLINE_EXCEEDED:
        text = "no answer in time"
    return EtcdError(Verdict.LOST, text or code.name)


def _last_error(text: str) -> str:
    """gRPC tells all it tried; the end of it says why."""
    _, _, last = text.rpartition("last error: ")
    last = last.removeprefix("UNKNOWN: ").removeprefix("UNAVAILABLE: ")
    if "Connection refused" in last:
        return "connection refused"
    if "CERTIFICATE_VERIFY_FAILED" in last or "certificate verify failed" in last.lower():
        return "its certificate is not vouched for by --etcd-ca"
    if "handshake" in last.lower() or "ssl" in last.lower():
        return "no TLS connection (is it https, and are --etcd-cert and --etcd-key right?)"
    return last[:200]


_COMPACTED = "etcdserver: mvcc: required revision has been compacted"
_FUTURE = "etcdserver: mvcc: required revision is a future revision"
_NO_LEASE = "etcdserver: requested lease not found"


def is_compacted(error: EtcdError) -> bool:
    return error.text == _COMPACTED


def is_future(error: EtcdError) -> bool:
    return error.text == _FUTURE


def is_no_lease(error: EtcdError) -> bool:
    return error.text == _NO_LEASE


def is_no_space(error: EtcdError) -> bool:
    """In a transaction's answer this leaves its outcome open: the quota is looked at before the
    proposal and again after it was applied (server/etcdserver/apply.go, quotaApplierV3)."""
    return "database space exceeded" in error.text


def lease_gone(lease: int) -> LeaseGone:
    return LeaseGone(f"lease {lease} ended or never was")


def refused(error: EtcdError, root: str = "") -> StoreUnavailable:
    """What etcd will not do, with the mend."""
    text = error.text
    if is_no_space(error):
        return StoreUnavailable(
            "etcd has no space left (mvcc: database space exceeded): make room with `k8slite store "
            "compact`, which compacts, defragments and disarms the alarm, or raise etcd's "
            "--quota-backend-bytes"
        )
    if "too many operations in txn" in text:
        return StoreUnavailable(
            "etcd refuses a transaction with so many operations: start etcd with "
            "--max-txn-ops=10000"
        )
    if "request is too large" in text or "larger than max" in text:
        return StoreUnavailable(
            "etcd refuses a request of that size (1.5 MB by default): store less in one object, "
            "or start etcd with a larger --max-request-bytes"
        )
    if "permission denied" in text:
        return StoreUnavailable(
            f"etcd refuses (permission denied): grant the user's role readwrite on {root or 'all'}"
        )
    if "user name is empty" in text:
        return StoreUnavailable("etcd asks for a user: give --etcd-user and --etcd-password-file")
    if "authentication failed" in text or "authentication is not enabled" in text:
        return StoreUnavailable(f"etcd refuses the user of --etcd-user: {text}")
    return StoreUnavailable(f"etcd refuses: {text}")
