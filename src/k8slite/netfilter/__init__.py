"""Netfilter: the desired portal rules (pure) and the edges that make the kernel agree.

Law: ``rules`` is pure; edges own only chains and rules that carry our names.
"""
