"""How many descriptors clients may use up: not all, for the rest of the process lives on them too.

The kernel gives every new descriptor the lowest number that is free. So a number tells how many are
in use, and nobody has to count.
"""

from __future__ import annotations

import resource

#: So many are kept for the rest of the process: an eighth of what it may have, at most this.
MOST_KEPT = 512
_NO_END = 1 << 30


def ceiling() -> int:
    """The first number that is not for clients."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _NO_END
    return soft - min(MOST_KEPT, soft // 8)
