"""Who is inside of the cluster: its pods, and this host itself.

Traffic policies treat others differently: what comes from outside may have to be served on the
node that it came to. Addresses of this host are not known once and for all, so the kernel is
asked: it reaches its own addresses from themselves, and from nowhere else.
"""

from __future__ import annotations

import ipaddress
import socket


class Inside:
    """Call it with a client's address. ``pod_net`` is a CIDR; "" for none."""

    def __init__(self, pod_net: str) -> None:
        self._pod_net = ipaddress.ip_network(pod_net, strict=False) if pod_net else None

    def __call__(self, client: str) -> bool:
        address = ipaddress.ip_address(client.removeprefix("::ffff:").partition("%")[0])
        if address.is_loopback or (self._pod_net is not None and address in self._pod_net):
            return True
        return _is_of_this_host(str(address), address.version)


def _is_of_this_host(address: str, version: int) -> bool:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing
            return bool(probe.getsockname()[0] == address)
    except OSError:
        return False
