"""Probes and lifecycle hooks, carried out: HTTP, TCP and commands in a container."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

import aiohttp

from k8slite.api.kinds.pod.types import (
    Container,
    ExecAction,
    Handler,
    HTTPGetAction,
    IntOrString,
    Probe,
    TCPSocketAction,
)
from k8slite.roles.kubelet.runtime import Runtime, RuntimeFailure

_SHOWN = 1024  # of an answer or an output, in characters


@dataclass(frozen=True, slots=True)
class Target:
    """The container that is asked, and the address that its pod answers on."""

    container: Container
    id: str
    ip: str


@dataclass(frozen=True, slots=True)
class Outcome:
    ok: bool
    message: str = ""


class Doer:
    """Carries out what probes and hooks describe."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # Whatever certificate a pod shows is good enough to say that it lives.
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    async def do(self, action: Probe | Handler, target: Target, timeout: float) -> Outcome:
        """The outcome within ``timeout`` seconds; an action of no kind succeeds."""
        try:
            async with asyncio.timeout(timeout):
                if action.exec is not None:
                    return await self._exec(action.exec, target, timeout)
                if action.http_get is not None:
                    return await self._http(action.http_get, target)
                if action.tcp_socket is not None:
                    return await self._tcp(action.tcp_socket, target)
        except TimeoutError:
            return Outcome(False, f"no answer within {timeout:g} s")
        except (OSError, aiohttp.ClientError, RuntimeFailure, ValueError) as error:
            return Outcome(False, str(error) or type(error).__name__)
        return Outcome(True)

    async def _exec(self, action: ExecAction, target: Target, timeout: float) -> Outcome:
        result = await self._runtime.exec(target.id, action.command, timeout)
        return Outcome(result.code == 0, result.output.decode("utf-8", "replace")[:_SHOWN])

    async def _http(self, action: HTTPGetAction, target: Target) -> Outcome:
        host = action.host or target.ip
        scheme = (action.scheme or "HTTP").lower()
        path = action.path if action.path.startswith("/") else f"/{action.path}"
        url = f"{scheme}://{host}:{port_number(action.port, target.container)}{path}"
        headers = {"User-Agent": "kube-probe/k8slite", "Connection": "close"}
        headers.update({header.name: header.value for header in action.http_headers})
        connector = aiohttp.TCPConnector(ssl=self._tls, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                if 200 <= response.status < 400:
                    return Outcome(True)
                return Outcome(False, f"HTTP probe failed with statuscode: {response.status}")

    async def _tcp(self, action: TCPSocketAction, target: Target) -> Outcome:
        host = action.host or target.ip
        _, writer = await asyncio.open_connection(host, port_number(action.port, target.container))
        writer.close()
        return Outcome(True)


def port_number(port: IntOrString, container: Container) -> int:
    """A port by number or by its name in the container. Raises ValueError."""
    if isinstance(port, int):
        return port
    for declared in container.ports:
        if declared.name == port:
            return declared.container_port
    if port.isdigit():
        return int(port)
    raise ValueError(f"container {container.name} has no port named {port}")
