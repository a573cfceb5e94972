"""The lab: hosts made of network namespaces, each with its own Docker engine and agent.

All traffic stays inside namespaces that the lab itself made; nothing is routed to the machine's
own network. Needs root. Daemons are started with ``nsenter --net`` and not ``ip netns exec``, which
would remount /sys and hide the cgroups from Docker.
"""
