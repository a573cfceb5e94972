"""What a binding must say."""

from __future__ import annotations

from k8slite.api import validation as check
from k8slite.api.errors import FieldError
from k8slite.api.kinds.binding.types import Binding
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors


def _checks(binding: Binding) -> Errors:
    if not binding.metadata.name:
        yield check.required("metadata.name", "must name the pod")
    kind = binding.target.kind
    if kind not in ("", "Node", "Minion"):
        said = f'{check.shown(kind)} is not supported; leave it out or say "Node"'
        yield FieldError("target.kind", said, "NotSupported")
    if not binding.target.name:
        yield check.required("target.name", "must name the node")


def _validate(new: Binding, old: Binding | None) -> list[FieldError]:
    return check.collected(_checks(new))


STRATEGY = Strategy(validate=_validate)
