"""The pod network between hosts: which node has which subnet, and the way there.

Law: ``subnets`` and ``routes`` are pure; ``edge`` (pyroute2) and ``firewall`` do what they say.
"""
