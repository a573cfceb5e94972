"""Who asks. The doors decide who it is; the registry only carries it to admission."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """A name and the groups it belongs to."""

    name: str
    groups: tuple[str, ...] = ()


#: The process itself: controllers, scheduler, bootstrap.
SYSTEM = User("system:k8slite", ("system:masters",))
#: Whoever comes through the insecure port.
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
