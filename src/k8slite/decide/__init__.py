"""Decide: scheduling, replication, endpoints, node health, pod sync, balancing, allocation.

Law: pure. A decision takes a snapshot, ``now`` and a random source, and returns a plan.
"""
