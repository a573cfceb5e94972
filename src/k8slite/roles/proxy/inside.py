"""Who is inside of the cluster: its pods, and this host itself.

Traffic policies treat others differently: what comes from outside may have to be served on the
node that it came to.
"""

from __future__ import annotations

import ipaddress

from k8slite.kit.addresses import plain
from k8slite.netfilter.local import is_of_this_host


class Inside:
    """Call it with a client's address. ``pod_net`` is a CIDR; "" for none."""

    def __init__(self, pod_net: str) -> None:
        self._pod_net = ipaddress.ip_network(pod_net, strict=False) if pod_net else None

    def __call__(self, client: str) -> bool:
        address = ipaddress.ip_address(plain(client))
        if address.is_loopback or (self._pod_net is not None and address in self._pod_net):
            return True
        return is_of_this_host(str(address))
