"""The Binding kind, declared."""

from __future__ import annotations

from k8slite.api.kinds.binding.rules import STRATEGY
from k8slite.api.kinds.binding.types import Binding
from k8slite.api.scheme import Kind

BINDING = Kind(
    type=Binding,
    kind="Binding",
    plural="bindings",
    singular="binding",
    strategy=STRATEGY,
    verbs=("create",),
    virtual=True,
)
