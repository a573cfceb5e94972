"""The article, word for word, on a real host: its commands, its files, its tables, its portals."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.article.article_tables import golden, sections, tables
from tests.lab.site import ADDRESS, ROOT, SERVER, Site, site

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

WELCOME = "<h1>Welcome to nginx!</h1>"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("article")) as host:
        yield host


@pytest.fixture(scope="module")
def closing_words(host: Site) -> Iterator[str]:
    """What ``up`` printed; the cluster is there until the last test is done."""
    try:
        yield host.up()
    finally:
        host.down()


@pytest.fixture(scope="module")
def transcript(host: Site, closing_words: str) -> list[tuple[str, str]]:
    """Every command of the article and what it printed."""
    script = ROOT / "examples" / "article" / "commands.sh"
    return sections(host.host.run(str(script), env=host.environment))


def printed(transcript: list[tuple[str, str]], command: str, nth: int = 0) -> str:
    return [text for words, text in transcript if words.startswith(command)][nth]


def test_up_closes_with_the_articles_lines(closing_words: str) -> None:
    lines = closing_words.splitlines()
    start = lines.index("Kubernetes cluster is running.  The master is running at:")
    assert lines[start + 1] == f"  http://{ADDRESS}"
    assert lines[start + 2 : start + 4] == ["... calling validate-cluster", "Found 1 nodes."]
    assert re.fullmatch(r" +1\tNAME +LABELS +STATUS", lines[start + 4])
    assert re.fullmatch(rf" +2\t{re.escape(ADDRESS)} +<none> +Ready", lines[start + 5])
    assert lines[start + 6] == "Validate output:"
    (components,) = tables("\n".join(lines[start + 7 : start + 11]))
    assert components.titles == ("NAME", "STATUS", "MESSAGE", "ERROR")
    assert components.column("NAME") == ["etcd-0", "controller-manager", "scheduler"]
    assert components.column("STATUS") == ["Healthy"] * 3
    assert components.column("ERROR") == ["nil"] * 3
    assert lines[start + 11 : start + 14] == [
        "Cluster validation succeeded",
        "Done, listing cluster services:",
        f"Kubernetes master is running at {SERVER}",
    ]


@pytest.mark.parametrize(
    ("command", "nth", "expected"),
    [
        ("k8slite ctl get services,minions", 0, "services_minions"),
        ("k8slite ctl get pods,rc", 0, "run_pods_rc"),
        ("k8slite ctl get rc,services", 0, "expose_rc_services"),
        ("k8slite ctl get pods,rc", 1, "config_pods_rc"),
        ("k8slite ctl get rc,services", 1, "config_rc_services"),
    ],
)
def test_tables_are_the_articles(
    transcript: list[tuple[str, str]], command: str, nth: int, expected: str
) -> None:
    ours = tables(printed(transcript, command, nth))
    articles = golden(expected)
    assert [table.titles for table in ours] == [table.titles for table in articles]
    for own, article in zip(ours, articles, strict=True):
        assert own.kinds_of_rows == article.kinds_of_rows
        if "POD" in own.titles:
            assert len(own.rows) == len(article.rows) == 12


def test_success_lines(transcript: list[tuple[str, str]]) -> None:
    (created,) = tables(printed(transcript, "k8slite ctl run-container"))
    assert created.kinds_of_rows == {("nginx", "nginx", "nginx", "run-container=nginx", "6")}
    (exposed,) = tables(printed(transcript, "k8slite ctl expose", 1))
    assert exposed.column("NAME") == ["nginx-https"]
    assert exposed.column("PORT(S)") == ["443/TCP"]
    deleted = printed(transcript, "k8slite ctl delete")
    assert deleted.split() == ["services/nginx-http", "services/nginx-https"]
    stopped = printed(transcript, "k8slite ctl stop").splitlines()
    assert [line for line in stopped if line][-1] == "replicationcontrollers/nginx"
    rc = printed(transcript, "k8slite ctl create", 0)
    assert rc.split()[-1] == "replicationcontrollers/nginx-controller"
    assert printed(transcript, "k8slite ctl create", 1).split()[-1] == "services/nginx"


def test_every_portal_answers_with_nginxs_welcome(transcript: list[tuple[str, str]]) -> None:
    pages = [(words, text) for words, text in transcript if words.startswith("curl ")]
    assert len(pages) == 3
    assert pages[-1][0] == "curl http://12.0.0.5"
    for _, page in pages:
        assert WELCOME in page


def test_a_pod_reaches_the_portal_and_the_public_ip(
    host: Site, transcript: list[tuple[str, str]]
) -> None:
    portal = host.ctl("get", "service", "nginx", "-o", "jsonpath={.spec.clusterIP}").strip()
    pod = host.ctl("get", "pods", "-o", "name").split()[0].rpartition("/")[2]
    for address in (portal, "12.0.0.5"):
        page = host.ctl("exec", pod, "--", "wget", "-q", "-O-", f"http://{address}/")
        assert WELCOME in page


def test_requests_are_spread_evenly_over_the_six(
    host: Site, transcript: list[tuple[str, str]]
) -> None:
    portal = host.ctl("get", "service", "nginx", "-o", "jsonpath={.spec.clusterIP}").strip()
    for number in range(24):
        host.host.run("curl", "-fsS", "-o", "/dev/null", f"http://{portal}/?spread={number}")
    counts = []
    for name in host.ctl("get", "pods", "-o", "name").split():
        log = host.ctl("logs", name.rpartition("/")[2])
        counts.append(log.count("GET /?spread="))
    assert counts == [4] * 6


def test_both_preinstalled_services_answer(host: Site, transcript: list[tuple[str, str]]) -> None:
    read_only = host.host.run("curl", "-fsS", "http://192.168.3.1/api/v1/nodes")
    assert ADDRESS in read_only
    secrets = host.host.run(
        *("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"),
        "http://192.168.3.1/api/v1/namespaces/default/secrets",
    )
    assert secrets == "403"
    anonymous = host.host.run(
        *("curl", "-ksS", "-o", "/dev/null", "-w", "%{http_code}"),
        "https://192.168.3.2/api/v1/nodes",
    )
    assert anonymous == "401"
    pod = host.ctl("get", "pods", "-o", "name").split()[0].rpartition("/")[2]
    page = host.ctl("exec", pod, "--", "wget", "-q", "-O-", "http://192.168.3.1/api/v1/nodes")
    assert ADDRESS in page
    # The image has no TLS client: the host's speaks from within the pod's network.
    sandbox = host.docker.docker("ps", "-q", "--filter", f"name=k8s_POD.*_{pod}_").split()[0]
    pid = host.docker.docker("inspect", "-f", "{{.State.Pid}}", sandbox).strip()
    version = subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "curl", "-ksS", "https://192.168.3.2/version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "k8slite" in version.stdout


def test_the_portal_rules_read_as_in_the_article(
    host: Site, transcript: list[tuple[str, str]]
) -> None:
    saves = host.host.run("iptables-legacy-save", "-t", "nat") + host.host.run("iptables-save")
    for chain, target in (
        ("KUBE-PORTALS-CONTAINER", r"REDIRECT --to-ports \d+"),
        ("KUBE-PORTALS-HOST", rf"DNAT --to-destination {re.escape(ADDRESS)}:\d+"),
    ):
        for address, port, service in (
            ("192.168.3.2", 443, "default/kubernetes:"),
            ("192.168.3.1", 80, "default/kubernetes-ro:"),
            ("12.0.0.5", 80, "default/nginx:http"),
        ):
            rule = (
                rf'-A {chain} -d {re.escape(address)}/32 -p tcp -m comment --comment "?{service}"? '
                rf"-m tcp --dport {port} -j {target}"
            )
            assert re.search(rule, saves), rule


def test_the_articles_broken_line_is_refused_by_its_field(host: Site, tmp_path: Path) -> None:
    text = (ROOT / "examples" / "article" / "nginx_service.yaml").read_text()
    broken = tmp_path / "broken.yaml"
    broken.write_text(text.replace("targetPort: 80 # порт", "targetPort: 80 порт"))
    assert "targetPort: 80 порт контейнера" in broken.read_text()
    host.ctl("get", "services")
    before = host.ctl("get", "services", "-o", "name")
    with pytest.raises(AssertionError) as refusal:
        host.ctl("create", "-f", str(broken))
    assert "spec.ports[0].targetPort" in str(refusal.value)
    assert host.ctl("get", "services", "-o", "name") == before
