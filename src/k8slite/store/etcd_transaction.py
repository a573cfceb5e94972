"""Transactions of the contract in etcd's words, and what etcd's refusals mean.

Pure: values in, values out. A transaction is compares, writes, and for the case that a compare
fails a look at every key, which tells who is at which revision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aetcd import rpc

from k8slite.store.base import (
    Check,
    Create,
    Delete,
    KeyExists,
    Mismatch,
    Op,
    StoreError,
    Update,
)

_EQUAL, _GREATER = 0, 1  # etcdserverpb.Compare.CompareResult
_CREATE, _MOD = 1, 2  # and CompareTarget
#: No key is ever at this revision.
_NEVER = -1


def request_of(ops: Sequence[Op], encode: Callable[[str], bytes], base: int) -> Any:
    """``ops`` → TxnRequest. ``base`` is how far the contract's revisions are above etcd's."""
    compare, success, failure = [], [], []
    for op in ops:
        key = encode(op.key)
        failure.append(rpc.RequestOp(request_range=rpc.RangeRequest(key=key, keys_only=True)))
        match op:
            case Create():
                compare.append(
                    rpc.Compare(key=key, result=_EQUAL, target=_CREATE, create_revision=0)
                )
            case Delete(revision=None):
                compare.append(
                    rpc.Compare(key=key, result=_GREATER, target=_CREATE, create_revision=0)
                )
            case Update(revision=expected) | Delete(revision=expected) | Check(revision=expected):
                at = (expected or 0) - base
                if at <= 0:
                    at = 0 if isinstance(op, Check) and expected == 0 else _NEVER
                compare.append(rpc.Compare(key=key, result=_EQUAL, target=_MOD, mod_revision=at))
        match op:
            case Delete():
                delete = rpc.DeleteRangeRequest(key=key)
                success.append(rpc.RequestOp(request_delete_range=delete))
            case Check():
                pass
            case _:
                put = rpc.PutRequest(key=key, value=op.value, lease=op.lease)
                success.append(rpc.RequestOp(request_put=put))
    return rpc.TxnRequest(compare=compare, success=success, failure=failure)


def refusal(ops: Sequence[Op], responses: Sequence[Any], base: int) -> StoreError:
    """The first compare that failed, in the order of ``ops``: KeyExists or Mismatch."""
    for op, response in zip(ops, responses, strict=True):
        found = response.response_range.kvs
        actual = found[0].mod_revision + base if found else 0
        match op:
            case Create() if actual:
                return KeyExists(op.key)
            case Delete(revision=None) if not actual:
                return Mismatch(op.key, actual)
            case Update(revision=expected) | Delete(revision=expected) if expected is not None:
                if not actual or actual != expected:
                    return Mismatch(op.key, actual)
            case Check(revision=expected) if actual != expected:
                return Mismatch(op.key, actual)
    raise AssertionError("etcd refused a transaction all of whose compares hold")


def applies_once(ops: Sequence[Op]) -> bool:
    """Whether ``ops`` cannot happen twice however often they are sent: what they do to a key at
    one revision, they cannot do again, for that revision never comes back."""
    return any(isinstance(op, Update | Delete) and op.revision for op in ops)


def leases_of(ops: Sequence[Op]) -> set[int]:
    return {op.lease for op in ops if not isinstance(op, Delete | Check) and op.lease}
