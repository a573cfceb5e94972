"""Scheduling: which node shall run this pod?

``Snapshot`` is what is known, ``Policy`` which rules count, ``Algorithm.decide`` the answer with
its reasons. Nothing here waits, writes or reads a clock; randomness (ties) is handed in.
"""

from k8slite.decide.scheduling.algorithm import Algorithm, Decision
from k8slite.decide.scheduling.plugins import PluginFailed, node_local
from k8slite.decide.scheduling.policy import Policy, PolicyError
from k8slite.decide.scheduling.snapshot import NodeState, Snapshot

__all__ = [
    "Algorithm",
    "Decision",
    "NodeState",
    "PluginFailed",
    "Policy",
    "PolicyError",
    "Snapshot",
    "node_local",
]
