"""Logins: a failed command, a lost connection and a refused login are three things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from k8slite.deploy import ssh
from k8slite.deploy.cluster import NodeSpec
from k8slite.deploy.ssh import Access, Failed, Host, Lost, SshError
from k8slite.kit.clock import Clock

NODE = NodeSpec("core", "127.0.0.1", "ai")


class Site:
    """An SSH server whose commands run here, as whoever runs the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.key.write_private_key(folder / "id")
        self.key.write_public_key(folder / "authorized")
        self.server: asyncssh.SSHAcceptor | None = None
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.commands: list[str] = []

    async def start(self, host_key: asyncssh.SSHKey) -> None:
        self.server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=str(self.folder / "authorized"),
            process_factory=self._run,
            encoding=None,
        )

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.get_port())

    def access(self, identity: str = "id", *, learn: bool = True) -> Access:
        return Access(
            identity=self.folder / identity,
            known_hosts=self.folder / "known_hosts",
            port=self.port,
            learn=learn,
        )

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or ""
        self.commands.append(command)
        if "HANG UP" in command:
            process.channel.get_connection().abort()
            return
        child = await asyncio.create_subprocess_exec(
            "env", "SSH_CONNECTION=192.0.2.7 1 192.0.2.8 22", "sh", "-c", command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await child.communicate(await process.stdin.read())
        process.stdout.write(out)
        process.stderr.write(err)
        process.exit(child.returncode or 0)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await made.start(asyncssh.generate_private_key("ssh-ed25519"))
    yield made
    assert made.server is not None
    made.server.close()
    await made.server.wait_closed()


@pytest.fixture
async def host(site: Site) -> AsyncIterator[Host]:
    async with ssh.hosts(site.access(), Clock()) as hosts:
        yield await hosts.connect(NODE)


async def test_a_script_runs_as_root_with_its_input_and_answers(host: Host) -> None:
    lines: list[str] = []
    done = await host.root("cat; echo 'it'\\''s' >&2", b"one\ntwo\n", line=lines.append)
    assert (done.code, done.out, done.err) == (0, "one\ntwo\n", "it's\n")
    assert lines == ["one", "two"]
    assert host.seen_from == "192.0.2.7"


async def test_a_failed_command_says_its_last_words(host: Host) -> None:
    with pytest.raises(Failed) as failure:
        await host.root("echo why >&2; exit 3", what="the installation")
    assert (failure.value.code, failure.value.said) == (3, "why")
    text = "core@127.0.0.1: the installation failed (exit code 3): why"
    assert str(failure.value) == text
    assert (await host.root("exit 4", check=False)).code == 4


async def test_a_lost_connection_is_not_a_failed_command(host: Host) -> None:
    with pytest.raises(Lost, match="the connection broke"):
        await host.root("HANG UP")


async def test_a_file_is_sent_and_told_of(host: Host, tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.write_bytes(bytes(range(256)) * 4000)
    sent: list[int] = []
    await host.send(source, f"cat >{tmp_path}/copy", what="copying", progress=sent.append)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert sum(sent) == source.stat().st_size
    with pytest.raises(Failed, match=r"copying failed \(exit code 2\): full"):
        await host.send(source, "cat >/dev/null; echo full >&2; exit 2", what="copying")
    with pytest.raises(Lost):
        await host.send(source, "HANG UP", what="copying")


async def test_a_new_host_key_is_written_down_once_and_then_must_be_the_same(site: Site) -> None:
    for expected in (True, False):
        async with ssh.hosts(site.access(), Clock()) as hosts:
            host = await hosts.connect(NODE)
            assert host.fingerprint.startswith("ssh-ed25519 SHA256:") is expected
    known = (site.folder / "known_hosts").read_text()
    assert known.startswith(f"[127.0.0.1]:{site.port} ssh-ed25519 ")
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (site.folder / "known_hosts").write_text(f"[127.0.0.1]:{site.port} {other}")
    async with ssh.hosts(site.access(), Clock()) as hosts:
        with pytest.raises(SshError, match="its host key is not the one in"):
            await hosts.connect(NODE)


async def test_who_only_looks_writes_no_key_down(site: Site) -> None:
    async with ssh.hosts(site.access(learn=False), Clock()) as hosts:
        await hosts.connect(NODE)
    assert not (site.folder / "known_hosts").exists()


async def test_a_key_that_is_not_accepted_is_told_with_the_mend(site: Site) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(site.folder / "other")
    async with ssh.hosts(site.access("other"), Clock()) as hosts:
        with pytest.raises(SshError, match="does not accept our key: ssh-copy-id core@127"):
            await hosts.connect(NODE)


async def test_many_hosts_answer_each_for_itself(site: Site) -> None:
    nobody = NodeSpec("core", "127.0.0.2", "i")
    async with ssh.hosts(site.access(), Clock()) as hosts:
        answers = await hosts.all([NODE, nobody])
    assert isinstance(answers["127.0.0.1"], Host)
    assert "127.0.0.2: cannot be reached: Connection refused" in str(answers["127.0.0.2"])


@pytest.mark.parametrize("known", ["secret", None])
async def test_sudos_password_is_asked_once_and_is_in_no_command(
    site: Site, monkeypatch: pytest.MonkeyPatch, known: str | None
) -> None:
    """With programs in the place of ``id`` and ``sudo`` that play a user who is not root."""
    programs = site.folder / "bin"
    programs.mkdir()
    sudo = '#!/bin/sh\ncase "$*" in "-n "*) exit 1;; esac\nread -r said\n'
    sudo += '[ "$said" = secret ] || { echo no >&2; exit 1; }\nshift 5\nexec "$@"\n'
    for name, text in {"sudo": sudo, "id": "#!/bin/sh\necho 1000\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    asked: list[str] = []

    async def ask(login: str) -> str | None:
        asked.append(login)
        return known

    access = site.access()
    access.ask_password = ask
    async with ssh.hosts(access, Clock()) as hosts:
        if known is None:
            with pytest.raises(SshError, match="sudo asks for a password: give --sudo-password"):
                await hosts.connect(NODE)
        else:
            host = await hosts.connect(NODE)
            for _ in range(2):
                assert (await host.root("cat", b"data")).out == "data"
    assert asked == ["core@127.0.0.1"]
    assert not [command for command in site.commands if "secret" in command]
