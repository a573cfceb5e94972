"""What nodes and masters say to each other at ``/join``, ``/join/token`` and a node's
``heartbeat``: our own, Kubernetes has none like it."""

from __future__ import annotations

from k8slite.api.struct import Struct


class JoinRequest(Struct):
    """``addresses`` are the machine's, the node's first; ``csr`` is PEM, its key alone is used."""

    name: str = ""
    addresses: tuple[str, ...] = ()
    architecture: str = ""
    csr: str = ""


class JoinAnswer(Struct):
    """``certificate`` and ``ca`` are PEM, ``uid`` is the Node's, ``servers`` are all masters."""

    certificate: str = ""
    ca: str = ""
    uid: str = ""
    servers: tuple[str, ...] = ()


class Heartbeat(Struct):
    """The node counts as alive for so many seconds."""

    seconds: float = 0.0


class TokenAnswer(Struct):
    token: str = ""
    servers: tuple[str, ...] = ()
