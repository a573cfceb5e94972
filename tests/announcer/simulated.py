"""Many announcers on virtual time: one loop, informers told by hand, a network that loses, cuts and
delays, and nodes that die and return."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from k8slite.api.kinds import ENDPOINTS, NODE, SERVICE
from k8slite.api.kinds.endpoints.types import EndpointAddress, Endpoints, EndpointSubset
from k8slite.api.kinds.node.types import Node, NodeAddress, NodeStatus
from k8slite.api.kinds.service.types import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)
from k8slite.api.meta import Object, ObjectMeta
from k8slite.client.informer import Audience, Index
from k8slite.config import Settings
from k8slite.kit.clock import Clock, LoopClock
from k8slite.roles.announcer import Announcer
from k8slite.roles.announcer.wire import Received

POOL = ("192.168.0.240/28",)


class Told:
    """An informer that is told by hand."""

    synced = True

    def __init__(self) -> None:
        self._objects: dict[str, Any] = {}
        self._audience: Audience[Any] = Audience()
        self.subscribe = self._subscribe

    async def wait_synced(self) -> None:
        return

    def get(self, key: str) -> Any:
        return self._objects.get(key)

    def items(self) -> Iterable[Any]:
        return list(self._objects.values())

    def index(self, name: str, keys_of: Any) -> None:
        index = self._audience.indexes.setdefault(name, Index(keys_of))
        for key, obj in self._objects.items():
            index.put(key, None, obj)

    def by_index(self, name: str, value: str) -> list[Any]:
        return [self._objects[key] for key in self._audience.indexes[name].keys(value)]

    def _subscribe(self, handler: Any) -> Callable[[], None]:
        for obj in self.items():
            handler(None, obj)
        return self._audience.join(handler)

    def put(self, key: str, obj: Any) -> None:
        old = self._objects.pop(key, None)
        if obj is not None:
            self._objects[key] = obj
        if old is not None or obj is not None:
            self._audience.tell(key, old, obj)


class Informers:
    """What one node, or all of them, know of the objects."""

    def __init__(self) -> None:
        self._told = {kind.kind: Told() for kind in (SERVICE, ENDPOINTS, NODE)}

    def of(self, kind: Any) -> Any:
        return self._told[kind.kind]

    def put(self, obj: Object) -> None:
        self._told[obj.kind].put(obj.key, obj)

    def remove(self, obj: Object) -> None:
        self._told[obj.kind].put(obj.key, None)


def node(name: str, address: str, **labels: str) -> Node:
    return Node(
        metadata=ObjectMeta(name=name, labels=labels or None),
        status=NodeStatus(addresses=(NodeAddress("InternalIP", address),)),
    )


def service(name: str, *addresses: str, port: int = 80, **spec: Any) -> Service:
    spec.setdefault("cluster_ip", "192.168.3.7")
    at = tuple(LoadBalancerIngress(ip=address) for address in addresses)
    return Service(
        metadata=ObjectMeta(name=name, namespace="default", uid=name),
        spec=ServiceSpec(
            type="LoadBalancer", ports=(ServicePort(port=port, protocol="TCP"),), **spec
        ),
        status=ServiceStatus(load_balancer=LoadBalancerStatus(ingress=at)),
    )


def endpoints(name: str, *ready: tuple[str, str], port: int = 80) -> Endpoints:
    """``ready``: address and node of each."""
    from k8slite.api.kinds.endpoints.types import EndpointPort

    at = tuple(EndpointAddress(ip=ip, node_name=on) for ip, on in ready)
    subset = EndpointSubset(addresses=at, ports=(EndpointPort(port=port, protocol="TCP"),))
    return Endpoints(
        metadata=ObjectMeta(name=name, namespace="default"), subsets=(subset,) if at else ()
    )


@dataclass
class Recorded:
    told: list[tuple[str, str, str]] = field(default_factory=list)

    def event(self, obj: Object, reason: str, message: str, type: str = "Normal") -> None:
        self.told.append((obj.metadata.name, reason, message))

    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.told]


@dataclass
class Portals:
    trouble: str = ""
    settled: bool = True


class Network:
    """Datagrams between addresses; ``severed`` pairs hear nothing of each other."""

    def __init__(self, clock: Clock, loss: float = 0.0, delay: float = 0.002) -> None:
        self.clock = clock
        self.loss = loss
        self.delay = delay
        self.wires: dict[str, Received] = {}
        self.severed: Callable[[str, str], bool] = lambda one, other: False
        self.dumb: set[str] = set()
        self.sent = 0

    async def open(self, address: str, received: Received) -> SimulatedWire:
        self.wires[address] = received
        return SimulatedWire(self, address)

    def carry(self, data: bytes, source: str, target: str) -> None:
        self.sent += 1
        if (
            source in self.dumb
            or self.severed(source, target)
            or self.clock.rng.random() < self.loss
        ):
            return
        received = self.wires.get(target)
        if received is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay * self.clock.rng.random(), received, data, source)


class SimulatedWire:
    def __init__(self, network: Network, address: str) -> None:
        self._network = network
        self._address = address

    def send(self, data: bytes, address: str) -> None:
        self._network.carry(data, self._address, address)

    def close(self) -> None:
        self._network.wires.pop(self._address, None)


class SilentVoice:
    """A voice that remembers what it says."""

    where = "eth0"

    def __init__(self) -> None:
        self.said: frozenset[str] = frozenset()
        self.renewed = 0

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def say(self, addresses: frozenset[str]) -> None:
        self.said = addresses

    def renew(self, addresses: Iterable[str]) -> None:
        self.renewed += 1

    async def close(self) -> None:
        self.said = frozenset()


class SimulatedNode:
    def __init__(self, name: str, address: str, site: Site) -> None:
        self.name = name
        self.address = address
        self.site = site
        self.voice = SilentVoice()
        self.recorded = Recorded()
        self.portals = Portals()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        settings = Settings(node_name=self.name, node_ip=self.address, address_pool=POOL)
        self.voice = SilentVoice()
        made = Announcer(
            settings, self.site.informers, self.recorded, self.site.clock, self.portals,
            open_wire=self.site.network.open,
        )  # fmt: skip
        self.announcer = made
        self._task = asyncio.create_task(made.run(self.voice))

    async def kill(self) -> None:
        """It is not even given the time to say good-bye."""
        self.site.network.wires.pop(self.address, None)
        self.site.network.dumb.add(self.address)
        await self.leave()
        self.site.network.dumb.discard(self.address)

    async def leave(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
        self._task = None


class Site:
    """Nodes that all see the same objects."""

    def __init__(self, count: int, *, seed: int = 0, loss: float = 0.0) -> None:
        self.clock = LoopClock(seed=seed)
        self.network = Network(self.clock, loss)
        self.informers = Informers()
        self.nodes = [
            SimulatedNode(f"n{i}", f"10.1.{i // 250}.{i % 250 + 1}", self) for i in range(count)
        ]
        for one in self.nodes:
            self.informers.put(node(one.name, one.address))

    def start(self) -> None:
        for one in self.nodes:
            one.start()

    async def stop(self) -> None:
        for one in self.nodes:
            if one.alive:
                await one.kill()

    def announcers(self) -> Mapping[str, list[str]]:
        """Address → the nodes that announce it."""
        found: dict[str, list[str]] = {}
        for one in self.nodes:
            if one.alive:
                for address in one.voice.said:
                    found.setdefault(address, []).append(one.name)
        return found

    def named(self, name: str) -> SimulatedNode:
        return next(one for one in self.nodes if one.name == name)

    async def until(self, condition: Callable[[], Any], seconds: float = 60) -> float:
        """How long it took."""
        began = self.clock.monotonic()
        while not condition():
            assert self.clock.monotonic() < began + seconds, "it never came about"
            await self.clock.sleep(0.02)
        return self.clock.monotonic() - began

    def severing(self, *names: str) -> None:
        """These nodes and the others are apart."""
        apart = {self.named(name).address for name in names}
        self.network.severed = partial(_apart, apart)


def _apart(some: set[str], one: str, other: str) -> bool:
    return (one in some) != (other in some)
