"""The pod network between hosts: the way to the pods of other nodes, and what may pass.

Law: ``routes`` and ``firewall`` are pure and say what should be; ``edge`` (pyroute2), ``tables``
(the iptables tools) and ``uplink`` make it so and decide nothing.
"""
