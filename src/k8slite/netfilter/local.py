"""Which addresses are this host's. They are not known once and for all, so the kernel is asked: it
reaches its own addresses from themselves, and from nowhere else."""

from __future__ import annotations

import socket


def is_of_this_host(address: str) -> bool:
    """Whether this network namespace has ``address`` (in its plain form). Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return bool(probe.getsockname()[0] == address)
    except OSError:
        return False
