"""Every command of the article, in its order, with its columns."""

from __future__ import annotations

import re
import time
from pathlib import Path

from conftest import Ctl, Outcome

from cluster import LOOPBACK, NODE

FILES = Path(__file__).parents[2] / "examples" / "article"


def until_running(ctl: Ctl, count: int) -> Outcome:
    deadline = time.monotonic() + 30
    while True:
        found = ctl("get", "pods", "-o", "jsonpath={.items[*].status.phase}")
        if found.out.split() == ["Running"] * count:
            return ctl("get", "pods,rc")
        assert time.monotonic() < deadline, ctl("get", "pods").out
        time.sleep(0.05)


def titles(outcome: Outcome, place: int = 0) -> str:
    return " ".join(outcome.lines[place].split())


def test_the_article(ctl: Ctl) -> None:
    found = ctl("get", "services,minions")
    assert found.code == 0, found.err
    assert found.rows[0] == ["NAME", "LABELS", "SELECTOR", "IP", "PORT(S)"]
    master = "component=apiserver,provider=kubernetes"
    assert found.rows[1] == ["kubernetes", master, "<none>", "192.168.3.2", "443/TCP"]
    assert found.rows[2] == ["kubernetes-ro", master, "<none>", "192.168.3.1", "80/TCP"]
    assert found.rows[3] == ["NAME", "LABELS", "STATUS"]
    assert found.rows[4][0] == NODE

    found = ctl(
        "run-container", "nginx", "--port=80", "--port=443", "--image=nginx", "--replicas=6"
    )
    controllers = [
        ["CONTROLLER", "CONTAINER(S)", "IMAGE(S)", "SELECTOR", "REPLICAS"],
        ["nginx", "nginx", "nginx", "run-container=nginx", "6"],
    ]
    assert (found.code, found.rows) == (0, controllers), found.err

    found = until_running(ctl, 6)
    assert titles(found) == "POD IP CONTAINER(S) IMAGE(S) HOST LABELS STATUS CREATED MESSAGE"
    for row in range(1, 13, 2):
        name, ip, host, labels, phase, _ = found.rows[row]
        assert re.fullmatch(r"nginx-[a-z0-9]{5}", name)
        assert re.fullmatch(r"[0-9.]+", ip)
        assert (host, labels, phase) == (f"{NODE}/{LOOPBACK}", "run-container=nginx", "Running")
        assert found.rows[row + 1][:4] == ["", "nginx", "nginx", "Running"]
    assert found.rows[13:] == controllers

    for port, name in (("80", "nginx-http"), ("443", "nginx-https")):
        found = ctl(
            "expose", "rc", "nginx", f"--port={port}", f"--target-port={port}",
            f"--service-name={name}",
        )  # fmt: skip
        assert found.rows[0] == ["NAME", "LABELS", "SELECTOR", "IP", "PORT(S)"], found.err
        assert found.rows[1][:3] == [name, "<none>", "run-container=nginx"]
        assert re.fullmatch(r"192\.168\.3\.\d+", found.rows[1][3])
        assert found.rows[1][4] == f"{port}/TCP"
    found = ctl("get", "rc,services")
    assert found.rows[:2] == controllers
    assert [row[0] for row in found.rows[3:]] == [
        "kubernetes", "kubernetes-ro", "nginx-http", "nginx-https",
    ]  # fmt: skip

    found = ctl("delete", "services", "nginx-http", "nginx-https")
    assert found.lines == ["services/nginx-http", "services/nginx-https"]
    found = ctl("stop", "rc", "nginx")
    assert (found.code, found.lines) == (0, ["replicationcontrollers/nginx"]), found.err
    assert ctl("get", "rc").lines[1:] == []

    found = ctl("create", "-f", str(FILES / "nginx_rc.yaml"))
    assert (found.code, found.lines) == (0, ["replicationcontrollers/nginx-controller"])
    assert 'Warning: unknown field "spec.template.spec.portals"' in found.err
    found = until_running(ctl, 6)
    assert found.rows[1][3] == "name=nginx"
    assert found.rows[-1] == ["nginx-controller", "nginx", "nginx", "name=nginx", "6"]
    found = ctl("create", "-f", str(FILES / "nginx_service.yaml"))
    assert (found.code, found.lines) == (0, ["services/nginx"]), found.err
    found = ctl("get", "rc,services")
    assert found.rows[-2][:3] == ["nginx", "<none>", "name=nginx"]
    assert found.rows[-2][4] == "80/TCP"
    assert found.rows[-1] == ["", "12.0.0.5", "443/TCP"]

    assert ctl("delete", "services", "nginx").code == 0
    assert ctl("stop", "rc", "nginx-controller").code == 0
    assert ctl("get", "pods").lines[1:] == []


def test_the_articles_broken_line_is_refused_with_its_path(ctl: Ctl, tmp_path: Path) -> None:
    text = (FILES / "nginx_service.yaml").read_text()
    broken = re.sub(
        r"targetPort: 80\b.*", "targetPort: 80 порт контейнера на который", text, count=1
    )
    assert broken != text
    (tmp_path / "nginx_service.yaml").write_text(broken)
    found = ctl("create", "-f", str(tmp_path / "nginx_service.yaml"))
    assert found.code == 1
    assert "spec.ports[0].targetPort" in found.err
    assert len(found.err.splitlines()) == 1
    assert "nginx" not in ctl("get", "services", "-o", "name").out.replace("kubernetes", "")
