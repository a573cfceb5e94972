"""The announcer of a node: the network learns which node has which address of the pool.

Services, endpoints and Nodes → a verdict (``decide.announcing``) → a voice (``network.speaker`` for
ARP, ``network.exabgp`` for BGP). Who else lives is asked of the other announcers by small datagrams
(``wire``), so nothing of it depends on the control plane being up.
"""

from k8slite.roles.announcer.announcer import Announcer
from k8slite.roles.announcer.composing import announcer, remove

__all__ = ["Announcer", "announcer", "remove"]
