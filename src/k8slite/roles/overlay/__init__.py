"""The overlay: keeps this node's way to the pods of all others as the Nodes say.

Nodes → plan (``network.routes``, ``network.firewall``) → the kernel, on every change of a Node that
matters, whenever the kernel tells of a change to what is ours, and by a close look now and then.
"""

from k8slite.roles.overlay.overlay import Overlay
from k8slite.roles.overlay.removal import remove

__all__ = ["Overlay", "remove"]
