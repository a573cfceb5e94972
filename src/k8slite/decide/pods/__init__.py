"""Pods on a node: what is to be done for each, and what is told of it.

Law: every decision follows from the pod's object and from what is seen of its containers, never
from what was done before; so the kubelet may die between any two actions. Nobody here knows
Docker: shapes go in (``state``), specs of sandboxes and containers (``spec``), plans (``sync``)
and statuses (``status``) come out.
"""
