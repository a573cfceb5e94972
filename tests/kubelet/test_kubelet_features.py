"""Everything that a pod may ask of its node, on a real engine."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.kubelet.cluster import Cluster, cluster
from tests.kubelet.conftest import ADDRESS
from tests.lab.docker_host import DockerHost

from k8slite.api.kinds import CONFIG_MAP, POD
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.docker import DockerRuntime
from k8slite.roles.kubelet.volumes import mounts_below

pytestmark = pytest.mark.docker


@pytest.fixture
async def lab(on_host: DockerHost, tmp_path: Path) -> AsyncIterator[Cluster]:
    settings = Settings(
        node_name=ADDRESS,
        node_ip=ADDRESS,
        docker_host=on_host.url,
        data_dir=tmp_path,
        warm_sandboxes=2,
    )
    async with cluster(settings, lambda: DockerRuntime(settings, Clock())) as made:
        yield made


def spec(name: str, body: str, head: str = "") -> str:
    return f"""
kind: Pod
apiVersion: v1
metadata:
  name: {name}
{head}
spec:
  terminationGracePeriodSeconds: 0
{body}
"""


SLEEPER = """
  containers:
  - name: main
    image: busybox:1
    command: [sleep, '1000']
"""


async def test_variables_of_every_source(lab: Cluster) -> None:
    await lab.create("""
kind: ConfigMap
apiVersion: v1
metadata: {name: settings}
data: {colour: green, size: large}
""")
    await lab.create(f"""
kind: Secret
apiVersion: v1
metadata: {{name: keys}}
data: {{password: {base64.b64encode(b"hush").decode()}}}
""")
    await lab.create("""
kind: Service
apiVersion: v1
metadata: {name: red-db}
spec: {clusterIP: 192.168.3.77, ports: [{port: 6379, name: redis}]}
""")
    await lab.create(
        spec(
            "vars",
            """
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, "echo '$(GREETING)' > /tmp/said; sleep 1000"]
    readinessProbe: {exec: {command: [test, -s, /tmp/said]}, periodSeconds: 1, timeoutSeconds: 20}
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    envFrom: [{configMapRef: {name: settings}, prefix: CM_}]
    env:
    - {name: WHO, value: world}
    - {name: GREETING, value: 'hello-$(WHO)-$$(WHO)'}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: PW, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: NONE, valueFrom: {configMapKeyRef: {name: nothing, key: x, optional: true}}}
""",
        )
    )
    pod = await lab.running("vars")
    lines = (await lab.output("vars", "env")).splitlines()
    env = dict(line.split("=", 1) for line in lines)
    assert env["GREETING"] == "hello-world-$(WHO)"
    assert await lab.output("vars", "cat", "/tmp/said") == "hello-world-$(WHO)"
    assert env["POD"] == "vars"
    assert env["IP"] == pod.status.pod_ip
    assert (env["MEM"], env["PW"], env["COLOUR"]) == ("64", "hush", "green")
    assert (env["CM_colour"], env["CM_size"]) == ("green", "large")
    assert env["RED_DB_SERVICE_HOST"] == "192.168.3.77"
    assert env["RED_DB_SERVICE_PORT_REDIS"] == "6379"
    assert env["RED_DB_PORT_6379_TCP_ADDR"] == "192.168.3.77"
    assert "NONE" not in env


async def test_limits_reach_the_engine(lab: Cluster, on_host: DockerHost) -> None:
    await lab.create(
        spec(
            "limited",
            """
  containers:
  - name: main
    image: busybox:1
    command: [sleep, '1000']
    resources: {requests: {cpu: 250m}, limits: {cpu: 500m, memory: 32Mi}}
""",
        )
    )
    await lab.running("limited")
    id = lab.container("limited").container_id.removeprefix("docker://")
    host = json.loads(on_host.docker("inspect", id))[0]["HostConfig"]
    assert (host["CpuShares"], host["CpuQuota"]) == (256, 50_000)
    assert host["Memory"] == host["MemorySwap"] == 32 * 2**20


async def test_containers_of_a_pod_share_network_and_volumes(lab: Cluster) -> None:
    await lab.create(
        spec(
            "pair",
            """
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: ram, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  containers:
  - name: server
    image: busybox:1
    command: [sh, -c, 'echo shared > /d/index.html; httpd -f -p 8080 -h /d']
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
    volumeMounts: [{name: disk, mountPath: /d}, {name: ram, mountPath: /r}]
  - name: client
    image: busybox:1
    command: [sleep, '1000']
    volumeMounts: [{name: disk, mountPath: /d, readOnly: true}]
""",
        )
    )
    pod = await lab.running("pair")
    fetch = ["wget", "-qO-", "http://127.0.0.1:8080/"]
    assert await lab.output("pair", *fetch, container="client") == "shared"
    assert "tmpfs" in await lab.output("pair", "sh", "-c", "cat /proc/mounts | grep ' /r '")
    assert "Read-only" in await lab.output("pair", "touch", "/d/x", container="client")
    directory = lab.settings.data_dir / "pods" / pod.metadata.uid
    assert mounts_below(directory)
    await lab.delete("pair")
    await lab.gone("pair")
    await lab.until(lambda: not directory.exists())
    assert not mounts_below(directory)


async def test_files_of_secrets_config_maps_and_the_pod_itself(lab: Cluster) -> None:
    await lab.create("""
kind: ConfigMap
apiVersion: v1
metadata: {name: conf}
data: {a.txt: one, b.txt: two}
""")
    await lab.create(f"""
kind: Secret
apiVersion: v1
metadata: {{name: keys}}
data: {{password: {base64.b64encode(b"hush").decode()}}}
""")
    await lab.create(
        spec(
            "files",
            """
  volumes:
  - {name: conf, configMap: {name: conf}}
  - {name: one, configMap: {name: conf, items: [{key: a.txt, path: sub/renamed, mode: 256}]}}
  - {name: keys, secret: {secretName: keys, defaultMode: 256}}
  - name: self
    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
  containers:
  - name: main
    image: busybox:1
    command: [sleep, '1000']
    volumeMounts:
    - {name: conf, mountPath: /conf}
    - {name: one, mountPath: /one}
    - {name: keys, mountPath: /keys}
    - {name: self, mountPath: /self}
    - {name: conf, mountPath: /b.txt, subPath: b.txt}
""",
            head="  labels: {app: web}",
        )
    )
    await lab.running("files")
    assert await lab.output("files", "cat", "/conf/a.txt", "/conf/b.txt", "/b.txt") == "onetwotwo"
    assert await lab.output("files", "cat", "/one/sub/renamed") == "one"
    assert await lab.output("files", "stat", "-L", "-c", "%a", "/keys/password") == "400"
    assert await lab.output("files", "cat", "/keys/password") == "hush"
    assert await lab.output("files", "cat", "/self/labels") == 'app="web"'
    conf = await lab.client.get(CONFIG_MAP, "conf", "default")
    await lab.client.update(replace(conf, data={"a.txt": "new"}))
    first = lab.settings.data_dir / "pods" / lab.pod("files").metadata.uid / "volumes/conf"  # type: ignore[union-attr]
    await lab.until(lambda: (first / "a.txt").read_text() == "new")
    assert await lab.output("files", "sh", "-c", "cat /conf/*") == "new"


async def test_a_missing_reference_is_named_and_mended(lab: Cluster) -> None:
    await lab.create(
        spec(
            "wanting",
            """
  containers:
  - name: main
    image: busybox:1
    command: [sleep, '1000']
    env: [{name: X, valueFrom: {configMapKeyRef: {name: later, key: x}}}]
""",
        )
    )
    await lab.until(lambda: lab.waiting("wanting") == "CreateContainerConfigError")
    state = lab.container("wanting").state.waiting
    assert state is not None
    assert state.message == 'configmap "later" not found'
    assert lab.phase("wanting") == "Pending"
    await lab.create("""
kind: ConfigMap
apiVersion: v1
metadata: {name: later}
data: {x: '1'}
""")
    await lab.running("wanting")


async def test_ends_follow_the_restart_policy(lab: Cluster) -> None:
    for name, policy, code in (
        ("good", "Never", 0), ("bad", "Never", 3), ("once", "OnFailure", 0),
    ):  # fmt: skip
        await lab.create(
            spec(
                name,
                f"""
  restartPolicy: {policy}
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, 'echo so it ends > /dev/termination-log; exit {code}']
""",
            )
        )
    await lab.until(lambda: lab.phase("good") == "Succeeded")
    await lab.until(lambda: lab.phase("bad") == "Failed")
    await lab.until(lambda: lab.phase("once") == "Succeeded")
    ended = lab.container("bad").state.terminated
    assert ended is not None
    assert (ended.exit_code, ended.reason, ended.message) == (3, "Error", "so it ends\n")
    assert ended.started_at
    assert ended.finished_at
    assert lab.container("bad").restart_count == 0


async def test_a_crash_loop_backs_off_and_says_so(lab: Cluster) -> None:
    await lab.create(
        spec(
            "crash",
            """
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, 'echo boom; exit 1']
    terminationMessagePolicy: FallbackToLogsOnError
""",
        )
    )
    await lab.until(lambda: lab.waiting("crash") == "CrashLoopBackOff")
    status = lab.container("crash")
    assert status.restart_count == 1
    assert status.last_state.terminated is not None
    assert status.last_state.terminated.message == "boom\n"
    assert lab.phase("crash") == "Running"
    assert lab.condition("crash") == "False"
    await lab.until(lambda: lab.events("BackOff"))


async def test_an_image_that_cannot_be_had(lab: Cluster) -> None:
    await lab.create(spec("nopull", "  containers: [{name: main, image: '127.0.0.1:1/none:1'}]"))
    await lab.create(
        spec(
            "never",
            "  containers: [{name: main, image: 'none:1', imagePullPolicy: Never}]",
        )
    )
    await lab.until(lambda: lab.waiting("nopull") == "ErrImagePull")
    await lab.until(lambda: lab.waiting("nopull") == "ImagePullBackOff")
    await lab.until(lambda: lab.waiting("never") == "ErrImageNeverPull")
    state = lab.container("nopull").state.waiting
    assert state is not None
    assert "127.0.0.1:1" in state.message
    assert lab.phase("nopull") == "Pending"


async def test_a_command_that_does_not_exist(lab: Cluster) -> None:
    await lab.create(
        spec(
            "nocmd",
            """
  restartPolicy: Never
  containers: [{name: main, image: 'busybox:1', command: [/no/such]}]
""",
        )
    )
    await lab.until(lambda: lab.phase("nocmd") == "Failed")
    ended = lab.container("nocmd").state.terminated
    assert ended is not None
    assert ended.reason == "ContainerCannotRun"
    assert "/no/such" in ended.message


async def test_init_containers_run_first_and_in_order(lab: Cluster) -> None:
    await lab.create(
        spec(
            "staged",
            """
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - name: one
    image: busybox:1
    command: [sh, -c, 'echo 1 >> /v/log']
    volumeMounts: [{name: v, mountPath: /v}]
  - name: two
    image: busybox:1
    command: [sh, -c, 'echo 2 >> /v/log']
    volumeMounts: [{name: v, mountPath: /v}]
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, 'echo 3 >> /v/log; sleep 1000']
    readinessProbe: {exec: {command: [grep, '3', /v/log]}, periodSeconds: 1, timeoutSeconds: 20}
    volumeMounts: [{name: v, mountPath: /v}]
""",
        )
    )
    pod = await lab.running("staged")
    assert await lab.output("staged", "cat", "/v/log") == "1\n2\n3"
    assert [s.ready for s in pod.status.init_container_statuses] == [True, True]


async def test_probes_gate_and_kill(lab: Cluster) -> None:
    """They are patient with a slow machine; what fails is said by its answer, at once."""
    await lab.create(
        spec(
            "probed",
            """
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, 'mkdir /w; touch /tmp/alive; httpd -f -p 8080 -h /w']
    ports: [{name: web, containerPort: 8080}]
    startupProbe:
      tcpSocket: {port: web}
      periodSeconds: 1
      timeoutSeconds: 20
      failureThreshold: 60
    readinessProbe:
      httpGet: {path: /ready, port: web}
      periodSeconds: 1
      timeoutSeconds: 20
      failureThreshold: 1
    livenessProbe:
      exec: {command: [cat, /tmp/alive]}
      periodSeconds: 1
      timeoutSeconds: 20
      failureThreshold: 1
""",
        )
    )
    await lab.until(lambda: lab.phase("probed") == "Running" and lab.container("probed").started)
    assert lab.condition("probed") == "False"
    await lab.output("probed", "touch", "/w/ready")
    await lab.until(lambda: lab.condition("probed") == "True")
    await lab.output("probed", "rm", "/w/ready")
    await lab.until(lambda: lab.condition("probed") == "False")
    await lab.output("probed", "rm", "/tmp/alive")
    await lab.until(lambda: lab.container("probed").restart_count == 1)
    await lab.until(lambda: any("Liveness" in text for text in lab.events("Unhealthy")))
    await lab.until(lambda: any("liveness probe" in text for text in lab.events("Killing")))


async def test_hooks_run_after_the_start_and_before_the_stop(lab: Cluster, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    await lab.create(
        spec(
            "hooked",
            f"""
  volumes: [{{name: out, hostPath: {{path: {tmp_path}/out}}}}]
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, 'trap exit TERM; sleep 1000 & wait']
    volumeMounts: [{{name: out, mountPath: /out}}]
    lifecycle:
      postStart: {{exec: {{command: [touch, /out/started]}}}}
      preStop: {{exec: {{command: [touch, /out/stopping]}}}}
""",
        )
    )
    await lab.running("hooked")
    await lab.until((tmp_path / "out/started").exists)
    await lab.delete("hooked", grace=5)
    await lab.gone("hooked")
    assert (tmp_path / "out/stopping").exists()


async def test_a_changed_image_replaces_the_container_alone(
    lab: Cluster, on_host: DockerHost
) -> None:
    on_host.docker("tag", "busybox:1", "busybox:2")
    await lab.create(spec("rolled", SLEEPER))
    before = await lab.running("rolled")
    container = replace(before.spec.containers[0], image="busybox:2")
    await lab.client.update(replace(before, spec=replace(before.spec, containers=(container,))))
    await lab.until(lambda: lab.container("rolled").image == "busybox:2")
    after = await lab.running("rolled")
    assert after.status.pod_ip == before.status.pod_ip
    assert after.status.container_statuses[0].restart_count == 1


async def test_a_dead_sandbox_takes_its_pod_along(lab: Cluster, on_host: DockerHost) -> None:
    await lab.create(spec("hollowed", SLEEPER))
    before = await lab.running("hollowed")
    uid = before.metadata.uid
    on_host.docker("kill", lab.runtime.pod(uid).sandbox.id)
    await lab.until(lambda: lab.container("hollowed").restart_count == 1)
    after = await lab.running("hollowed")
    assert after.status.container_statuses[0].container_id != (
        before.status.container_statuses[0].container_id
    )


async def test_what_this_node_cannot_run_is_refused(lab: Cluster) -> None:
    ports = """
  containers:
  - name: main
    image: busybox:1
    command: [sleep, '1000']
    ports: [{containerPort: 80, hostPort: 8099}]
"""
    await lab.create(spec("first", ports))
    await lab.running("first")
    await lab.create(spec("second", ports))
    await lab.create(spec("elsewhere", "  nodeSelector: {disk: ssd}" + SLEEPER))
    huge = "    resources: {requests: {memory: 100Ti}}"
    await lab.create(spec("huge", SLEEPER.rstrip() + "\n" + huge))
    for name, reason in (
        ("second", "HostPortConflict"), ("elsewhere", "NodeAffinity"), ("huge", "OutOfmemory"),
    ):  # fmt: skip
        await lab.until(lambda name=name: lab.phase(name) == "Failed")
        refused = lab.pod(name)
        assert refused is not None
        assert refused.status.reason == reason
    assert lab.phase("first") == "Running"


async def test_a_pod_on_the_hosts_network(lab: Cluster) -> None:
    await lab.create(spec("hosted", "  hostNetwork: true" + SLEEPER))
    pod = await lab.running("hosted")
    assert pod.status.pod_ip == ADDRESS
    assert ADDRESS in await lab.output("hosted", "ip", "addr")


async def test_an_active_deadline_ends_the_pod(lab: Cluster) -> None:
    await lab.create(spec("dated", "  activeDeadlineSeconds: 1" + SLEEPER))
    await lab.until(lambda: lab.phase("dated") == "Failed")
    pod = lab.pod("dated")
    assert pod is not None
    assert pod.status.reason == "DeadlineExceeded"
    await lab.until(lambda: not lab.runtime.pod(pod.metadata.uid).sandboxes)


async def test_static_pods_run_and_are_mirrored(lab: Cluster) -> None:
    directory = lab.settings.data_dir / "manifests"
    directory.mkdir()
    (directory / "web.yaml").write_text(spec("fixed", SLEEPER))
    name = f"fixed-{ADDRESS}"
    await lab.running(name)
    await lab.delete(name, grace=0)
    await lab.running(name)
    (directory / "web.yaml").unlink()
    await lab.gone(name)
    await lab.until(lambda: not list(lab.runtime.pods()))


async def test_a_restarted_agent_leaves_what_is_right_and_removes_what_is_gone(
    lab: Cluster, on_host: DockerHost
) -> None:
    for name in ("stays", "goes", "dies"):
        await lab.create(spec(name, SLEEPER))
        await lab.running(name)
    kept = lab.container("stays")
    uid = lab.pod("goes").metadata.uid  # type: ignore[union-attr]
    dead = lab.container("dies").container_id.removeprefix("docker://")
    await lab.stop_kubelet()
    entry = lab.pod("goes")
    assert entry is not None
    await lab.client.delete(POD, "goes", "default", grace_seconds=0)
    on_host.docker("kill", dead)
    await lab.start_kubelet()
    await lab.until(lambda: uid not in on_host.docker("ps", "-a", "--format", "{{.Names}}"))
    await lab.until(lambda: lab.container("dies").restart_count == 1)
    await lab.running("dies")
    await lab.running("stays")
    assert lab.container("stays") == kept
    assert await lab.output("dies", "hostname") == "dies"
