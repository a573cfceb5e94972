"""What stands in the way is told at once, changing nothing; what broke off is mended or undone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.cluster.article_site import ARTICLE, CONFIG, Conf, views
from tests.lab.lab import Lab, lab

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

#: With four nodes, two of which nobody has, and no registry.
_FOUR = (
    ARTICLE.replace("192.168.0.12", "192.168.0.12 core@192.168.0.77")
    .replace('"i" "i"', '"i" "i" "i"')
    .replace("-3", "-4")
)


@pytest.fixture(scope="module")
def site() -> Iterator[Lab]:
    with lab(images=False, sudo_asks=("node2",)) as made:
        yield made


@pytest.fixture
def conf(site: Lab) -> Conf:
    return Conf(site)


@pytest.fixture
def before(site: Lab) -> dict[str, dict[str, str]]:
    return now(site)


def now(site: Lab) -> dict[str, dict[str, str]]:
    return {node.name: views(node) for node in site.nodes}


def test_the_articles_own_file_is_refused_with_its_slip(conf: Conf) -> None:
    slip = ARTICLE.replace("0.11", "0.10").replace("0.12", "0.10")
    (reason,) = conf.refused("up", "-c", conf.write("/root/slip.sh", slip))
    assert "192.168.0.10 3 times" in reason
    assert "The article's own listing has this slip" in reason


def test_a_file_that_is_no_configuration_is_refused_line_by_line(conf: Conf) -> None:
    reasons = conf.refused("up", "-c", conf.write("/root/x.sh", "nodes=$(cat hosts)\nif true\n"))
    assert reasons[0].startswith("/root/x.sh: line 1: a command substitution")
    assert reasons[1].startswith("/root/x.sh: line 2: `if`")
    assert conf.refused("up", "-c", "/root/none.sh") == [
        "/root/none.sh cannot be read: No such file or directory"
    ]


def test_everything_wrong_on_the_hosts_is_told_at_once_and_nothing_is_changed(
    site: Lab, conf: Conf
) -> None:
    first, second, third = site.nodes
    first.sh("mkdir /etc/k8slite")
    elsewhere = {"id": "cafe0123", "masters": ["10.0.0.1"], "nodes": []}
    first.path("/etc/k8slite/cluster.json").write_text(json.dumps(elsewhere))
    first.sh("ip route add 192.168.3.128/25 via 192.168.0.1")
    first.serve("squatter", "busybox", "nc", "-l", "-p", "10250", "-e", "cat")
    second.sh("/etc/init.d/docker stop; chmod a-x /usr/sbin/dockerd")
    keys = third.path("/home/core/.ssh/authorized_keys")
    authorized = keys.read_text()
    keys.write_text("")
    before = now(site)

    reasons = conf.refused("up", "-c", conf.write("/root/four.sh", _FOUR))
    text = "\n".join(reasons)
    assert "192.168.0.10: belongs to another cluster (cafe0123, whose masters are 10.0.0.1)" in text
    assert "PORTAL_NET 192.168.3.0/24 clashes with its routes to 192.168.3.128/25" in text
    assert "core@192.168.0.10: port 10250 (the node's own API) is taken by busybox (pid" in text
    assert "core@192.168.0.11: has no Docker" in text
    assert "core@192.168.0.12: does not accept our key: ssh-copy-id core@192.168.0.12" in text
    assert "core@192.168.0.77: cannot be reached" in text
    assert reasons[-1] == "6 things to mend"
    assert now(site) == before

    first.services.clear()
    first.sh("rm -r /etc/k8slite; ip route del 192.168.3.128/25; pkill -x busybox")
    second.sh("chmod a+x /usr/sbin/dockerd; /etc/init.d/docker start")
    keys.write_text(authorized)


def test_a_host_that_is_not_the_one_it_was_is_not_trusted(site: Lab, conf: Conf) -> None:
    known = conf.host.path("/root/.ssh/known_hosts")
    text = known.read_text()
    rows = [line.split() for line in text.splitlines()]
    rows[1][2] = rows[0][2]
    known.write_text("".join(" ".join(row) + "\n" for row in rows))
    (reason,) = conf.refused("validate", "-c", CONFIG)
    known.write_text(text)
    assert reason.startswith("core@192.168.0.11: its host key is not the one in")
    assert "ssh-keygen -R 192.168.0.11" in reason


def test_a_host_that_is_new_to_us_is_accepted_told_and_remembered(site: Lab, conf: Conf) -> None:
    known = conf.host.path("/root/.ssh/known_hosts")
    text = known.read_text()
    known.write_text("")
    said = conf.k8slite("validate", "-c", CONFIG)
    assert said.count("... first login to 192.168.0.1") == 3
    assert "its key is ssh-ed25519 SHA256:" in said
    assert known.read_text() == "", "validate changes nothing, here neither"
    known.write_text(text)


def test_sudo_that_asks_is_answered_or_said(conf: Conf) -> None:
    (reason,) = conf.refused("validate", "-c", CONFIG, K8SLITE_SUDO_PASSWORD="wrong")
    assert reason.startswith("core@192.168.0.11: sudo does not take the password")
    conf.write("/root/password", "core\n")
    flags = ("--sudo-password-file", "/root/password")
    conf.k8slite("validate", "-c", CONFIG, *flags, K8SLITE_SUDO_PASSWORD="wrong")


def test_other_flags_beside_a_file_are_refused(conf: Conf) -> None:
    (reason,) = conf.refused("up", "-c", CONFIG, "--portal-net", "10.0.0.0/24")
    assert reason == (
        "--portal-net is for a cluster of this machine alone: with -c the file decides"
    )


def test_an_install_that_broke_off_is_undone(
    site: Lab, conf: Conf, before: dict[str, dict[str, str]]
) -> None:
    conf.broken_off("up", "-c", CONFIG, at=lambda line: "copied" in line)
    conf.k8slite("down", "-c", CONFIG)
    assert now(site) == before
    conf.broken_off("up", "-c", CONFIG, at=lambda line: "etcd started" in line)
    conf.k8slite("down", "-c", CONFIG)
    assert now(site) == before


def test_an_install_that_broke_off_is_run_again_and_docker_ends_as_it_was(
    site: Lab, conf: Conf
) -> None:
    third = site.nodes[2]
    third.run("/etc/init.d/docker", "stop")
    before = now(site)
    conf.broken_off("up", "-c", CONFIG, at=lambda line: "agent started" in line)
    said = conf.k8slite("up", "-c", CONFIG)
    assert "Cluster validation succeeded" in said
    assert third.docker_answers()
    conf.k8slite("down", "-c", CONFIG)
    assert now(site) == before
    third.run("/etc/init.d/docker", "start")


def test_commands_that_need_a_cluster_say_that_there_is_none(conf: Conf) -> None:
    for words in (
        ("upgrade",),
        ("remove-node", "192.168.0.12"),
        ("add-node", "core@192.168.0.13"),
    ):
        reasons = conf.refused(*words, "-c", CONFIG)
        assert any("there is no cluster" in reason for reason in reasons)
    assert "Done: every host is as it was found." in conf.k8slite("down", "-c", CONFIG)
