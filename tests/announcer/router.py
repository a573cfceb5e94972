"""A router: ExaBGP that listens to the nodes, and what it knows of routes by what it heard."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab.network import Namespace

AS = 65000


class Router:
    """In ``namespace``, at ``address``; its peers are the nodes at ``nodes``, of AS ``number``."""

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        nodes: Iterable[str],
        directory: Path,
        number: int = 64512,
    ) -> None:
        self._namespace = namespace
        self._directory = directory
        self._heard = directory / "heard.json"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        script = directory / "hear.sh"
        script.write_text(f"#!/bin/sh\nexec 3>&1\nexec cat > {self._heard}\n")
        script.chmod(0o755)
        text = f"process hear {{ run {script}; encoder json; }}\n"
        for node in nodes:
            text += (
                f"neighbor {node} {{ router-id {address}; local-address {address}; "
                f"local-as {AS}; peer-as {number}; passive true; hold-time 10; "
                "family { ipv4 unicast; } "
                "api { processes [ hear ]; neighbor-changes; receive { parsed; update; } } }\n"
            )
        (directory / "router.conf").write_text(text)
        self._address = address

    def __enter__(self) -> Self:
        self._process = self._namespace.start(
            *("env", f"exabgp.tcp.bind={self._address}", "exabgp.daemon.user=root"),
            *("exabgp.api.cli=false", "exabgp", str(self._directory / "router.conf")),
            log=self._directory / "router.log",
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def routes(self) -> dict[str, set[str]]:
        """Address → the nodes that lead there, as next hops."""
        found: dict[str, dict[str, str]] = {}  # prefix → peer → next hop
        for line in self._lines():
            peer = line["neighbor"]["address"]["peer"]
            if line["type"] == "state" and line["neighbor"]["state"] == "down":
                for hops in found.values():
                    hops.pop(peer, None)
            update = line["neighbor"].get("message", {}).get("update", {})
            for gone in update.get("withdraw", {}).get("ipv4 unicast", ()):
                found.get(gone["nlri"], {}).pop(peer, None)
            for hop, told in update.get("announce", {}).get("ipv4 unicast", {}).items():
                for route in told:
                    found.setdefault(route["nlri"], {})[peer] = hop
        return {
            prefix.removesuffix("/32"): set(hops.values()) for prefix, hops in found.items() if hops
        }

    def sessions(self) -> set[str]:
        """The peers that are up."""
        up: set[str] = set()
        for line in self._lines():
            if line["type"] == "state":
                peer = line["neighbor"]["address"]["peer"]
                (up.add if line["neighbor"]["state"] == "up" else up.discard)(peer)
        return up

    def partings(self) -> list[str]:
        """How sessions ended, in the router's words."""
        states = [line for line in self._lines() if line["type"] == "state"]
        return [s["neighbor"]["reason"] for s in states if s["neighbor"]["state"] == "down"]

    def _lines(self) -> Iterable[Any]:
        if not self._heard.exists():
            return
        for line in self._heard.read_text().splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue  # it is just being written
            if "neighbor" in found:
                yield found
