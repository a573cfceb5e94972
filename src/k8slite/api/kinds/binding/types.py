"""Binding: the sentence "this pod runs on that node"; and ObjectReference, which it is made of."""

from __future__ import annotations

from k8slite.api.meta import Object
from k8slite.api.struct import Struct, always


class ObjectReference(Struct):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


class Binding(Object):
    kind: str = always("Binding")
    target: ObjectReference = always(ObjectReference())
