"""The composition root: settings in, one process with its roles out.

The only place that knows every room. One TaskGroup owns all roles; the first that fails ends the
rest. Stopping leaves containers and portal rules where they are, for a crash is an ordinary start:
the next agent adopts them. ``uninstall`` is what takes them away.
"""

from k8slite.agent.process import main
from k8slite.agent.roles import run, uninstall

__all__ = ["main", "run", "uninstall"]
