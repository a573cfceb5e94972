"""What a runtime is asked to make: sandbox and container, freed of the API's shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from k8slite.api import quantity
from k8slite.api.kinds.pod.types import Container, ContainerPort, Pod, PodSpec, VolumeMount
from k8slite.decide.pods.env import expand
from k8slite.decide.pods.state import PodRef, StartContainer
from k8slite.decide.pods.status import qos_class
from k8slite.decide.pods.sync import sandbox_hash, spec_hash

DEFAULT_GRACE = 30
#: cgroup limits, as the kubelet sets them (kubernetes pkg/kubelet/cm/helpers_linux.go).
CPU_PERIOD, MIN_QUOTA, MIN_SHARES, SHARES_PER_CPU = 100_000, 1_000, 2, 1024


@dataclass(frozen=True, slots=True)
class Mount:
    source: str  # on the host
    target: str  # in the container
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class HostPort:
    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Dns:
    """What goes into resolv.conf; all empty: the host's own."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    pod: PodRef
    hash: str
    hostname: str
    attempt: int = 0
    grace: int = DEFAULT_GRACE
    ports: tuple[HostPort, ...] = ()
    host_network: bool = False
    host_ipc: bool = False
    dns: Dns = Dns()
    hosts: tuple[tuple[str, str], ...] = ()  # address, name
    sysctls: Mapping[str, str] = field(default_factory=dict)

    @property
    def ordinary(self) -> bool:
        """Nothing about it must be fixed before it starts: a warm sandbox will do."""
        special = self.ports or self.host_network or self.host_ipc or self.sysctls
        return not special and self.dns == Dns()


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """``memory`` in bytes, ``cpu_quota`` in µs per 100 ms; 0 is no limit. ``user`` as Docker has
    it (``uid[:gid]``). ``hostname`` is the pod's, for runtimes that cannot inherit it."""

    pod: PodRef
    name: str
    hash: str
    image: str
    sandbox: str
    hostname: str
    attempt: int = 0
    crashes: int = 0
    init: bool = False
    grace: int = DEFAULT_GRACE
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    mounts: tuple[Mount, ...] = ()
    cpu_shares: int = MIN_SHARES
    cpu_quota: int = 0
    memory: int = 0
    oom_score: int = 1000
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    user: str = ""
    groups: tuple[str, ...] = ()
    read_only: bool = False
    no_new_privileges: bool = False
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False


def pod_ref(pod: Pod) -> PodRef:
    meta = pod.metadata
    return PodRef(meta.namespace, meta.name, meta.uid)


def hostname(pod: Pod) -> str:
    """The name inside the pod: at most 63 characters, no dash or dot at the end."""
    return (pod.spec.hostname or pod.metadata.name)[:63].rstrip("-.")


def sandbox_spec(pod: Pod, attempt: int) -> SandboxSpec:
    spec = pod.spec
    security = spec.security_context
    sysctls = security.sysctls if security is not None else ()
    return SandboxSpec(
        pod=pod_ref(pod),
        hash=sandbox_hash(spec),
        hostname=hostname(pod),
        attempt=attempt,
        grace=_grace(spec),
        ports=_host_ports(spec),
        host_network=spec.host_network,
        host_ipc=spec.host_ipc,
        dns=_dns(spec),
        hosts=tuple((alias.ip, name) for alias in spec.host_aliases for name in alias.hostnames),
        sysctls={str(s["name"]): str(s["value"]) for s in sysctls},
    )


def container_spec(
    pod: Pod,
    container: Container,
    start: StartContainer,
    sandbox: str,
    env: Mapping[str, str],
    mounts: tuple[Mount, ...],
) -> ContainerSpec:
    """The container to start. ``mounts`` are those of its volumes, resolved on the host."""
    spec = pod.spec
    limits, requests = container.resources.limits or {}, container.resources.requests or {}
    cpu_request = quantity.milli(requests.get("cpu", limits.get("cpu", "0")))
    memory = quantity.value(limits.get("memory", "0"))
    security = container.security_context
    caps = security.capabilities if security is not None else None
    return ContainerSpec(
        pod=pod_ref(pod),
        name=container.name,
        hash=spec_hash(container),
        image=container.image,
        sandbox=sandbox,
        hostname=hostname(pod),
        attempt=start.attempt,
        crashes=start.crashes,
        init=start.init,
        grace=_grace(spec),
        command=tuple(expand(word, env) for word in container.command),
        args=tuple(expand(word, env) for word in container.args),
        env=env,
        working_dir=container.working_dir,
        mounts=mounts,
        cpu_shares=cpu_shares(cpu_request),
        cpu_quota=cpu_quota(quantity.milli(limits.get("cpu", "0"))),
        memory=memory,
        oom_score=_oom_score(spec, container),
        privileged=bool(security and security.privileged),
        cap_add=caps.add if caps is not None else (),
        cap_drop=caps.drop if caps is not None else (),
        user=_user(spec, container),
        groups=_groups(spec),
        read_only=bool(security and security.read_only_root_filesystem),
        no_new_privileges=bool(security and security.allow_privilege_escalation is False),
        host_network=spec.host_network,
        host_pid=spec.host_pid,
        host_ipc=spec.host_ipc,
        stdin=container.stdin,
        stdin_once=container.stdin_once,
        tty=container.tty,
    )


def cpu_shares(milli: int) -> int:
    return max(MIN_SHARES, milli * SHARES_PER_CPU // 1000)


def cpu_quota(milli: int) -> int:
    """µs per period; 0 (no limit) for 0."""
    return max(MIN_QUOTA, milli * CPU_PERIOD // 1000) if milli else 0


def _grace(spec: PodSpec) -> int:
    grace = spec.termination_grace_period_seconds
    return DEFAULT_GRACE if grace is None else grace


def _host_ports(spec: PodSpec) -> tuple[HostPort, ...]:
    if spec.host_network:
        return ()
    return tuple(
        HostPort(
            port.host_port, port.container_port, (port.protocol or "TCP").lower(), port.host_ip
        )
        for container in spec.containers
        for port in container.ports
        if port.host_port
    )


def _host_port(port: ContainerPort) -> HostPort:
    protocol = (port.protocol or "TCP").lower()
    return HostPort(port.host_port, port.container_port, protocol, port.host_ip)


def _dns(spec: PodSpec) -> Dns:
    """dnsPolicy None takes dnsConfig alone; the others add it to the host's resolver."""
    config = spec.dns_config or {}
    options = tuple(
        f"{option['name']}:{option['value']}" if option.get("value") else str(option["name"])
        for option in config.get("options") or ()
    )
    return Dns(tuple(config.get("nameservers") or ()), tuple(config.get("searches") or ()), options)


def _user(spec: PodSpec, container: Container) -> str:
    pod, own = spec.security_context, container.security_context
    user = own.run_as_user if own is not None else None
    group = own.run_as_group if own is not None else None
    if pod is not None:
        user = pod.run_as_user if user is None else user
        group = pod.run_as_group if group is None else group
    if user is None:
        return ""
    return str(user) if group is None else f"{user}:{group}"


def _groups(spec: PodSpec) -> tuple[str, ...]:
    security = spec.security_context
    if security is None:
        return ()
    groups = list(security.supplemental_groups)
    if security.fs_group is not None:
        groups.append(security.fs_group)
    return tuple(str(group) for group in groups)


def _oom_score(spec: PodSpec, container: Container) -> int:
    """Who dies first when the host runs out of memory (kubernetes pkg/kubelet/qos)."""
    quality = qos_class(spec)
    return {"Guaranteed": -997, "BestEffort": 1000}.get(quality, 999)


def mounts_of(
    container: Container, paths: Mapping[str, str], env: Mapping[str, str]
) -> tuple[tuple[VolumeMount, Mount], ...]:
    """The container's mounts; ``paths`` gives each volume's directory on the host."""
    pairs = []
    for wish in container.volume_mounts:
        source = paths[wish.name]
        if wish.sub_path:
            source = f"{source}/{expand(wish.sub_path, env)}"
        target = wish.mount_path if wish.mount_path.startswith("/") else f"/{wish.mount_path}"
        pairs.append((wish, Mount(source, target, wish.read_only)))
    return tuple(pairs)
