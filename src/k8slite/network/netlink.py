"""pyroute2's netlink socket, without the rest of pyroute2 (4 MB instead of 11)."""

from __future__ import annotations

from typing import Any

from k8slite.kit.lightly import only_parts


class NetworkError(Exception):
    """The kernel refused; the text says what, and what to do."""


def open_routes() -> tuple[Any, type[Exception]]:
    """An ``IPRoute`` of this network namespace, and what it raises when the kernel refuses.
    Belongs on one thread. Raises NetworkError."""
    with only_parts("pyroute2"):
        from pyroute2.iproute.linux import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError
    try:
        return IPRoute(), NetlinkError
    except OSError as error:
        raise NetworkError(f"no netlink here: {error.strerror}") from error
