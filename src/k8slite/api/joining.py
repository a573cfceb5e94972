"""What is said at ``/join`` and ``/join/token``: our own, Kubernetes has none like it."""

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


class TokenAnswer(Struct):
    token: str = ""
    servers: tuple[str, ...] = ()
