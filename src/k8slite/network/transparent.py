"""The way back for connections that the proxy makes from a client's own address.

A pod answers to the client. Its packets come in by the bridge, and would be forwarded to the
client, who knows nothing of the connection. So three things stand in the kernel:

- a rule in prerouting marks what belongs to a transparent socket of this host
  (Documentation/networking/tproxy.rst),
- a rule of routing sends what is marked to a table of its own,
- and that table holds one route: everything is local.

The mark's rule is in an nftables table of our own; on a host without ``nft``, a chain of ours in
the table ``mangle``. Rule and route of routing bear our protocol number. All of it happens on a
thread of the edge's own (law 7).
"""

from __future__ import annotations

import socket

from k8slite.netfilter.edge import NotPermitted, Thread, Unsupported
from k8slite.netfilter.nftables import Nftables
from k8slite.netfilter.tool import find_tool, run_tool
from k8slite.network.firewall import Chain
from k8slite.network.netlink import NetworkError, open_routes
from k8slite.network.routes import PROTOCOL
from k8slite.network.tables import Tables

#: The bit of a packet's mark that means "to a transparent socket". Kubernetes has the next two.
MARK = 0x2000
#: The routing table, and the priority of the rule that leads to it: before anybody's but "local".
TABLE, PRIORITY = 27_448, 100
NFT_TABLE = "k8slite-transparent"
CHAIN = "K8SLITE-TRANSPARENT"

IP_TRANSPARENT = 19  # linux/in.h

_RULES = f"""
table ip {NFT_TABLE} {{
	chain prerouting {{
		type filter hook prerouting priority mangle; policy accept;
		meta l4proto tcp socket transparent 1 meta mark set meta mark | {MARK:#x}
	}}
}}
"""
#: In one transaction: nothing on its way meets a time without the rule.
_REPLACE = f"table ip {NFT_TABLE} {{ }}\ndelete table ip {NFT_TABLE}\n{_RULES}"
_MANGLE = Chain(
    CHAIN, "mangle", "PREROUTING",
    (f"-A {CHAIN} -p tcp -m socket --transparent -j MARK --set-xmark {MARK:#x}/{MARK:#x}",),
)  # fmt: skip
_LOCAL = 2  # RTN_LOCAL


class TransparentEdge:
    """Makes the way back in this process's network namespace, and takes it away."""

    def __init__(self) -> None:
        self._thread = Thread("transparent")
        self._routing: _Routing | None = None
        self._marking: _Marking | None = None
        self._tables = Tables()

    async def converge(self) -> list[str]:
        """Make it right; what was not. Raises NetfilterError, NetworkError."""
        await self._thread.run(_probe)
        try:
            mended = await self._thread.run(lambda: self._nft().converge())
        except Unsupported:
            mended = await self._tables.converge((_MANGLE,), compare=True)
        return mended + await self._thread.run(lambda: self._routes().converge(wanted=True))

    async def remove(self) -> list[str]:
        """Take it away; what of it was there. Raises NetfilterError, NetworkError."""
        removed = await self._thread.run(lambda: self._routes().converge(wanted=False))
        try:
            removed += await self._thread.run(lambda: self._nft().remove())
        except Unsupported:
            pass
        try:
            removed += await self._tables.remove((_MANGLE,))
        except Unsupported:
            pass
        return removed

    async def close(self) -> None:
        """Give back the threads. The way back stays."""
        await self._thread.run(self._shut)
        self._thread.close()
        await self._tables.close()

    def _nft(self) -> _Marking:
        if self._marking is None:
            self._marking = _Marking()
        return self._marking

    def _routes(self) -> _Routing:
        if self._routing is None:
            self._routing = _Routing()
        return self._routing

    def _shut(self) -> None:
        for part in (self._routing, self._marking):
            if part is not None:
                part.close()


def _probe() -> None:
    """Raises NotPermitted, Unsupported when no socket here can be transparent."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        except PermissionError as error:
            raise NotPermitted("transparent sockets need root or CAP_NET_ADMIN") from error
        except OSError as error:
            raise Unsupported(f"no transparent sockets in this kernel: {error.strerror}") from error


class _Marking:
    """The table of nftables; belongs on one thread. Raises Unsupported."""

    def __init__(self) -> None:
        self._program = find_tool("nftables", ("nft",))
        self._kernel = Nftables()
        self._left = ("", b"")  # the listing as we left it, and the generation it was seen at

    def close(self) -> None:
        self._kernel.close()

    def converge(self) -> list[str]:
        now = self._kernel.generation()
        listing, generation = self._left
        if listing and (generation == now or listing == self._listing()):
            self._left = listing, now
            return []
        run_tool([self._program, "-f", "-"], _REPLACE)
        now = self._kernel.generation()
        self._left = self._listing(), now
        return [f"table {NFT_TABLE}"]

    def remove(self) -> list[str]:
        if not self._listing():
            return []
        run_tool([self._program, "delete", "table", "ip", NFT_TABLE])
        self._left = "", b""
        return [f"table {NFT_TABLE}"]

    def _listing(self) -> str:
        """The table as nft prints it, "" when there is none."""
        if f"table ip {NFT_TABLE}\n" not in run_tool([self._program, "list", "tables"]) + "\n":
            return ""
        return run_tool([self._program, "-s", "list", "table", "ip", NFT_TABLE])


class _Routing:
    """The rule and the route; belongs on one thread."""

    def __init__(self) -> None:
        self._ip, self._refusal = open_routes()

    def close(self) -> None:
        self._ip.close()

    def converge(self, *, wanted: bool) -> list[str]:
        """Make rule and route right, or make them go; a word for each that was not so."""
        try:
            return self._route(wanted) + self._rule(wanted)
        except self._refusal as error:
            said = error.args[1] if len(error.args) > 1 else error
            raise NetworkError(f"rule or route of table {TABLE}: the kernel says {said}") from error

    def _route(self, wanted: bool) -> list[str]:
        right = {"type": _LOCAL, "dst_len": 0}
        loopback = self._ip.link_lookup(ifname="lo")[0]
        changed = []
        found = False
        for route in self._ip.get_routes(family=socket.AF_INET, table=TABLE):
            is_right = all(route[key] == value for key, value in right.items())
            if wanted and is_right and route.get_attr("RTA_OIF") == loopback:
                found = True
                continue
            size = route["dst_len"]
            destination = f"{route.get_attr('RTA_DST') or '0.0.0.0'}/{size}"
            self._ip.route(
                "del", dst=destination, table=TABLE, type=route["type"], scope=route["scope"]
            )
            changed.append(f"route to {destination} of table {TABLE}")
        if wanted and not found:
            self._ip.route(
                "add", dst="0.0.0.0/0", oif=loopback, table=TABLE, type="local", scope="host",
                proto=PROTOCOL,
            )  # fmt: skip
            changed.append(f"route of table {TABLE}")
        return changed

    def _rule(self, wanted: bool) -> list[str]:
        changed = []
        found = False
        for rule in self._ip.get_rules(family=socket.AF_INET):
            if rule.get_attr("FRA_TABLE") != TABLE:
                continue
            words = {
                "priority": rule.get_attr("FRA_PRIORITY") or 0,
                "fwmark": rule.get_attr("FRA_FWMARK") or 0,
                "fwmask": rule.get_attr("FRA_FWMASK") or 0,
            }
            if wanted and not found and tuple(words.values()) == (PRIORITY, MARK, MARK):
                found = True
                continue
            self._ip.rule("del", family=socket.AF_INET, table=TABLE, **words)
            changed.append(f"wrong rule to table {TABLE}" if wanted else f"rule to table {TABLE}")
        if wanted and not found:
            self._ip.rule(
                "add", family=socket.AF_INET, table=TABLE, priority=PRIORITY, fwmark=MARK,
                fwmask=MARK, protocol=PROTOCOL,
            )  # fmt: skip
            changed.append(f"rule to table {TABLE}")
        return changed
