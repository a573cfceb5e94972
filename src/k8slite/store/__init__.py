"""Store: one contract (``base``), its implementations, and the watch cache.

Law: an edge. It keeps bytes under keys at revisions and decides nothing; it knows kinds only
through the watch cache.
"""

import os

# Read by gRPC when it is imported, which only the modules of etcd do: what a channel goes through
# is told by our errors and needs no printing.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
