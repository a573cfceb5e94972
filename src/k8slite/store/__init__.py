"""Store: one contract (``base``), its implementations, and the watch cache.

Law: an edge. It keeps bytes under keys at revisions and decides nothing; it knows kinds only
through the watch cache.
"""
