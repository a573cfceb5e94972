"""Pod: containers that share a network, volumes and a life."""

from __future__ import annotations

from typing import Any

from k8slite.api.meta import Object
from k8slite.api.struct import Struct, always

#: A port by number or by name.
IntOrString = int | str
#: ``100m``, ``64Mi``; numbers are accepted and stored as text.
Quantity = str | int | float


class ContainerPort(Struct):
    name: str = ""
    host_port: int = 0
    container_port: int = always(0)
    protocol: str = ""
    host_ip: str = ""


class ObjectFieldSelector(Struct):
    api_version: str = ""
    field_path: str = always("")


class ResourceFieldSelector(Struct):
    container_name: str = ""
    resource: str = always("")
    divisor: Quantity = ""


class KeySelector(Struct):
    """A key of a ConfigMap or Secret."""

    name: str = ""
    key: str = always("")
    optional: bool | None = None


class EnvVarSource(Struct):
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None


class EnvVar(Struct):
    name: str = always("")
    value: str = ""
    value_from: EnvVarSource | None = None


class LocalReference(Struct):
    name: str = ""


class OptionalReference(Struct):
    name: str = ""
    optional: bool | None = None


class EnvFromSource(Struct):
    prefix: str = ""
    config_map_ref: OptionalReference | None = None
    secret_ref: OptionalReference | None = None


class ResourceRequirements(Struct):
    limits: dict[str, Quantity] | None = None
    requests: dict[str, Quantity] | None = None


class VolumeMount(Struct):
    name: str = always("")
    read_only: bool = False
    mount_path: str = always("")
    sub_path: str = ""


class ExecAction(Struct):
    command: tuple[str, ...] = ()


class HTTPHeader(Struct):
    name: str = always("")
    value: str = always("")


class HTTPGetAction(Struct):
    path: str = ""
    port: IntOrString = always(0)
    host: str = ""
    scheme: str = ""
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPSocketAction(Struct):
    port: IntOrString = always(0)
    host: str = ""


class Probe(Struct):
    """Exactly one of exec, httpGet, tcpSocket; times in seconds."""

    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 0
    period_seconds: int = 0
    success_threshold: int = 0
    failure_threshold: int = 0
    termination_grace_period_seconds: int | None = None


class Handler(Struct):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None


class Lifecycle(Struct):
    post_start: Handler | None = None
    pre_stop: Handler | None = None


class Capabilities(Struct):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(Struct):
    capabilities: Capabilities | None = None
    privileged: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    se_linux_options: dict[str, Any] | None = None
    seccomp_profile: dict[str, Any] | None = None


class Container(Struct):
    name: str = always("")
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env_from: tuple[EnvFromSource, ...] = ()
    env: tuple[EnvVar, ...] = ()
    resources: ResourceRequirements = always(ResourceRequirements())
    volume_mounts: tuple[VolumeMount, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    termination_message_path: str = ""
    termination_message_policy: str = ""
    image_pull_policy: str = ""
    security_context: SecurityContext | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    restart_policy: str = ""


class EmptyDirVolumeSource(Struct):
    medium: str = ""
    size_limit: Quantity | None = None


class HostPathVolumeSource(Struct):
    path: str = always("")
    type: str = ""


class KeyToPath(Struct):
    key: str = always("")
    path: str = always("")
    mode: int | None = None


class SecretVolumeSource(Struct):
    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool | None = None


class ConfigMapVolumeSource(Struct):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool | None = None


class DownwardAPIVolumeFile(Struct):
    path: str = always("")
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardAPIVolumeSource(Struct):
    items: tuple[DownwardAPIVolumeFile, ...] = ()
    default_mode: int | None = None


class Volume(Struct):
    """A name and one source; a source that the node cannot mount is carried, and refused there."""

    name: str = always("")
    empty_dir: EmptyDirVolumeSource | None = None
    host_path: HostPathVolumeSource | None = None
    secret: SecretVolumeSource | None = None
    config_map: ConfigMapVolumeSource | None = None
    downward_api: DownwardAPIVolumeSource | None = None
    projected: dict[str, Any] | None = None
    persistent_volume_claim: dict[str, Any] | None = None
    nfs: dict[str, Any] | None = None
    git_repo: dict[str, Any] | None = None
    gce_persistent_disk: dict[str, Any] | None = None
    aws_elastic_block_store: dict[str, Any] | None = None
    iscsi: dict[str, Any] | None = None
    glusterfs: dict[str, Any] | None = None


class Toleration(Struct):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class PodSecurityContext(Struct):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: tuple[int, ...] = ()
    fs_group: int | None = None
    se_linux_options: dict[str, Any] | None = None
    seccomp_profile: dict[str, Any] | None = None
    sysctls: tuple[dict[str, Any], ...] = ()


class HostAlias(Struct):
    ip: str = always("")
    hostnames: tuple[str, ...] = ()


class PodSpec(Struct):
    volumes: tuple[Volume, ...] = ()
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = always(())
    ephemeral_containers: tuple[dict[str, Any], ...] = ()
    restart_policy: str = ""
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    dns_policy: str = ""
    dns_config: dict[str, Any] | None = None
    node_selector: dict[str, str] | None = None
    service_account_name: str = ""
    service_account: str = ""
    automount_service_account_token: bool | None = None
    node_name: str = ""
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    security_context: PodSecurityContext | None = None
    image_pull_secrets: tuple[LocalReference, ...] = ()
    hostname: str = ""
    subdomain: str = ""
    affinity: dict[str, Any] | None = None
    scheduler_name: str = ""
    tolerations: tuple[Toleration, ...] = ()
    host_aliases: tuple[HostAlias, ...] = ()
    priority_class_name: str = ""
    priority: int | None = None
    enable_service_links: bool | None = None
    share_process_namespace: bool | None = None
    readiness_gates: tuple[dict[str, Any], ...] = ()
    topology_spread_constraints: tuple[dict[str, Any], ...] = ()
    preemption_policy: str = ""


class ContainerStateWaiting(Struct):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(Struct):
    started_at: str | None = None


class ContainerStateTerminated(Struct):
    exit_code: int = always(0)
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    container_id: str = ""


class ContainerState(Struct):
    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(Struct):
    name: str = always("")
    state: ContainerState = always(ContainerState())
    last_state: ContainerState = always(ContainerState())
    ready: bool = always(False)
    restart_count: int = always(0)
    image: str = always("")
    image_id: str = always("")
    container_id: str = ""
    started: bool | None = None


class PodCondition(Struct):
    type: str = always("")
    status: str = always("")
    last_probe_time: str | None = None
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class PodIP(Struct):
    ip: str = ""


class PodStatus(Struct):
    observed_generation: int = 0
    phase: str = ""
    conditions: tuple[PodCondition, ...] = ()
    message: str = ""
    reason: str = ""
    nominated_node_name: str = ""
    host_ip: str = ""
    pod_ip: str = ""
    pod_ips: tuple[PodIP, ...] = ()
    start_time: str | None = None
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    qos_class: str = ""


class Pod(Object):
    kind: str = always("Pod")
    spec: PodSpec = always(PodSpec())
    status: PodStatus = always(PodStatus())
