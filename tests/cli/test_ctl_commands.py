"""What each command promises, against a whole cluster."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ctl

from cluster import NODE, Cluster

CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {tier: front}}
data: {a: "1", b: "2"}
"""

POD = """
apiVersion: v1
kind: Pod
metadata: {name: lone, labels: {app: lone}}
spec:
  containers:
  - {name: first, image: one, ports: [{containerPort: 80}]}
  - {name: second, image: two}
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    """A file with this text."""

    def write(text: str, name: str = "objects.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def eventually(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


# --- files --------------------------------------------------------------------------------


def test_create_takes_several_documents_folders_and_lists(
    ctl: Ctl, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(
        "\n---\n".join(CONFIG_MAP.replace("settings", name) for name in ("one", "two"))
    )
    items = [yaml.safe_load(CONFIG_MAP.replace("settings", name)) for name in ("three", "four")]
    listed = {"kind": "List", "apiVersion": "v1", "items": items}
    (tmp_path / "b.json").write_text(json.dumps(listed))
    (tmp_path / "notes.txt").write_text("not for us")
    found = ctl("create", "-f", str(tmp_path), "-n", namespace)
    assert (found.code, found.err) == (0, "")
    assert found.lines == [f"configmaps/{name}" for name in ("one", "two", "three", "four")]
    assert ctl("get", "cm", "-n", namespace, "-o", "name").lines == [
        f"configmap/{name}" for name in ("four", "one", "three", "two")
    ]


def test_what_fails_is_told_and_does_not_stop_the_rest(
    ctl: Ctl, namespace: str, file: Callable[[str], str]
) -> None:
    both = file(CONFIG_MAP + "\n---\n" + CONFIG_MAP.replace("settings", "other"))
    assert ctl("create", "-f", file(CONFIG_MAP), "-n", namespace).code == 0
    both = file(CONFIG_MAP + "\n---\n" + CONFIG_MAP.replace("settings", "other"))
    found = ctl("create", "-f", both, "-n", namespace)
    assert found.code == 1
    assert found.lines == ["configmaps/other"]
    assert found.err == (f'Error from server: {both}: configmaps "settings" already exists\n')


def test_create_reads_standard_input(
    ctl: Ctl, namespace: str, monkeypatch: pytest.MonkeyPatch, file: Callable[[str], str]
) -> None:
    with open(file(CONFIG_MAP)) as text:
        monkeypatch.setattr("sys.stdin", text)
        assert ctl("create", "-f", "-", "-n", namespace).lines == ["configmaps/settings"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "objects.yaml: "),
        ("apiVersion: v1\nkind: Pdo\nmetadata: {name: a}\n", "did you mean Pod?"),
        ("kind: Pod\n", "does not say its apiVersion"),
        ("apiVersion: v7\nkind: Pod\nmetadata: {name: a}\n", "Error from server"),
        (POD.replace("first", "First_"),
         "spec.containers[0].name"),
        (CONFIG_MAP.replace("data: {a", "data: [a"), "objects.yaml: "),
        ("", "no objects there"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line_that_names_it(
    ctl: Ctl, file: Callable[[str], str], text: str, said: str
) -> None:
    found = ctl("create", "-f", file(text))
    assert found.code == 1
    assert said in found.err
    assert "objects.yaml" in found.err
    assert found.err.count("\n") == 1


def test_a_file_and_the_command_must_agree_on_the_namespace(
    ctl: Ctl, namespace: str, file: Callable[[str], str]
) -> None:
    text = CONFIG_MAP.replace("name: settings", "name: settings, namespace: elsewhere")
    found = ctl("create", "-f", file(text), "-n", namespace)
    assert "namespace 'elsewhere'" in found.err
    assert found.code == 1


def test_replace_update_and_patch(ctl: Ctl, namespace: str, file: Callable[[str], str]) -> None:
    assert ctl("create", "-f", file(CONFIG_MAP), "-n", namespace).code == 0
    changed = file(CONFIG_MAP.replace('"2"', '"3"'))
    assert ctl("update", "-f", changed, "-n", namespace).lines == ["configmaps/settings"]
    data = ("get", "cm", "settings", "-n", namespace, "-o", "jsonpath={.data}")
    assert json.loads(ctl(*data).out) == {"a": "1", "b": "3"}
    patched = ctl("update", "cm", "settings", '--patch={"data":{"c":"4"}}', "-n", namespace)
    assert patched.lines == ["configmaps/settings"]
    assert json.loads(ctl(*data).out) == {"a": "1", "b": "3", "c": "4"}
    assert ctl("replace", "--force", "-f", changed, "-n", namespace).code == 0
    assert json.loads(ctl(*data).out) == {"a": "1", "b": "3"}


def test_apply_creates_changes_removes_and_leaves_alone(
    ctl: Ctl, namespace: str, file: Callable[[str], str]
) -> None:
    def apply(text: str) -> list[str]:
        found = ctl("apply", "-f", file(text), "-n", namespace)
        assert found.err == ""
        return found.lines

    assert apply(CONFIG_MAP) == ["configmaps/settings created"]
    assert apply(CONFIG_MAP) == ["configmaps/settings unchanged"]
    patch = '--patch={"data":{"by-hand":"x"}}'
    assert ctl("update", "cm", "settings", patch, "-n", namespace).code == 0
    assert apply(CONFIG_MAP.replace('b: "2"', 'c: "3"')) == ["configmaps/settings configured"]
    found = ctl("get", "cm", "settings", "-n", namespace, "-o", "jsonpath={.data}")
    assert json.loads(found.out) == {"a": "1", "by-hand": "x", "c": "3"}


def test_apply_of_a_pod_changes_its_image_alone(
    ctl: Ctl, namespace: str, file: Callable[[str], str]
) -> None:
    assert ctl("apply", "-f", file(POD), "-n", namespace).lines == ["pods/lone created"]
    assert ctl("apply", "-f", file(POD), "-n", namespace).lines == ["pods/lone unchanged"]
    changed = file(POD.replace("image: two", "image: three"))
    assert ctl("apply", "-f", changed, "-n", namespace).lines == ["pods/lone configured"]
    images = "jsonpath={.spec.containers[*].image}"
    assert ctl("get", "pod", "lone", "-n", namespace, "-o", images).out == "one three"


# --- get ----------------------------------------------------------------------------------


def test_get_in_every_form(ctl: Ctl, namespace: str, file: Callable[[str], str]) -> None:
    ctl("create", "-f", file(CONFIG_MAP), "-n", namespace)
    one = ("get", "cm/settings", "-n", namespace, "-o")
    assert json.loads(ctl(*one, "json").out)["data"] == {"a": "1", "b": "2"}
    assert yaml.safe_load(ctl(*one, "yaml").out)["kind"] == "ConfigMap"
    assert ctl(*one, "name").out == "configmap/settings\n"
    assert ctl(*one, "jsonpath={.metadata.name}").out == "settings"
    columns = "custom-columns=NAME:.metadata.name,A:.data.a,NONE:.data.z"
    assert ctl(*one, columns).rows == [["NAME", "A", "NONE"], ["settings", "1", "<none>"]]
    assert ctl(*one, "wide").rows[0] == ["NAME", "DATA", "AGE"]
    listed = json.loads(ctl("get", "cm", "-n", namespace, "-o=json").out)
    assert (listed["kind"], len(listed["items"])) == ("List", 1)
    assert ctl("get", "cm", "-n", namespace, "--no-headers").rows[0][:2] == ["settings", "2"]
    labelled = ctl("get", "cm", "-n", namespace, "-L", "tier", "--show-labels")
    assert labelled.rows[0][-2:] == ["TIER", "LABELS"]
    assert labelled.rows[1][-2:] == ["front", "tier=front"]


def test_get_selects_and_looks_everywhere(
    ctl: Ctl, namespace: str, file: Callable[[str], str]
) -> None:
    ctl("create", "-f", file(CONFIG_MAP), "-n", namespace)
    assert len(ctl("get", "cm", "-n", namespace, "-l", "tier in (front,back)").lines) == 2
    assert len(ctl("get", "cm", "-n", namespace, "-l", "tier!=front").lines) == 1
    everywhere = ctl("get", "cm", "--all-namespaces", "-l", "tier=front")
    assert everywhere.rows[0][0] == "NAMESPACE"
    assert [namespace, "settings"] in [row[:2] for row in everywhere.rows]
    name = "metadata.name=settings"
    assert len(ctl("get", "cm", "-n", namespace, "--field-selector", name).lines) == 2


def test_what_is_there_is_shown_though_something_is_not(
    ctl: Ctl, namespace: str, file: Callable[[str], str]
) -> None:
    ctl("create", "-f", file(CONFIG_MAP), "-n", namespace)
    found = ctl("get", "cm", "settings", "absent", "-n", namespace)
    assert found.code == 1
    assert found.err == 'Error from server: configmaps "absent" not found\n'
    assert [row[0] for row in found.rows] == ["NAME", "settings"]
    assert ctl("get", "cm", "absent", "-n", namespace, "--ignore-not-found").code == 0


def test_get_speaks_the_articles_version_when_asked(ctl: Ctl) -> None:
    found = ctl("get", "service", "kubernetes", "-o", "yaml", "--api-version=v1beta3")
    document = yaml.safe_load(found.out)
    assert document["apiVersion"] == "v1beta3"
    assert document["spec"]["portalIP"] == "192.168.3.2"


def test_watch_prints_every_change_as_it_comes(
    ctl: Ctl, cluster: Cluster, namespace: str, file: Callable[[str], str], tmp_path: Path
) -> None:
    import subprocess
    import sys

    ctl("create", "-f", file(CONFIG_MAP), "-n", namespace)
    command = ["ctl", "get", "cm", "-n", namespace, "-s", cluster.server, "--watch"]
    with subprocess.Popen(
        [sys.executable, "-m", "k8slite", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        limit = threading.Timer(30, process.kill)
        limit.start()
        try:
            assert process.stdout.readline().split() == ["NAME", "DATA", "AGE"]
            assert process.stdout.readline().split()[:2] == ["settings", "2"]
            ctl("update", "cm", "settings", '--patch={"data":{"c":"4"}}', "-n", namespace)
            assert process.stdout.readline().split()[:2] == ["settings", "3"]
            ctl("delete", "cm", "settings", "-n", namespace)
            assert process.stdout.readline().split()[:2] == ["settings", "3"]
        finally:
            limit.cancel()
            process.terminate()


# --- controllers --------------------------------------------------------------------------


def test_run_expose_scale_and_stop(ctl: Ctl, namespace: str) -> None:
    n = ("-n", namespace)
    made = ctl("run", "web", "--image=web:1", "-r", "2", "--port=80", "--wait", *n)
    assert made.rows[1] == ["web", "web", "web:1", "run-container=web", "2"], made.err
    assert len(ctl("get", "pods", *n, "-o", "name").lines) == 2
    exposed = ctl("expose", "rc", "web", "--public-ip=12.0.0.9", "-l", "a=b", *n)
    assert exposed.rows[1][:3] == ["web", "a=b", "run-container=web"], exposed.err
    assert exposed.rows[2] == ["", "12.0.0.9"]
    assert ctl("scale", "rc/web", "--replicas=3", "--wait", *n).lines == [
        "replicationcontrollers/web scaled"
    ]
    refused = ctl("resize", "rc", "web", "--replicas=1", "--current-replicas=9", *n)
    assert refused.err == "Error: rc 'web' wants 3 replicas, not 9; nothing was changed\n"
    assert ctl("resize", "rc", "web", "--replicas=1", "--current-replicas=3", *n).lines == [
        "resized"
    ]
    assert ctl("stop", "rc", "web", *n).lines == ["replicationcontrollers/web"]
    assert ctl("get", "rc,pods", *n, "-o", "name").lines == []


def test_dry_run_only_shows(ctl: Ctl, namespace: str) -> None:
    shown = ctl(
        "run-container", "web", "--image=web:1", "--dry-run", "-o", "yaml", "-n", namespace,
        '--overrides={"spec":{"replicas":5}}', "--env=A=b", "--", "serve", "--fast",
    )  # fmt: skip
    document = yaml.safe_load(shown.out)
    assert document["spec"]["replicas"] == 5
    container = document["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["serve", "--fast"]
    assert container["env"] == [{"name": "A", "value": "b"}]
    assert ctl("run", "web", "--image=i", "--dry-run=server", "-n", namespace).code == 0
    assert ctl("get", "rc", "-n", namespace, "-o", "name").lines == []


def test_rolling_update_narrates_each_step_and_ends_under_the_old_name(
    ctl: Ctl, namespace: str
) -> None:
    n = ("-n", namespace)
    ctl("run", "web", "--image=web:1", "-r", "2", "--wait", *n)
    rolled = ctl("rolling-update", "web", "--image=web:2", *n)
    assert rolled.code == 0, rolled.err
    new = re.fullmatch(r"Creating (web-[0-9a-f]{10})", rolled.lines[0])
    assert new is not None
    assert rolled.lines[1:] == [
        f"Updating web replicas: 2, {new[1]} replicas: 1",
        f"Updating web replicas: 1, {new[1]} replicas: 1",
        f"Updating web replicas: 1, {new[1]} replicas: 2",
        f"Updating web replicas: 0, {new[1]} replicas: 2",
        "Update succeeded. Deleting web",
        f"Renaming {new[1]} to web",
        "replicationcontrollers/web",
    ]
    images = "jsonpath={.items[*].spec.containers[*].image}"
    eventually(lambda: ctl("get", "pods", *n, "-o", images).out == "web:2 web:2")
    assert [row[0] for row in ctl("get", "rc", *n).rows] == ["CONTROLLER", "web"]


def test_rolling_update_from_a_file(ctl: Ctl, namespace: str, file: Callable[[str], str]) -> None:
    n = ("-n", namespace)
    ctl("run", "old", "--image=web:1", "--labels=app=web,v=1", "--wait", *n)
    document = yaml.safe_load(
        ctl("run", "new", "--image=web:2", "-l", "app=web,v=2", "--dry-run", "-o", "yaml").out
    )
    rolled = ctl("rolling-update", "old", "-f", file(yaml.safe_dump(document)), *n)
    assert rolled.lines[-1] == "replicationcontrollers/new", rolled.err
    assert ctl("get", "rc", *n, "-o", "name").lines == ["replicationcontroller/new"]
    document["metadata"]["name"] = "third"
    refused = ctl("rolling-update", "new", "-f", file(yaml.safe_dump(document)), *n)
    assert "another value than 'new'" in refused.err


# --- marks --------------------------------------------------------------------------------


def test_labels_and_annotations(ctl: Ctl, namespace: str, file: Callable[[str], str]) -> None:
    n = ("-n", namespace)
    ctl("create", "-f", file(CONFIG_MAP), *n)
    assert ctl("label", "cm", "settings", "x=1", *n).lines == ["configmaps/settings labeled"]
    refused = ctl("label", "cm", "settings", "tier=back", *n)
    assert refused.err == (
        "Error: configmaps/settings: tier=front is there already; change it with --overwrite\n"
    )
    assert ctl("label", "cm", "--all", "tier=back", "x-", "--overwrite", *n).code == 0
    labels = "jsonpath={.metadata.labels}"
    assert ctl("get", "cm", "settings", *n, "-o", labels).out == '{"tier":"back"}'
    assert ctl("annotate", "cm/settings", "why=a trial", *n).lines == [
        "configmaps/settings annotated"
    ]
    stale = ctl("annotate", "cm/settings", "a=b", "--resource-version=1", *n)
    assert "Error from server: configmaps/settings: Operation cannot be fulfilled" in stale.err


def test_cordon_and_uncordon(ctl: Ctl) -> None:
    assert ctl("cordon", NODE).lines == [f"nodes/{NODE} cordoned"]
    assert ctl("get", "minions").rows[1][2] == "Ready,SchedulingDisabled"
    assert ctl("uncordon", NODE).lines == [f"nodes/{NODE} uncordoned"]
    assert ctl("get", "minions").rows[1][2] == "Ready"
    assert ctl("cordon", "absent").err == 'Error from server: nodes "absent" not found\n'


def test_drain_empties_a_node_of_what_would_be_made_again(
    ctl: Ctl, namespace: str, file: Callable[[str], str]
) -> None:
    n, mine = ("-n", namespace), ("--pod-selector", f"part-of={namespace}")
    try:
        ctl("run", "web", "--image=nginx", f"--labels=part-of={namespace}", *n)
        [web] = eventually(lambda: running(ctl, namespace))
        assert ctl("drain", NODE, *mine).lines[0] == f"nodes/{NODE} cordoned"
        # It was made anew, and waits for a node.
        [again] = ctl("get", "pods", *n, "-o", "jsonpath={.items[*].metadata.name}").out.split()
        assert again != web
        assert running(ctl, namespace) == []
        ctl("uncordon", NODE)
        eventually(lambda: running(ctl, namespace) == [again])
    finally:
        ctl("uncordon", NODE)


def test_drain_asks_before_a_pod_is_lost_for_good(
    ctl: Ctl, namespace: str, file: Callable[[str], str]
) -> None:
    n, mine = ("-n", namespace), ("--pod-selector", "app=lone")
    try:
        ctl("create", "-f", file(POD), *n)
        eventually(lambda: running(ctl, namespace))
        refused = ctl("drain", NODE, *mine)
        assert refused.code == 1
        assert refused.err == (
            f"Error: nodes/{NODE}: cannot delete pods without a controller: {namespace}/lone "
            "(use --force to override)\n"
        )
        assert running(ctl, namespace) == ["lone"]
        forced = ctl("drain", NODE, *mine, "--force", "--grace-period=1", "--timeout=20")
        assert forced.lines[1:] == ["pods/lone evicted", f"nodes/{NODE} drained"]
        assert "deleting pods without a controller" in forced.err
        assert ctl("drain", "absent").err.startswith("Error from server: ")
    finally:
        ctl("uncordon", NODE)


def running(ctl: Ctl, namespace: str) -> list[str]:
    """The names of pods that run."""
    wanted = "jsonpath={range .items[?(@.status.phase=='Running')]}{.metadata.name} {end}"
    return ctl("get", "pods", "-n", namespace, "-o", wanted).out.split()


# --- delete -------------------------------------------------------------------------------


def test_delete_waits_until_the_objects_are_gone(
    ctl: Ctl, namespace: str, file: Callable[[str], str]
) -> None:
    n = ("-n", namespace)
    ctl("create", "-f", file(POD), *n)
    eventually(lambda: ctl("get", "pod", "lone", *n, "-o", "jsonpath={.status.podIP}").out)
    assert ctl("delete", "pod", "lone", *n).lines == ["pods/lone"]
    assert "not found" in ctl("get", "pod", "lone", *n).err
    again = ctl("delete", "pod", "lone", *n)
    assert (again.code, again.err) == (1, 'Error from server: pods "lone" not found\n')
    assert ctl("delete", "pod", "lone", "--ignore-not-found", *n).code == 0


def test_delete_needs_to_be_told_what(ctl: Ctl) -> None:
    assert ctl("delete", "pods").err == (
        "Error: name the objects, or select them with -l, or say --all\n"
    )


def test_delete_by_selector_takes_the_pods_of_a_controller_along_or_leaves_them(
    ctl: Ctl, namespace: str
) -> None:
    n = ("-n", namespace)
    for name in ("a", "b"):
        ctl("run", name, "--image=i", "--wait", *n)
    assert ctl("delete", "rc", "-l", "run-container=a", *n).lines == ["replicationcontrollers/a"]
    eventually(lambda: len(ctl("get", "pods", *n, "-o", "name").lines) == 1)
    assert ctl("delete", "rc", "b", "--cascade=orphan", *n).code == 0
    assert len(ctl("get", "pods", *n, "-o", "name").lines) == 1


# --- containers ---------------------------------------------------------------------------


def test_logs_and_exec_reach_the_container(
    ctl: Ctl, cluster: Cluster, namespace: str, file: Callable[[str], str]
) -> None:
    n = ("-n", namespace)
    ctl("create", "-f", file(POD), *n)
    status = "jsonpath={.status.containerStatuses[*].state.running.startedAt}"
    eventually(lambda: len(ctl("get", "pod", "lone", *n, "-o", status).out.split()) == 2)
    several = ctl("logs", "lone", *n)
    assert several.code == 1
    assert "first" in several.err
    assert "second" in several.err
    assert ctl("logs", "lone", "first", "--tail=5", *n).code == 0
    assert ctl("exec", "lone", "-c", "second", *n, "--", "true").code == 0
    assert ctl("exec", "-p", "lone", "-c", "second", *n, "--", "true").code == 0
    missing = ctl("exec", "lone", "-c", "third", *n, "--", "true")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert "third" in missing.err
    cluster.runtime.exec_code = 7
    try:
        assert ctl("exec", "lone", "-c", "first", *n, "--", "false").code == 7
    finally:
        cluster.runtime.exec_code = 0


# --- describe and information -------------------------------------------------------------


def test_describe_tells_of_events_and_neighbours(ctl: Ctl, namespace: str) -> None:
    n = ("-n", namespace)
    ctl("run", "web", "--image=web:1", "--port=80", "--wait", *n)
    ctl("expose", "rc", "web", *n)
    pod = ctl("describe", "pod", "web", *n)
    assert re.search(r"Replication Controllers: +web \(1/1 replicas created\)", pod.out)
    eventually(lambda: "Scheduled" in ctl("describe", "pod", "web", *n).out)
    rc = ctl("describe", "rc", "web", *n)
    assert "1 Running / 0 Pending / 0 Succeeded / 0 Failed" in rc.out
    endpoints = r"Endpoints: +[0-9.]+:80"
    eventually(lambda: re.search(endpoints, ctl("describe", "service", "web", *n).out))
    assert re.search(rf"Name: +{NODE}", ctl("describe", "node", NODE).out)
    assert ctl("describe", "pod", "absent", *n).err == 'Error: pods "absent" not found\n'


def test_information(ctl: Ctl, cluster: Cluster) -> None:
    assert ctl("cluster-info").lines == [f"Kubernetes master is running at {cluster.server}"]
    versions = ctl("version").lines
    assert versions[0].startswith("Client Version: v")
    assert versions[1].startswith("Server Version: v")
    assert ctl("version", "--client").lines == versions[:1]
    assert ctl("api-versions").lines == ["policy/v1", "v1", "v1beta3"]
    healthy = ctl("get", "cs").rows
    assert healthy[0] == ["NAME", "STATUS", "MESSAGE", "ERROR"]
    assert healthy[2] == ["controller-manager", "Healthy", "ok", "nil"]


def test_the_secure_door_opens_to_the_clusters_own_kubeconfig(
    command: Ctl, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = cluster.kubeconfig.read_text()
    local = re.sub(r"https://[^:]+:", "https://127.0.0.1:", text)
    path = cluster.kubeconfig.with_name("local.kubeconfig")
    path.write_text(local)
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert command("ctl", "get", "nodes").rows[1][0] == NODE
    server = yaml.safe_load(local)["clusters"][0]["cluster"]["server"]
    monkeypatch.delenv("KUBECONFIG")
    stranger = command("ctl", "get", "nodes", "-s", server)
    assert "is not trusted" in stranger.err
    insecure = ("--insecure-skip-tls-verify", "--token=wrong")
    refused = command("ctl", "get", "nodes", "-s", server, *insecure)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert refused.err.startswith("Error from server: ")
