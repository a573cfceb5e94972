"""Benches: every figure beside its peer, taken in the same run on the same machine.

``python -m bench [NAME…]`` runs them and prints the rows of one table. A bench is a module with
``def rows() -> Iterator[Row]``; it bounds its own time and cleans up after itself.
"""
