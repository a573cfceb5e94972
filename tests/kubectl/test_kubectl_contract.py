"""What people do with kubectl works with an unmodified kubectl, from 1.20 to 1.33.

Server-side apply, metrics and access reviews are not served: kubectl must say so in a clear line.
"""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from tests.kubectl.conftest import Kubectl, Room

ARTICLE = Path(__file__).parents[2] / "examples" / "article"

CONTROLLER = """
apiVersion: v1
kind: ReplicationController
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: web
        image: nginx
        env:
        - {name: COLOUR, value: red}
        - {name: SIZE, value: small}
        ports:
        - {containerPort: 80, name: http}
"""

POD = """
apiVersion: v1
kind: Pod
metadata: {name: solo, labels: {role: alone}}
spec:
  containers:
  - {name: main, image: busybox, command: [sleep, "1000"]}
"""

MIXED = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {a: "1"}}
- {apiVersion: v1, kind: Secret, metadata: {name: two}, stringData: {a: "1"}}
---
apiVersion: v1
kind: Service
metadata: {name: three}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""

LIMITS = """
apiVersion: v1
kind: LimitRange
metadata: {name: most}
spec: {limits: [{type: Container, max: {cpu: 1}}]}
"""


@pytest.fixture
def web(room: Room) -> Room:
    """A room with a replication controller in it, applied."""
    room("apply", "-f", "-", stdin=CONTROLLER)
    return room


@pytest.fixture
def solo(room: Room) -> Room:
    """A room with a running pod in it."""
    room("create", "-f", "-", stdin=POD)
    room("wait", "--for=condition=Ready", "pod/solo", "--timeout=30s")
    return room


def container(room: Room) -> dict[str, object]:
    found = room.json("get", "rc", "web")["spec"]["template"]["spec"]["containers"][0]
    assert isinstance(found, dict)
    return found


# --- documents -------------------------------------------------------------------------------


def test_create_checks_fields_and_names_what_nobody_knows(room: Room) -> None:
    assert room("create", "-f", "-", stdin=POD) == "pod/solo created\n"
    wrong = POD.replace("solo", "wrong").replace("image:", "imgae: x, image:")
    said = room.refused("create", "-f", "-", stdin=wrong)
    assert "unknown field" in said
    assert "imgae" in said
    assert "NotFound" in room.refused("get", "pod", "wrong")
    assert "created" in room("create", "--validate=false", "-f", "-", stdin=wrong)


def test_a_list_of_mixed_kinds_is_created_and_deleted(room: Room) -> None:
    lines = ["configmap/one created", "secret/two created", "service/three created"]
    assert room("create", "-f", "-", stdin=MIXED).splitlines() == lines
    assert len(room("delete", "-f", "-", stdin=MIXED).splitlines()) == 3


def test_the_articles_documents_are_created_as_they_are(room: Room) -> None:
    """``--validate=false``: they hold fields that v1beta3 did not know either."""
    said = room("create", "--validate=false", "-f", str(ARTICLE / "nginx_rc.yaml"))
    assert said == "replicationcontroller/nginx-controller created\n"
    said = room("create", "--validate=false", "-f", str(ARTICLE / "nginx_service.yaml"))
    assert said == "service/nginx created\n"
    assert room.json("get", "service", "nginx")["spec"]["externalIPs"] == ["12.0.0.5"]


def test_apply_creates_leaves_alone_and_changes(room: Room) -> None:
    assert "created" in room("apply", "-f", "-", stdin=CONTROLLER)
    assert "unchanged" in room("apply", "-f", "-", stdin=CONTROLLER)
    changed = CONTROLLER.replace("red", "blue").replace(
        "        - {name: SIZE, value: small}\n", ""
    )
    assert "configured" in room("apply", "-f", "-", "--dry-run=server", stdin=changed)
    assert "unchanged" in room("apply", "-f", "-", stdin=CONTROLLER), "a dry run writes nothing"
    assert "configured" in room("apply", "-f", "-", stdin=changed)
    assert container(room)["env"] == [{"name": "COLOUR", "value": "blue"}], "what went is gone"
    assert "replicas" in room("apply", "view-last-applied", "rc", "web")


def test_apply_keeps_what_others_have_set(web: Room) -> None:
    web("scale", "rc", "web", "--replicas=3")
    web("label", "rc", "web", "owner=me")
    web("apply", "-f", "-", stdin=CONTROLLER.replace("  replicas: 2\n", "").replace("red", "blue"))
    assert web.json("get", "rc", "web")["metadata"]["labels"]["owner"] == "me"


def test_server_side_apply_is_refused_in_one_line(room: Room) -> None:
    said = room.refused("apply", "--server-side", "-f", "-", stdin=CONTROLLER)
    assert "erver-side apply" in said.splitlines()[0]


def test_diff_shows_what_apply_would_change(web: Room) -> None:
    outcome = web.kubectl.try_(
        "diff", "-f", "-", "-n", web.namespace, stdin=CONTROLLER.replace("red", "blue")
    )
    assert outcome.code == 1, outcome.err
    assert "+        - name: COLOUR\n" not in outcome.out
    assert "blue" in outcome.out


def test_replace_puts_a_document_in_place_of_another(web: Room) -> None:
    web("replace", "-f", "-", stdin=CONTROLLER.replace("replicas: 2", "replicas: 1"))
    assert web.json("get", "rc", "web")["spec"]["replicas"] == 1
    before = web.json("get", "rc", "web")["metadata"]["uid"]
    web("replace", "--force", "--grace-period=0", "-f", "-", stdin=CONTROLLER)
    assert web.json("get", "rc", "web")["metadata"]["uid"] != before


def test_the_three_patches(web: Room) -> None:
    patch = '{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"nginx:2"}]}}}}'
    web("patch", "rc", "web", "-p", patch)
    assert container(web)["image"] == "nginx:2"
    assert container(web)["env"], "a strategic patch merges lists by their key"
    web("patch", "rc", "web", "--type=merge", "-p", '{"spec":{"replicas":0}}')
    assert web.json("get", "rc", "web")["spec"]["replicas"] == 0
    patch = '[{"op":"test","path":"/spec/replicas","value":0},'
    patch += '{"op":"replace","path":"/spec/replicas","value":1}]'
    web("patch", "rc", "web", "--type=json", "-p", patch)
    assert web.json("get", "rc", "web")["spec"]["replicas"] == 1
    assert web.refused("patch", "rc", "web", "--type=json", "-p", patch), "its test fails now"


# --- one command, one change -----------------------------------------------------------------


def test_label_annotate_and_scale(web: Room) -> None:
    assert "labeled" in web("label", "rc", "web", "tier=front")
    assert "--overwrite" in web.refused("label", "rc", "web", "tier=back")
    web("label", "rc", "web", "tier-")
    web("annotate", "rc", "web", "note=this one")
    assert "scaled" in web("scale", "rc", "web", "--current-replicas=2", "--replicas=3")
    assert "Expected replicas" in web.refused(
        "scale", "rc", "web", "--current-replicas=2", "--replicas=4"
    )
    found = web.json("get", "rc", "web")
    assert found["metadata"]["labels"] == {"app": "web"}
    assert found["metadata"]["annotations"]["note"] == "this one"
    assert found["spec"]["replicas"] == 3


def test_set_changes_images_and_environment(web: Room) -> None:
    web("set", "image", "rc/web", "web=nginx:3")
    web("set", "env", "rc/web", "EXTRA=yes")
    web("set", "resources", "rc/web", "--limits=cpu=200m")
    found = container(web)
    assert found["image"] == "nginx:3"
    assert {"name": "EXTRA", "value": "yes"} in found["env"]  # type: ignore[operator]
    assert found["resources"]["limits"] == {"cpu": "200m"}  # type: ignore[index]


def test_run_and_expose(web: Room) -> None:
    assert web("run", "box", "--image=busybox", "--", "sleep", "100") == "pod/box created\n"
    assert web.json("get", "pod", "box")["spec"]["containers"][0]["args"] == ["sleep", "100"]
    assert "created" in web("run", "dry", "--image=busybox", "--dry-run=server")
    assert "NotFound" in web.refused("get", "pod", "dry")
    assert web("expose", "rc", "web", "--port=80", "--target-port=http") == "service/web exposed\n"
    assert web.json("get", "service", "web")["spec"]["ports"][0]["targetPort"] == "http"


def test_create_without_a_document(room: Room, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\x00")
    made = {
        "configmap/cm": ("configmap", "cm", "--from-literal=a=b", f"--from-file={tmp_path}/bytes"),
        "secret/s": ("secret", "generic", "s", "--from-literal=a=b"),
        "service/svc": ("service", "clusterip", "svc", "--tcp=80:8080"),
        "service/node": ("service", "nodeport", "node", "--tcp=80:8080"),
        "serviceaccount/sa": ("serviceaccount", "sa"),
        "resourcequota/q": ("quota", "q", "--hard=pods=5,cpu=2"),
    }
    for name, words in made.items():
        assert room("create", *words) == f"{name} created\n"
    found = room.json("get", "configmap", "cm")
    assert found["data"] == {"a": "b"}
    assert base64.b64decode(found["binaryData"]["bytes"]) == b"\xff\x00"
    assert room.json("get", "secret", "s")["data"] == {"a": base64.b64encode(b"b").decode()}
    assert room.json("get", "service", "svc")["spec"]["ports"][0]["targetPort"] == 8080
    assert room.json("get", "quota", "q")["spec"]["hard"] == {"cpu": "2", "pods": "5"}
    assert "already exists" in room.refused("create", "serviceaccount", "sa")
    other = f"{room.namespace}-other"
    assert room.kubectl("create", "namespace", other) == f"namespace/{other} created\n"
    assert f'namespace "{other}" deleted' in room.kubectl("delete", "namespace", other)


def test_delete_by_name_label_and_all(room: Room) -> None:
    for name in ("a", "b", "c", "d"):
        room("create", "configmap", name)
    room("label", "configmap", "b", "gone=soon")
    assert 'configmap "a" deleted' in room("delete", "configmap", "a")
    assert 'configmap "b" deleted' in room("delete", "configmap", "-l", "gone=soon")
    room("delete", "configmap", "--all")
    left = room("get", "configmaps", "-o", "name").split()
    assert not {"configmap/a", "configmap/b", "configmap/c", "configmap/d"} & set(left)
    assert "NotFound" in room.refused("delete", "configmap", "a")
    assert room("delete", "configmap", "a", "--ignore-not-found") == ""


# --- looking ---------------------------------------------------------------------------------


def test_forms_of_get(solo: Room) -> None:
    table = solo("get", "pods").splitlines()
    assert table[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert table[1].split()[:3] == ["solo", "1/1", "Running"]
    assert "NODE" in solo("get", "pods", "-o", "wide").splitlines()[0].split()
    assert solo("get", "pods", "-o", "name") == "pod/solo\n"
    assert "kind: Pod\n" in solo("get", "pod", "solo", "-o", "yaml")
    assert solo("get", "pods", "-o", "jsonpath={.items[*].metadata.name}") == "solo"
    columns = "-o=custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image"
    assert solo("get", "pods", columns).splitlines()[1].split() == ["solo", "busybox"]
    assert solo("get", "pods", "-o", "go-template={{len .items}}") == "1"
    assert "role=alone" in solo("get", "pods", "--show-labels", "-l", "role=alone")
    assert "solo" in solo("get", "pods", "--field-selector=status.phase=Running")
    assert "solo" in solo("get", "pods", "--sort-by=.metadata.name")
    assert "pod/solo" in solo("get", "all")
    assert "solo" in solo.kubectl("get", "pods", "--all-namespaces")
    assert "doesn't have a resource type" in solo.refused("get", "nothing")


def test_get_with_watch_shows_what_happens(solo: Room) -> None:
    words = solo.command("get", "pods", "-w", "-o", "name", "--request-timeout=60s")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=solo.kubectl.environment,
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        try:
            assert watching.stdout.readline() == "pod/solo\n"
            solo("run", "second", "--image=busybox")
            while (line := watching.stdout.readline()) == "pod/solo\n":
                pass
            assert line == "pod/second\n"
        finally:
            watching.kill()


def test_describe_of_every_kind(web: Room) -> None:
    web("create", "-f", "-", stdin=MIXED)
    web("create", "quota", "q", "--hard=pods=50")
    web("create", "serviceaccount", "sa")
    web("create", "-f", "-", stdin=POD)
    web("wait", "--for=condition=Ready", "pod/solo", "--timeout=30s")
    assert "Image:" in web.until("Scheduled", "describe", "pod", "solo"), "its events are told"
    web.until("2 current / 2 desired", "describe", "rc", "web")
    for name in ("svc/three", "ep/three", "secret/two", "cm/one", "quota/q", "sa/sa"):
        assert name.partition("/")[2] in web("describe", name)
    assert web.namespace in web.kubectl("describe", "namespace", web.namespace)
    node = web.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    described = web.kubectl("describe", "node", node)
    assert "Allocatable:" in described
    assert "solo" in described
    assert "Healthy" in web.kubectl("describe", "componentstatus", "scheduler")
    web("create", "-f", "-", stdin=LIMITS)
    assert "Container" in web("describe", "limits", "most")


def test_explain_follows_the_fields(client: Kubectl) -> None:
    assert "KIND:" in client("explain", "rc")
    assert "containerPort" in client("explain", "rc.spec.template.spec.containers.ports")
    assert "livenessProbe" in client("explain", "pods", "--recursive")
    for kind in ("services", "nodes", "events", "endpoints", "limits", "quota", "sa", "cm"):
        assert "metadata" in client("explain", kind)
    assert "does not exist" in client.refused("explain", "pods.spec.nonsense")


def test_what_the_server_is_and_serves(client: Kubectl) -> None:
    assert {"v1", "v1beta3"} <= set(client("api-versions").split())
    names = client("api-resources", "-o", "name").split()
    assert {"pods", "services", "replicationcontrollers", "nodes"} <= set(names)
    assert client.server in client("cluster-info")
    said = client.json("version")["serverVersion"]
    assert (said["major"], said["minor"].isdigit()) == ("1", True)
    assert client("get", "--raw", "/healthz").strip() == "ok"


def test_events_tell_of_pods(solo: Room) -> None:
    solo.until("Scheduled", "get", "events")
    assert "pod/solo" in solo("get", "events", "--sort-by=.metadata.creationTimestamp")


def test_wait_for_conditions_and_for_the_end(solo: Room) -> None:
    assert "condition met" in solo("wait", "--for=condition=Ready", "pod/solo", "--timeout=30s")
    assert "timed out" in solo.refused(
        "wait", "--for=condition=Nonsense", "pod/solo", "--timeout=1s"
    )
    solo("delete", "pod", "solo", "--wait=false", "--grace-period=1")
    outcome = solo.kubectl.try_(
        "wait", "--for=delete", "pod/solo", "--timeout=30s", "-n", solo.namespace
    )
    assert outcome.code == 0 or "no matching resources" in outcome.err, outcome.err
    assert "NotFound" in solo.refused("get", "pod", "solo")


def test_a_controller_takes_its_pods_along(web: Room) -> None:
    web.until("1/1", "get", "pods", "-l", "app=web")
    web("delete", "rc", "web")
    web.until("", "get", "pods", "-l", "app=web", "-o", "name")


def test_nodes_can_be_cordoned(client: Kubectl) -> None:
    node = client("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    client("cordon", node)
    try:
        assert "SchedulingDisabled" in client("get", "node", node)
    finally:
        client("uncordon", node)
    assert "SchedulingDisabled" not in client("get", "node", node)


# --- what is not served ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("top", "pods"), "Metrics API not available"),
        (("auth", "can-i", "get", "pods"), "could not find the requested resource"),
        (("create", "deployment", "d", "--image=x"), "could not find the requested resource"),
        (("get", "deployments"), "doesn't have a resource type"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_what_is_not_served_is_said_in_a_line(
    client: Kubectl, words: tuple[str, ...], said: str
) -> None:
    complaint = client.refused(*words)
    assert said in complaint
    assert len(complaint.strip().splitlines()) == 1


def test_a_node_is_drained_by_evictions(web: Room) -> None:
    node = web.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    names = ("get", "pods", "-o", "jsonpath={.items[*].metadata.name}")
    web.until("web-", *names)
    web("wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=30s")
    before = set(web(*names).split())
    try:
        said = web.kubectl("drain", node, "--pod-selector=app=web", "--timeout=30s")
        assert said.count("evicted") >= len(before)
        assert not before & set(web(*names).split())
    finally:
        web.kubectl("uncordon", node)
