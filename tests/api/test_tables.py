"""Tables: the article's, line by line, and today's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from k8slite.api import age, tables
from k8slite.api.kinds import (
    COMPONENT_STATUS,
    CONFIG_MAP,
    ENDPOINTS,
    EVENT,
    NODE,
    POD,
    REPLICATION_CONTROLLER,
    RESOURCE_QUOTA,
    SCHEME,
    SECRET,
    SERVICE,
)
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.kit.clock import parse_rfc3339, rfc3339

NOW = parse_rfc3339("2015-06-01T12:00:09Z")
CREATED = "2015-06-01T12:00:00Z"
LATER = "2015-06-01T12:00:01Z"


def made(kind: Kind[Any], raw: dict[str, Any]) -> Any:
    return msgspec.convert(raw, kind.type)


def printed(kind: Kind[Any], *objects: Object, article: bool = True, wide: bool = False) -> str:
    columns = tables.columns_of(kind, article=article, wide=wide)
    lines = [tables.titles(columns)]
    for obj in objects:
        lines += tables.rows(columns, obj, NOW)
    least = 10 if article else 6
    return tables.layout(lines, least)


def pod(name: str, node: str, ip: str, state: dict[str, Any], **status: Any) -> Any:
    container = {"name": "nginx", "image": "nginx", "ready": True, "restartCount": 0}
    return made(
        POD,
        {
            "metadata": {
                "name": name,
                "namespace": "default",
                "creationTimestamp": CREATED,
                "labels": {"run-container": "nginx"},
            },
            "spec": {"nodeName": node, "containers": [{"name": "nginx", "image": "nginx"}]},
            "status": {
                "phase": "Running",
                "hostIP": node,
                "podIP": ip,
                "containerStatuses": [{**container, "state": state}],
                **status,
            },
        },
    )


RUNNING = {"running": {"startedAt": LATER}}


def test_the_articles_pods() -> None:
    found = printed(
        POD,
        pod("nginx-3gii4", "192.168.0.11", "172.16.58.4", RUNNING),
        pod("nginx-3xudc", "192.168.0.10", "172.16.62.6", RUNNING),
    )
    assert found == (
        "POD           IP            CONTAINER(S)   IMAGE(S)   HOST                        "
        "LABELS                STATUS    CREATED     MESSAGE\n"
        "nginx-3gii4   172.16.58.4                             192.168.0.11/192.168.0.11   "
        "run-container=nginx   Running   9 seconds   \n"
        "                            nginx          nginx                                  "
        "                      Running   8 seconds   \n"
        "nginx-3xudc   172.16.62.6                             192.168.0.10/192.168.0.10   "
        "run-container=nginx   Running   9 seconds   \n"
        "                            nginx          nginx                                  "
        "                      Running   8 seconds   \n"
    )


RC = {
    "metadata": {"name": "nginx", "namespace": "default", "creationTimestamp": CREATED},
    "spec": {
        "replicas": 6,
        "selector": {"run-container": "nginx"},
        "template": {"spec": {"containers": [{"name": "nginx", "image": "nginx"}]}},
    },
    "status": {"replicas": 6, "readyReplicas": 5},
}


def test_the_articles_controllers() -> None:
    assert printed(REPLICATION_CONTROLLER, made(REPLICATION_CONTROLLER, RC)) == (
        "CONTROLLER   CONTAINER(S)   IMAGE(S)   SELECTOR              REPLICAS\n"
        "nginx        nginx          nginx      run-container=nginx   6\n"
    )


def service(name: str, ip: str, ports: list[int], **more: Any) -> Any:
    spec = {"clusterIP": ip, "ports": [{"port": port, "protocol": "TCP"} for port in ports]}
    labels = more.pop("labels", None)
    meta = {"name": name, "namespace": "default", "labels": labels, "creationTimestamp": CREATED}
    return made(SERVICE, {"metadata": meta, "spec": {**spec, **more}})


MASTER = {"component": "apiserver", "provider": "kubernetes"}


def test_the_articles_services_continue_on_further_rows() -> None:
    found = printed(
        SERVICE,
        service("kubernetes", "192.168.3.2", [443], labels=MASTER),
        service(
            "nginx", "192.168.3.214", [80, 443], selector={"name": "nginx"},
            externalIPs=["12.0.0.5"],
        ),
    )  # fmt: skip
    table = """\
NAME         LABELS                                    SELECTOR     IP              PORT(S)
kubernetes   component=apiserver,provider=kubernetes   <none>       192.168.3.2     443/TCP
nginx        <none>                                    name=nginx   192.168.3.214   80/TCP
                                                                    12.0.0.5        443/TCP
"""
    assert found == table


def node(name: str, ready: str = "True", **spec: Any) -> Any:
    return made(
        NODE,
        {
            "metadata": {"name": name, "creationTimestamp": CREATED},
            "spec": spec,
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "addresses": [{"type": "InternalIP", "address": name}],
                "nodeInfo": {"kubeletVersion": "v1.20.0"},
            },
        },
    )


def test_the_articles_nodes() -> None:
    assert printed(
        NODE,
        node("192.168.0.10"),
        node("192.168.0.11", "False"),
        node("192.168.0.12", "Unknown", unschedulable=True),
    ) == (
        "NAME           LABELS    STATUS\n"
        "192.168.0.10   <none>    Ready\n"
        "192.168.0.11   <none>    NotReady\n"
        "192.168.0.12   <none>    Unknown,SchedulingDisabled\n"
    )


def component(name: str, message: str) -> Any:
    healthy = {"type": "Healthy", "status": "True", "message": message}
    return made(COMPONENT_STATUS, {"metadata": {"name": name}, "conditions": [healthy]})


def test_the_articles_component_statuses() -> None:
    assert printed(
        COMPONENT_STATUS, component("controller-manager", "ok"), component("scheduler", "ok")
    ) == (
        "NAME                 STATUS    MESSAGE   ERROR\n"
        "controller-manager   Healthy   ok        nil\n"
        "scheduler            Healthy   ok        nil\n"
    )


def test_a_pod_without_a_node_says_why() -> None:
    waiting = made(
        POD,
        {
            "metadata": {"name": "p", "creationTimestamp": CREATED},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
            "status": {
                "phase": "Pending",
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "message": "no node fits"}
                ],
            },
        },
    )
    [first, container] = tables.rows(tables.columns_of(POD, article=True), waiting, NOW)
    assert first[4:] == ["<unassigned>", "<none>", "Pending", "9 seconds", "no node fits"]
    assert container[2:4] == ["c", "i"]


@pytest.mark.parametrize(
    ("state", "last", "status", "message"),
    [
        ({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}, {}, "Waiting",
         "ErrImagePull: no such image"),
        ({"terminated": {"exitCode": 1, "reason": "Error"}}, {}, "Terminated",
         "exit code 1: Error"),
        (RUNNING, {"terminated": {"exitCode": 137, "signal": 9}}, "Running",
         "last termination: signal 9"),
    ],
)  # fmt: skip
def test_a_containers_row_says_what_became_of_it(
    state: Any, last: Any, status: str, message: str
) -> None:
    found = pod("p", "n", "", state)
    statuses = found.status.container_statuses
    raw = msgspec.to_builtins(found)
    raw["status"]["containerStatuses"] = [{**msgspec.to_builtins(statuses[0]), "lastState": last}]
    row = tables.rows(tables.columns_of(POD, article=True), made(POD, raw), NOW)[1]
    assert (row[6], row[8]) == (status, message)


def today(kind: Kind[Any], obj: Any, *, wide: bool = False) -> list[str]:
    columns = tables.columns_of(kind, article=False, wide=wide)
    return [column.cells(obj, NOW)[0] for column in columns]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, "Running"),
        ({"reason": "Evicted"}, "Evicted"),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
         "CrashLoopBackOff"),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]},
         "Completed"),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}, "ExitCode:3"),
        ({"containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}, "Signal:9"),
        ({"containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}},
                                {"ready": True, "state": RUNNING}]}, "NotReady"),
        ({"initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}},
                                    {"state": RUNNING}]}, "Init:1/0"),
        ({"initContainerStatuses": [{"state": {"terminated": {"exitCode": 2}}}]},
         "Init:ExitCode:2"),
        ({"initContainerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]},
         "Init:ErrImagePull"),
    ],
)  # fmt: skip
def test_todays_one_word_for_a_pod(change: dict[str, Any], shown: str) -> None:
    assert today(POD, pod("p", "n", "", RUNNING, **change))[2] == shown


def test_todays_pods() -> None:
    restarted = pod(
        "p", "n", "10.0.0.1", RUNNING,
        containerStatuses=[
            {"restartCount": 3, "ready": True, "state": RUNNING,
             "lastState": {"terminated": {"finishedAt": "2015-06-01T11:55:09Z"}}}
        ],
    )  # fmt: skip
    assert today(POD, restarted, wide=True) == [
        "p", "1/1", "Running", "3 (5m ago)", "9s", "10.0.0.1", "n", "<none>", "<none>",
    ]  # fmt: skip


def test_todays_other_kinds() -> None:
    assert today(REPLICATION_CONTROLLER, made(REPLICATION_CONTROLLER, RC)) == [
        "nginx", "6", "6", "5", "9s",
    ]  # fmt: skip
    exposed = service("s", "10.0.0.1", [80, 443], type="LoadBalancer")
    assert today(SERVICE, exposed) == [
        "s", "LoadBalancer", "10.0.0.1", "<pending>", "80/TCP,443/TCP", "9s",
    ]  # fmt: skip
    assert today(NODE, node("10.0.0.9"))[:5] == ["10.0.0.9", "Ready", "<none>", "9s", "v1.20.0"]
    secret = made(SECRET, {"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": "", "b": ""}})
    assert today(SECRET, secret) == ["s", "Opaque", "2", "<unknown>"]
    config = made(CONFIG_MAP, {"metadata": {"name": "c"}, "data": {"a": ""}})
    assert today(CONFIG_MAP, config)[:2] == ["c", "1"]
    quota = made(RESOURCE_QUOTA, {"status": {"hard": {"pods": "10"}, "used": {"pods": "3"}}})
    assert today(RESOURCE_QUOTA, quota)[2:] == ["pods: 3/10", ""]


def test_endpoints_show_three_addresses() -> None:
    addresses = [{"ip": f"10.0.0.{number}"} for number in range(5)]
    found = made(
        ENDPOINTS,
        {"metadata": {"name": "e"}, "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]},
    )
    [row] = tables.rows(tables.columns_of(ENDPOINTS, article=True), found, NOW)
    assert row == ["e", "10.0.0.0:80,10.0.0.1:80,10.0.0.2:80..."]
    assert today(ENDPOINTS, found)[1] == "10.0.0.0:80,10.0.0.1:80,10.0.0.2:80 + 2 more..."


def test_events_are_told_in_the_articles_words() -> None:
    event = made(
        EVENT,
        {
            "involvedObject": {"kind": "Pod", "name": "p"},
            "reason": "scheduled",
            "source": {"component": "scheduler"},
            "message": "bound",
            "firstTimestamp": CREATED,
            "lastTimestamp": LATER,
        },
    )
    [row] = tables.rows(tables.columns_of(EVENT, article=True), event, NOW)
    assert row == [
        "Mon, 01 Jun 2015 12:00:00 +0000", "Mon, 01 Jun 2015 12:00:01 +0000", "1", "p", "Pod", "",
        "scheduled", "{scheduler }", "bound",
    ]  # fmt: skip
    assert today(EVENT, event) == ["8s", "", "scheduled", "pod/p", "bound"]


def test_the_wire_table() -> None:
    table = tables.wire_table(SERVICE, [service("s", "10.0.0.1", [80])], NOW)
    assert table["columnDefinitions"][0] == {
        "name": "Name", "type": "string", "format": "name", "description": "Name", "priority": 0,
    }  # fmt: skip
    assert [column["priority"] for column in table["columnDefinitions"]] == [0] * 6 + [1]
    encoded = msgspec.json.decode(msgspec.json.encode(table))
    [row] = encoded["rows"]
    assert row["cells"] == ["s", "ClusterIP", "10.0.0.1", "<none>", "80/TCP", "9s", "<none>"]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert row["object"]["metadata"]["name"] == "s"
    whole = tables.wire_table(SERVICE, [service("s", "10.0.0.1", [80])], NOW, include="Object")
    assert whole["rows"][0]["object"].spec.cluster_ip == "10.0.0.1"
    bare = tables.wire_table(SERVICE, [service("s", "", [80])], NOW, include="None", headed=False)
    assert bare["rows"][0]["object"] is None
    assert bare["columnDefinitions"] == []
    rc = tables.wire_table(REPLICATION_CONTROLLER, [made(REPLICATION_CONTROLLER, RC)], NOW)
    assert rc["rows"][0]["cells"][1:4] == [6, 6, 5]


@pytest.mark.parametrize("kind", list(SCHEME), ids=lambda kind: kind.plural)
def test_an_empty_object_of_every_kind_can_be_printed(kind: Kind[Any]) -> None:
    empty = kind.new()
    assert tables.wire_table(kind, [empty], NOW)["rows"]
    for article in (True, False):
        assert printed(kind, empty, article=article, wide=True).count("\n") >= 2


def test_what_an_object_says_cannot_drive_the_terminal() -> None:
    assert tables.layout([["a\x1b[2J\nb", "c"]]) == "a^[[2J b   c\n"


@pytest.mark.parametrize(
    ("seconds", "words", "short"),
    [
        (0.4, "Less than a second", "0s"), (9, "9 seconds", "9s"), (59, "59 seconds", "59s"),
        (60, "About a minute", "60s"), (119, "About a minute", "119s"),
        (120, "2 minutes", "2m"), (200, "3 minutes", "3m20s"), (3599, "59 minutes", "59m"),
        (3600, "About an hour", "60m"), (4 * 3600 + 60, "4 hours", "4h1m"),
        (47 * 3600, "47 hours", "47h"), (48 * 3600, "2 days", "2d"), (76 * 3600, "3 days", "3d4h"),
        (13 * 86400, "13 days", "13d"), (14 * 86400, "2 weeks", "14d"),
        (90 * 86400, "3 months", "90d"), (800 * 86400, "2 years", "2y70d"),
        (9 * 365 * 86400, "9 years", "9y"), (-5, "Less than a second", "<invalid>"),
    ],
)  # fmt: skip
def test_ages(seconds: float, words: str, short: str) -> None:
    assert age.in_words(seconds) == words
    assert age.short(seconds) == short
    assert age.since(rfc3339(1_000_000), 1_000_009) == 9
    assert age.since("yesterday", 0) is None
