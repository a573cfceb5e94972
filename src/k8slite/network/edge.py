"""The edge to the kernel's links, neighbours and routes, through pyroute2.

It makes what a ``Plan`` says and takes away what of ours the plan does not have. Ours are the link
``k8slite-vx`` with all that hangs on it, and every route that bears our protocol number; nothing
else is ever changed: where somebody else's route stands in the way, that is said.

pyroute2 costs 4 MB, so it is loaded when there is something to do. All of it happens on a thread of
the edge's own (law 7).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from k8slite.netfilter.edge import Thread
from k8slite.network.netlink import NetworkError, open_routes
from k8slite.network.routes import (
    LINK,
    PORT,
    PROTOCOL,
    VNI,
    Link,
    Neighbour,
    Plan,
    Route,
)

_PERMANENT = 0x80  # NUD_PERMANENT
_UP = 0x1  # IFF_UP


class _Gone(Exception):
    """What was just there is not."""


class NetworkEdge:
    """Applies plans in this process's network namespace."""

    def __init__(self) -> None:
        self._thread = Thread("pod-network")
        self._kernel: _Kernel | None = None

    async def apply(self, plan: Plan) -> list[str]:
        """Make it so; what was changed, a word each. Raises NetworkError when some of it could
        not be done; the rest then is."""
        return await self._thread.run(lambda: self._open().apply(plan))

    async def remove(self) -> list[str]:
        """Take away everything of ours; what that was."""
        return await self._thread.run(lambda: self._open().apply(Plan()))

    async def close(self) -> None:
        """Give back the thread. Links and routes stay."""
        await self._thread.run(self._shut)
        self._thread.close()

    def _open(self) -> _Kernel:
        if self._kernel is None:
            self._kernel = _Kernel()
        return self._kernel

    def _shut(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None


class _Kernel:
    """A netlink socket; every method belongs on the edge's thread."""

    def __init__(self) -> None:
        self._ip, self._refusal = open_routes()
        self._changed: list[str] = []
        self._trouble: list[str] = []

    def close(self) -> None:
        self._ip.close()

    def apply(self, plan: Plan) -> list[str]:
        self._changed = []
        for last in (False, False, True):
            self._trouble = []
            try:
                self._converge(plan)
                break
            except (self._refusal, _Gone) as error:
                # What we asked about, or worked on, went away meanwhile. Look anew.
                if last:
                    raise NetworkError(f"the kernel says {_words(error)}") from error
        if self._trouble:
            raise NetworkError("; ".join(self._trouble))
        return self._changed

    def _converge(self, plan: Plan) -> None:
        index = self._index(LINK)
        if plan.link is None:
            if index:
                self._do(f"link {LINK} removed", "link", "del", index=index)
        else:
            index = self._link(plan.link, index)
            if index:
                self._address(plan.link, index)
                self._neighbours(plan.neighbours, index)
                self._forwarding(plan.neighbours, index)
        self._routes(plan.routes)

    def _do(self, what: str, method: str, *words: str, **fields: Any) -> bool:
        """One change; ``what`` it is to a reader of the log. False (and said) when refused."""
        try:
            getattr(self._ip, method)(*words, **fields)
        except self._refusal as error:
            code = getattr(error, "code", 0)
            if words[0] == "del" and code in (errno.ENOENT, errno.ESRCH, errno.ENODEV):
                return True  # somebody was quicker
            if code == errno.ENODEV:
                raise  # the link went away under our hands: look anew
            self._trouble.append(f"{what}: the kernel says {_words(error)}")
            return False
        self._changed.append(what)
        return True

    def _index(self, name: str) -> int:
        """The interface's number, 0 when there is none."""
        return next(iter(self._ip.link_lookup(ifname=name)), 0)

    # -- the vxlan link --------------------------------------------------------------------------

    def _link(self, link: Link, index: int) -> int:
        """The link's number once it is right and up; 0 when it cannot be made."""
        found = next(iter(self._ip.get_links(index)), None) if index else None
        if found is not None and not _is_ours(found, link):
            self._do(f"wrong link {LINK} removed", "link", "del", index=index)
            found = None
        if found is None:
            made = self._do(
                f"link {LINK} made", "link", "add", ifname=LINK, kind="vxlan", vxlan_id=VNI,
                vxlan_port=PORT, vxlan_local=link.local, vxlan_learning=False,
                address=link.mac, mtu=link.mtu,
            )  # fmt: skip
            if not made:
                self._trouble[-1] += f" (is another vxlan at port {PORT}, as flannel's?)"
                return 0
            index = self._index(LINK)
            found = next(iter(self._ip.get_links(index)), None) if index else None
        if found is None:
            raise _Gone(f"link {LINK} went away as soon as it was made")
        if found.get_attr("IFLA_MTU") != link.mtu:
            self._do(f"MTU of {LINK} set", "link", "set", index=index, mtu=link.mtu)
        if not found["flags"] & _UP:
            self._do(f"link {LINK} up", "link", "set", index=index, state="up")
        return index

    def _address(self, link: Link, index: int) -> None:
        present = [
            (message.get_attr("IFA_ADDRESS"), message["prefixlen"])
            for message in self._ip.get_addr(family=socket.AF_INET, index=index)
        ]
        for address, length in present:
            if (address, length) != (link.address, 32):
                self._do(
                    f"address {address}/{length} removed", "addr", "del",
                    index=index, address=address, prefixlen=length,
                )  # fmt: skip
        if (link.address, 32) not in present:
            self._do(
                f"address {link.address} added", "addr", "add",
                index=index, address=link.address, prefixlen=32,
            )  # fmt: skip

    def _neighbours(self, wanted: Iterable[Neighbour], index: int) -> None:
        """Who answers to which link address (the ARP table)."""
        right = {n.address: n.mac for n in wanted}
        present = {
            message.get_attr("NDA_DST"): (message.get_attr("NDA_LLADDR"), message["state"])
            for message in self._ip.get_neighbours(socket.AF_INET, ifindex=index)
        }
        for address, (mac, _) in present.items():
            if address not in right and mac:
                self._do(f"neighbour {address} removed", "neigh", "del", dst=address, ifindex=index)
        for address, mac in right.items():
            if present.get(address) != (mac, _PERMANENT):
                self._do(
                    f"neighbour {address} set", "neigh", "replace",
                    dst=address, lladdr=mac, ifindex=index, state="permanent",
                )  # fmt: skip

    def _forwarding(self, wanted: Iterable[Neighbour], index: int) -> None:
        """Which MAC is at which node (the link's forwarding table)."""
        right = {(n.mac, n.host) for n in wanted}
        present = {
            (message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST"))
            for message in self._ip.get_neighbours(socket.AF_BRIDGE, ifindex=index)
            if message["ifindex"] == index
        }
        # Wrong ones first: a MAC is at one node.
        for mac, host in sorted(entry for entry in present - right if entry[1]):
            self._do(
                f"forwarding to {host} removed", "fdb", "del", ifindex=index, lladdr=mac, dst=host
            )
        for mac, host in sorted(right - present):
            self._do(
                f"forwarding to {host} added", "fdb", "add", ifindex=index, lladdr=mac, dst=host
            )

    # -- routes ----------------------------------------------------------------------------------

    def _routes(self, wanted: Iterable[Route]) -> None:
        numbers = {route.device: self._index(route.device) for route in wanted}
        right = {(r.cidr, r.via, numbers[r.device]) for r in wanted if numbers[r.device]}
        present = dict(self._our_routes())
        for key in sorted(present.keys() - right):
            cidr, via, index = key
            self._do(
                f"route to {cidr} removed", "route", "del", dst=cidr, proto=PROTOCOL,
                table=present[key], oif=index, **({"gateway": via} if via else {}),
            )  # fmt: skip
        for cidr, via, index in sorted(right - present.keys()):
            added = self._do(
                f"route to {cidr} added", "route", "add", dst=cidr, gateway=via, oif=index,
                flags=["onlink"], proto=PROTOCOL,
            )  # fmt: skip
            if not added and "exist" in self._trouble[-1]:
                self._trouble[-1] = (
                    f"somebody else's route to {cidr} stands in the way: ip route del {cidr}"
                )
        self._trouble += [f"there is no interface {name}" for name, n in numbers.items() if not n]

    def _our_routes(self) -> Iterator[tuple[tuple[str, str, int], int]]:
        """Destination, gateway and interface of every IPv4 route of ours, and its table."""
        for message in self._ip.get_routes(family=socket.AF_INET, proto=PROTOCOL):
            if message["proto"] == PROTOCOL:
                cidr = f"{message.get_attr('RTA_DST')}/{message['dst_len']}"
                via = message.get_attr("RTA_GATEWAY") or ""
                index = message.get_attr("RTA_OIF") or 0
                yield (cidr, via, index), message.get_attr("RTA_TABLE") or message["table"]


def _is_ours(found: Any, link: Link) -> bool:
    """Whether what cannot be changed in place is as it must be."""
    info = found.get_attr("IFLA_LINKINFO")
    if info is None or info.get_attr("IFLA_INFO_KIND") != "vxlan":
        return False
    data = info.get_attr("IFLA_INFO_DATA")
    return found.get_attr("IFLA_ADDRESS") == link.mac and (
        data.get_attr("IFLA_VXLAN_ID"),
        data.get_attr("IFLA_VXLAN_PORT"),
        data.get_attr("IFLA_VXLAN_LOCAL"),
        data.get_attr("IFLA_VXLAN_LEARNING"),
    ) == (VNI, PORT, link.local, 0)


def _words(error: Exception) -> str:
    """The kernel's own words of a NetlinkError."""
    return str(error.args[1] if len(error.args) > 1 else error)
