"""Who asks. The doors decide who it is; the registry only carries it to admission."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """A name and the groups it belongs to. ``uid``: of the object that vouches for it, if any."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


#: The process itself: controllers, scheduler, bootstrap.
SYSTEM = User("system:k8slite", ("system:masters",))
#: Whoever comes through the insecure port.
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
#: Whoever shows the join token: it may ask for a node's certificate, and for nothing else.
JOINER = User("system:joining", ("system:joining",))
