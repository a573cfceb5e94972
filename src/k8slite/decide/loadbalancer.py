"""Which service of type LoadBalancer has which address of the pool.

Kubernetes leaves that to a cloud; on bare machines the pool (``--address-pool``) is the cloud. The
books are the services themselves: what stands in ``status.loadBalancer.ingress`` is held. The plan
is made of all of them at once, in the order of age (creationTimestamp, then uid):

1. who holds an address of the pool that it may have keeps it;
2. whoever lacks one gets one, those first that have waited longest; what somebody gives back in
   this plan is free in the next, when that is written;
3. where two services claim one address and port (of the pool, or an externalIP), the elder has it
   and the younger is told. Nodes decide the same by order of arrival (``netfilter.rules``), which
   is the order of creation unless an elder service asks for an address later on: then the condition
   names who ought to have it, and each node gives it to that one when it next starts.

An address is shared by services that ask for it with one and the same value of the annotation
``k8slite.io/shared-address``, in one namespace, on different ports, none of them with
externalTrafficPolicy Local.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple

from msgspec.structs import replace

from k8slite.api.kinds.service.types import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServiceStatus,
)
from k8slite.api.meta import Condition
from k8slite.decide.addresspool import Pool

#: spec.loadBalancerClass of services that are ours; those that name none are ours too.
CLASS = "k8slite.io/announce"
#: Annotation: services with the same value may have one address together.
SHARED = "k8slite.io/shared-address"
#: Conditions of a service; each is there while it is true.
PENDING = "k8slite.io/AddressPending"
CONFLICT = "k8slite.io/AddressConflict"

#: Who has an address that is never handed out.
_RESERVED = "a node, a router or the network itself"

#: Protocol (tcp, udp …) and port.
Port = tuple[str, int]


class News(NamedTuple):
    """An event on a service."""

    reason: str
    message: str
    type: str = "Normal"


@dataclass(frozen=True, slots=True)
class Change:
    """What a service's status is to be, and what is to be told about it."""

    service: Service
    status: ServiceStatus
    news: tuple[News, ...]


class _Why(NamedTuple):
    """Why a condition is true."""

    reason: str
    message: str


@dataclass(slots=True)
class _Draft:
    """One service on its way to its new status."""

    service: Service
    held: dict[int, str] = field(default_factory=dict)  # IP version → address
    pending: _Why | None = None
    conflict: _Why | None = None


def concerned(service: Service) -> bool:
    """Has this service anything to do with addresses of the outside?"""
    return bool(
        service.spec.type == "LoadBalancer"
        or service.spec.external_ips
        or service.status.load_balancer.ingress
    )


def is_ours(service: Service) -> bool:
    """May the service have an address of the pool?"""
    return (
        service.spec.type == "LoadBalancer"
        and service.spec.load_balancer_class in (None, "", CLASS)
        and service.metadata.deletion_timestamp is None
    )


def age(service: Service) -> tuple[str, str, str]:
    """Sorts elder services first."""
    meta = service.metadata
    return meta.creation_timestamp or "", meta.uid, service.key


def ports(service: Service) -> frozenset[Port]:
    return frozenset(((p.protocol or "TCP").lower(), p.port) for p in service.spec.ports)


def ingress(service: Service) -> tuple[str, ...]:
    """The addresses in the service's status."""
    return tuple(at.ip for at in service.status.load_balancer.ingress if at.ip)


def plan(
    pool: Pool, services: Iterable[Service], reserved: Collection[str], now: str
) -> list[Change]:
    """The changes that make statuses right. ``services``: all that are ``concerned``; ``reserved``:
    addresses that are never handed out; ``now``: RFC 3339."""
    drafts = [_Draft(service) for service in sorted(services, key=age)]
    ours = [draft for draft in drafts if is_ours(draft.service)]
    if pool:
        books = _Books(pool, drafts, reserved)
        for draft in ours:
            books.keep(draft)
        books.note_leaving(drafts)
        for draft in sorted(ours, key=lambda draft: _waits_since(draft.service, now)):
            books.seek(draft)
    else:
        for draft in ours:
            if not draft.service.status.load_balancer.ingress:
                draft.pending = _NO_POOL
    _find_conflicts(pool, drafts)
    changes = (_change(pool, draft, now) for draft in drafts)
    return [change for change in changes if change is not None]


_NO_POOL = _Why(
    "NoAddressPool",
    "there is no pool to give it an address of: start the masters with --address-pool, as "
    "192.168.0.240/28 (ADDRESS_POOL in config-default.sh), or say in loadBalancerClass who else "
    "gives one",
)


def _waits_since(service: Service, now: str) -> tuple[str, tuple[str, str, str]]:
    known = _condition(service, PENDING)
    return (known and known.last_transition_time) or now, age(service)


class _Books:
    """Who holds what while a plan is made."""

    def __init__(self, pool: Pool, drafts: Sequence[_Draft], reserved: Collection[str]) -> None:
        self._pool = pool
        self._holders: dict[str, list[Service]] = {}
        #: Those of services that share, by namespace and what they say.
        self._shared: dict[tuple[str, str], dict[str, None]] = {}
        #: The addresses of each version that were not looked at yet: what is taken stays taken.
        self._rest: dict[int, Iterator[str]] = {}
        self._leaving: set[str] = set()  # written on services that are to have it no longer
        self._taken: dict[str, str] = dict.fromkeys(reserved, _RESERVED)
        for draft in drafts:
            service = draft.service
            for address in service.spec.external_ips:
                self._taken.setdefault(_spelt(address), f"externalIPs of {service.key}")
            if service.spec.type == "LoadBalancer" and not is_ours(service):
                for address in ingress(service):
                    self._taken.setdefault(_spelt(address), service.key)

    def keep(self, draft: _Draft) -> None:
        """Let the service have what it has, as far as it may."""
        service = draft.service
        wanted = _versions(service, self._pool)
        for address in ingress(service):
            if address not in self._pool or not self._may_hold(service, address):
                continue
            version = ip_address(address).version
            if version in wanted and version not in draft.held and self._asks_for(service, address):
                self._give(draft, address)

    def note_leaving(self, drafts: Iterable[_Draft]) -> None:
        for draft in drafts:
            kept = draft.held.values()
            self._leaving |= {a for a in ingress(draft.service) if a in self._pool} - {*kept}

    def seek(self, draft: _Draft) -> None:
        """Give the service what it lacks, or say why it cannot have it."""
        service, asked = draft.service, _spelt(draft.service.spec.load_balancer_ip)
        for version in _versions(service, self._pool):
            if version in draft.held:
                continue
            why = self._refusal(service, asked) if asked else None
            found = asked if asked else self._find(service, version)
            if why is None and found and found not in self._leaving:
                self._give(draft, found)
            elif why is None and any(ip_address(a).version == version for a in self._leaving):
                draft.pending = draft.pending or _said_before(service)
            else:
                draft.pending = draft.pending or why or _exhausted(self._pool, version)

    def _give(self, draft: _Draft, address: str) -> None:
        draft.held[ip_address(address).version] = address
        self._holders.setdefault(address, []).append(draft.service)
        if shared := _shared(draft.service):
            self._shared.setdefault(shared, {})[address] = None

    def _asks_for(self, service: Service, address: str) -> bool:
        asked = service.spec.load_balancer_ip
        return not asked or _spelt(asked) == address

    def _may_hold(self, service: Service, address: str) -> bool:
        """Is nobody there whom the service may not share the address with? (An externalIP that was
        claimed since is a conflict, and no reason to take the address away.)"""
        return self._taken.get(address) != _RESERVED and all(
            _may_share(service, other) for other in self._holders.get(address, ())
        )

    def _refusal(self, service: Service, asked: str) -> _Why | None:
        """Why the service may not have the address that it asks for."""
        if asked not in self._pool:
            return _Why(
                "AddressOutsidePool",
                f"spec.loadBalancerIP {asked} is no address of the pool {self._pool}: ask for one "
                "that is, or for none",
            )
        strangers = [o for o in self._holders.get(asked, ()) if not _may_share(service, o)]
        by = strangers[0].key if strangers else self._taken.get(asked)
        if by is None or by == f"externalIPs of {service.key}":
            return None
        return _Why(
            "AddressTaken",
            f"spec.loadBalancerIP {asked} is taken by {by}: it is given as soon as it is free; or "
            f"ask for another, or let both share it (annotation {SHARED})",
        )

    def _find(self, service: Service, version: int) -> str:
        """An address that the service may share, else the lowest free one; "" when none is."""
        for address in sorted(self._shared.get(_shared(service) or ("", ""), ())):
            if ip_address(address).version == version and all(
                _may_share(service, other) for other in self._holders[address]
            ):
                return address
        rest = self._rest.setdefault(version, self._pool.addresses(version))
        taken = (self._holders, self._taken, self._leaving)
        return next((a for a in rest if not any(a in those for those in taken)), "")


def _shared(service: Service) -> tuple[str, str] | None:
    """Namespace and value of the annotation of one that shares; None of one that does not."""
    said = service.metadata.annotation(SHARED)
    return (service.metadata.namespace, said) if said else None


def _said_before(service: Service) -> _Why | None:
    known = _condition(service, PENDING)
    return None if known is None else _Why(known.reason, known.message)


def _exhausted(pool: Pool, version: int) -> _Why:
    if version not in pool.versions:
        return _Why(
            "NoAddressOfFamily",
            f"the pool {pool} has no IPv{version} address: give another --address-pool, or leave "
            f"IPv{version} out of spec.ipFamilies",
        )
    return _Why(
        "AddressPoolExhausted",
        f"every IPv{version} address of the pool {pool} is taken: give another --address-pool, or "
        "delete a service that has one; whoever waits longest gets it",
    )


def _versions(service: Service, pool: Pool) -> tuple[int, ...]:
    """The IP versions that the service wants addresses of."""
    spec = service.spec
    if spec.load_balancer_ip:
        return (ip_address(spec.load_balancer_ip).version,)
    said = tuple({"IPv4": 4, "IPv6": 6}[f] for f in spec.ip_families if f in ("IPv4", "IPv6"))
    return tuple(dict.fromkeys(said)) or (min(pool.versions),)


def _may_share(one: Service, other: Service) -> bool:
    key = one.metadata.annotation(SHARED)
    return (
        bool(key)
        and key == other.metadata.annotation(SHARED)
        and one.metadata.namespace == other.metadata.namespace
        and "Local" not in (one.spec.external_traffic_policy, other.spec.external_traffic_policy)
        and not ports(one) & ports(other)
    )


def _find_conflicts(pool: Pool, drafts: Iterable[_Draft]) -> None:
    """Tell each service but the eldest that claims an address and port."""
    owners: dict[tuple[str, Port], Service] = {}
    for draft in drafts:
        service = draft.service
        # Without a pool, or with another's class, a status is somebody else's and stands.
        given = draft.held.values() if pool and is_ours(service) else ingress(service)
        if service.spec.type != "LoadBalancer":
            given = ()
        lost = []
        for address in dict.fromkeys((*map(_spelt, service.spec.external_ips), *given)):
            for port in sorted(ports(service)):
                owner = owners.setdefault((address, port), service)
                if owner is not service:
                    lost.append(f"{address} port {port[1]}/{port[0]} belongs to {owner.key}")
        if lost:
            said = f"{'; '.join(lost)}, which is older: choose another address or port"
            draft.conflict = _Why("AddressConflict", said)


def _change(pool: Pool, draft: _Draft, now: str) -> Change | None:
    """None when the service's status is right."""
    service = draft.service
    old = service.status
    status = replace(
        old,
        load_balancer=_load_balancer(pool, draft),
        conditions=tuple(_conditions(draft, now)),
    )
    if status == old:
        return None
    before, after = ingress(service), tuple(at.ip for at in status.load_balancer.ingress)
    news = [News("AddressAssigned", f"address {a}") for a in after if a not in before]
    news += [News("AddressReleased", f"address {a} given back") for a in before if a not in after]
    for kind, why in ((PENDING, draft.pending), (CONFLICT, draft.conflict)):
        known = _condition(service, kind)
        if why is not None and (known is None or known.message != why.message):
            news.append(News(why.reason, why.message, "Warning"))
    return Change(service, status, tuple(news))


def _load_balancer(pool: Pool, draft: _Draft) -> LoadBalancerStatus:
    service = draft.service
    old = service.status.load_balancer
    if is_ours(service) and pool:
        versions = _versions(service, pool)
        kept = tuple(LoadBalancerIngress(ip=draft.held[v]) for v in versions if v in draft.held)
    elif service.spec.type == "LoadBalancer":
        return old
    else:  # it was one once
        kept = tuple(at for at in old.ingress if at.ip not in pool)
    return old if kept == old.ingress else LoadBalancerStatus(ingress=kept)


def _conditions(draft: _Draft, now: str) -> Iterator[Condition]:
    """Those of others, and ours as far as they are true; each stays in its place."""
    ours = {PENDING: draft.pending, CONFLICT: draft.conflict}
    for known in draft.service.status.conditions:
        kind = known.type
        if kind not in ours:
            yield known
        elif (why := ours.pop(kind)) is not None:
            yield _said(kind, why, known.last_transition_time or now)
    for kind, why in ours.items():
        if why is not None:
            yield _said(kind, why, now)


def _said(kind: str, why: _Why, since: str) -> Condition:
    return Condition(
        type=kind, status="True", last_transition_time=since, reason=why.reason,
        message=why.message,
    )  # fmt: skip


def _condition(service: Service, kind: str) -> Condition | None:
    return next((c for c in service.status.conditions if c.type == kind), None)


def _spelt(address: str) -> str:
    """The usual spelling: of IPv6 there are many."""
    return str(ip_address(address)) if ":" in address else address
