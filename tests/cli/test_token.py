"""``k8slite token``: the token, and the command that is typed on the new node."""

from __future__ import annotations

from conftest import Ctl

from cluster import NODE, Cluster


def test_the_token_and_the_whole_command_are_printed(command: Ctl, cluster: Cluster) -> None:
    said = command("token", "-s", cluster.server)
    assert said.code == 0, said.err
    token, port = said.lines[0], cluster.settings.secure_port
    assert token.partition(".")[2] == (
        (cluster.settings.data_dir / "pki" / "join.token").read_text().strip()
    )
    wanted = f"k8slite agent --roles i --server https://{NODE}:{port} --token {token}"
    assert said.lines[-1].strip() == wanted


def test_another_token_is_made_when_asked_for(command: Ctl, cluster: Cluster) -> None:
    before = command("token", "-s", cluster.server).lines[0]
    after = command("token", "--rotate", "-s", cluster.server).lines[0]
    assert after != before
    assert command("token", "-s", cluster.server).lines[0] == after


def test_what_goes_wrong_is_one_line(command: Ctl) -> None:
    said = command("token", "-s", "http://127.0.0.1:9")
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert "The connection to the server 127.0.0.1:9 was refused" in said.err
